"""The wire between data-parallel processes: gradients in a declared format.

Annotations are evaluated here: DistributedDataParallel compares those of a hook with the classes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from hwsim.casting import apply, magnitude_max, scale_of
from hwsim.casts import Cast
from hwsim.errors import ConfigError

from .engine import Engine
from .phases import Phase

Hook = Callable[[Any, Any], torch.futures.Future[Tensor]]


def gradient_hook(engine: Engine, rest: Callable[[], AbstractContextManager[None]]) -> Hook:
    """A communication hook for DistributedDataParallel: the mean of the gradients of N ranks in the datapath's `wire` format.

    Each rank sends cast(g / N); the shares are added in the order of the ranks in float32, and the sum is cast once more. A
    scale is common to all ranks, found from the largest |g| of any of them, so that the sum fits. Every rank gets the same bits.

    Raises:
        ConfigError: the datapath declares no wire format.
    """
    cast = engine.sites.datapath.wire
    if cast is None:
        raise ConfigError("wire: the datapath declares no wire format; allowed: `wire: {format: ...}`")

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        with rest():
            mean = _mean(engine, cast, bucket.buffer(), bucket.index())
        engine.audit.other(Phase.CALLBACK, "all_reduce", f"bucket {bucket.index()}", "wire", cast, mean.numel())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(mean)
        return done

    return hook


def _mean(engine: Engine, cast: Cast, gradient: Tensor, bucket: int) -> Tensor:
    ranks = dist.get_world_size()
    scale = _common_scale(cast, gradient)
    share = apply(cast, gradient / ranks, engine.draws(f"wire/{bucket}/share", 0, True), kept=scale)
    shares = [torch.empty_like(share) for _ in range(ranks)]
    dist.all_gather(shares, share)
    total = shares[0]
    for other in shares[1:]:
        total = total + other
    return apply(cast, total, engine.draws(f"wire/{bucket}/sum", 0, False), kept=scale)


def _common_scale(cast: Cast, gradient: Tensor) -> Tensor | None:
    if cast.scaling is None or not cast.scaled:
        return None
    amax = magnitude_max(gradient)
    dist.all_reduce(amax, dist.ReduceOp.MAX)
    return scale_of(amax, cast.scaling, cast.format)[0]
