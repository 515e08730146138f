"""A step of torch's SGD in parts of a tensor that stay in the cache for the prox map after it; the same bits as torch's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from .level_kernels import AFTER_SGD, sgd
from .loops import Loop, flat


def fused_step(
    base: torch.optim.Optimizer, options: Mapping[str, Any], latent: torch.Tensor, gradient: torch.Tensor | None, draw: Loop
) -> Loop | None:
    """What makes a step of torch's SGD and then `draw`, a piece at a time; None where the step would not have torch's bits.

    It has those of the plain SGD, one tensor at a time: torch's fused one, subclasses, sparse gradients, tensors as rates, and
    first steps with momentum, which make the buffer, are left to torch; so are loops that are not those of this package's maps.
    """
    step, both = _sgd_operands(base, options, latent, gradient), AFTER_SGD.get(draw.body)
    if step is None or both is None:
        return None
    return Loop(both, (step, draw.operands), draw.elements)


def _sgd_operands(
    base: torch.optim.Optimizer, options: Mapping[str, Any], latent: torch.Tensor, gradient: torch.Tensor | None
) -> tuple[Any, ...] | None:
    if type(base) is not torch.optim.SGD or gradient is None or not _rounds_as_torch():
        return None
    buffer = base.state.get(latent, {}).get("momentum_buffer") if options["momentum"] else gradient
    arrays = (latent, gradient, buffer)
    if not all(_is_plain(a, latent) for a in arrays) or any(options[name] for name in ("foreach", "fused", "differentiable")):
        return None
    numbers = [options[name] for name in ("weight_decay", "momentum", "dampening", "lr")]
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    parts = [flat(a) for a in arrays]
    decay, momentum, dampening, rate = numbers
    scalars = [parts[0].dtype.type(number) for number in (decay, momentum, 1 - dampening, -rate)]
    return *parts, *scalars, bool(decay), bool(options["nesterov"]), bool(options["maximize"])


def _is_plain(a: torch.Tensor | None, like: torch.Tensor) -> bool:
    if type(a) is not torch.Tensor or a.layout is not torch.strided:
        return False
    return a.is_cpu and a.dtype is like.dtype and a.is_contiguous()


@cache
def _rounds_as_torch() -> bool:
    """Whether torch's `add` with a factor rounds once on this machine, as the loops do; without such instructions it does not."""
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.randn(259, generator=draw, dtype=dtype) for _ in range(2))
        own = a.clone().numpy()
        zero, rate = own.dtype.type(0), own.dtype.type(-0.1)
        sgd(0, len(own), own, b.numpy(), b.numpy(), zero, zero, zero, rate, False, False, False)
        if not torch.equal(a.add(b, alpha=-0.1), torch.from_numpy(own)):
            return False
    return True
