"""A step of torch's SGD in parts of a tensor that stay in the cache for the prox map after it; the same bits as torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from hwsim.formats.backends.threads import in_threads

from .nearest import Part

PIECE = 1 << 16
"""Elements of a piece: four float32 arrays of them are a MiB. Smaller ones fit nearer caches, but hand the interpreter's lock
over more often, which costs more."""
Array = npt.NDArray[np.floating]

if TYPE_CHECKING:

    def fma(a: float, b: float, c: float) -> float:
        """a b + c, rounded once."""
else:

    @intrinsic
    def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.fma(*args)

        return a(a, a, a), build


def fused_step(
    base: torch.optim.Optimizer, options: Mapping[str, Any], latent: torch.Tensor, gradient: torch.Tensor | None, draw: Part
) -> Callable[[], None] | None:
    """What makes a step of torch's SGD and then `draw`, a piece at a time; None where the step would not have torch's bits.

    It has those of the plain SGD, one tensor at a time: torch's fused one, subclasses, sparse gradients, tensors as rates, and
    first steps with momentum, which make the buffer, are left to torch.
    """
    step = _sgd_part(base, options, latent, gradient)
    if step is None:
        return None

    def both(low: int, high: int) -> None:
        for start in range(low, high, PIECE):
            end = min(start + PIECE, high)
            step(start, end)
            draw(start, end)

    def whole() -> None:
        in_threads(both, latent.numel(), latent.numel())

    return whole


def _sgd_part(
    base: torch.optim.Optimizer, options: Mapping[str, Any], latent: torch.Tensor, gradient: torch.Tensor | None
) -> Part | None:
    if type(base) is not torch.optim.SGD or gradient is None or not _rounds_as_torch():
        return None
    buffer = base.state.get(latent, {}).get("momentum_buffer") if options["momentum"] else gradient
    arrays = (latent, gradient, buffer)
    plain = all(type(a) is torch.Tensor and a.layout is torch.strided and a.is_contiguous() for a in arrays)
    numbers = [options[name] for name in ("weight_decay", "momentum", "dampening", "lr")]
    if not plain or any(options[name] for name in ("foreach", "fused", "differentiable")):
        return None
    if len({(a.dtype, a.device.type) for a in arrays}) > 1 or not all(isinstance(number, int | float) for number in numbers):
        return None
    u, g, b = (a.detach().view(-1).numpy() for a in arrays)
    decay, momentum, dampening, rate = numbers
    scalars = [u.dtype.type(number) for number in (decay, momentum, 1 - dampening, -rate)]
    decays, nesterov, maximize = bool(decay), bool(options["nesterov"]), bool(options["maximize"])
    if momentum:
        return _on(_with_momentum, (u, g, b), *scalars, decays, nesterov, maximize)
    return _on(_plain, (u, g), scalars[0], scalars[3], decays, maximize)


def _on(loop: Callable[..., None], arrays: tuple[Array, ...], *numbers: Any) -> Part:
    return lambda low, high: loop(*(a[low:high] for a in arrays), *numbers)


@njit(nogil=True, cache=True)
def _with_momentum(
    u: Array,
    g: Array,
    b: Array,
    decay: float,
    momentum: float,
    share: float,
    rate: float,
    decays: bool,
    nesterov: bool,
    maximize: bool,
) -> None:  # pragma: no cover
    for i in range(len(u)):
        slope = -g[i] if maximize else g[i]
        if decays:
            slope = fma(u[i], decay, slope)
        moved = fma(slope, share, b[i] * momentum)
        b[i] = moved
        u[i] = fma(fma(moved, momentum, slope) if nesterov else moved, rate, u[i])


@njit(nogil=True, cache=True)
def _plain(u: Array, g: Array, decay: float, rate: float, decays: bool, maximize: bool) -> None:  # pragma: no cover
    for i in range(len(u)):
        slope = -g[i] if maximize else g[i]
        if decays:
            slope = fma(u[i], decay, slope)
        u[i] = fma(slope, rate, u[i])


@cache
def _rounds_as_torch() -> bool:
    """Whether torch's `add` with a factor rounds once on this machine, as the loops do; without such instructions it does not."""
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.randn(259, generator=draw, dtype=dtype) for _ in range(2))
        own = a.clone().numpy()
        _plain(own, b.numpy(), own.dtype.type(0), own.dtype.type(-0.1), False, False)
        if not torch.equal(a.add(b, alpha=-0.1), torch.from_numpy(own)):
            return False
    return True
