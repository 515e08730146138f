"""A step of torch's SGD in parts of a tensor that stay in the cache for the prox map after it; the same bits as torch's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from .kernels import cells_in_rows, cells_of_few, flat, nearest_in_rows, nearest_of_few
from .loops import Loop

PIECE = 1 << 14
"""Elements of a piece: four float32 arrays of them are 256 KiB."""
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
    base: torch.optim.Optimizer, options: Mapping[str, Any], latent: torch.Tensor, gradient: torch.Tensor | None, draw: Loop
) -> Loop | None:
    """What makes a step of torch's SGD and then `draw`, a piece at a time; None where the step would not have torch's bits.

    It has those of the plain SGD, one tensor at a time: torch's fused one, subclasses, sparse gradients, tensors as rates, and
    first steps with momentum, which make the buffer, are left to torch; so are loops that are not those of this package's maps.
    """
    step, both = _sgd_operands(base, options, latent, gradient), _AFTER_SGD.get(draw.body)
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
    plain = all(type(a) is torch.Tensor and a.layout is torch.strided and a.is_contiguous() for a in arrays)
    numbers = [options[name] for name in ("weight_decay", "momentum", "dampening", "lr")]
    if not plain or any(options[name] for name in ("foreach", "fused", "differentiable")):
        return None
    if len({(a.dtype, a.device.type) for a in arrays}) > 1 or not all(isinstance(number, int | float) for number in numbers):
        return None
    parts = [flat(a) for a in arrays]
    decay, momentum, dampening, rate = numbers
    scalars = [parts[0].dtype.type(number) for number in (decay, momentum, 1 - dampening, -rate)]
    return *parts, *scalars, bool(decay), bool(options["nesterov"]), bool(options["maximize"])


@njit(nogil=True, cache=True)
def sgd(
    low: int,
    high: int,
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
    """A step of SGD on u with gradient g and, where there is momentum, its buffer b."""
    u, g, b = u[low:high], g[low:high], b[low:high]
    if momentum == 0:
        for i in range(len(u)):
            slope = -g[i] if maximize else g[i]
            if decays:
                slope = fma(u[i], decay, slope)
            u[i] = fma(slope, rate, u[i])
        return
    for i in range(len(u)):
        slope = -g[i] if maximize else g[i]
        if decays:
            slope = fma(u[i], decay, slope)
        moved = fma(slope, share, b[i] * momentum)
        b[i] = moved
        u[i] = fma(fma(moved, momentum, slope) if nesterov else moved, rate, u[i])


# One compiled loop for each map, with all pieces in it: a call from Python for each costs a hand-over of the interpreter's lock
# between threads, and a function made from two others is not found again in numba's cache.
@njit(nogil=True, cache=True)
def _sgd_nearest_of_few(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        nearest_of_few(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_nearest_in_rows(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        nearest_in_rows(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_cells_of_few(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        cells_of_few(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_cells_in_rows(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        cells_in_rows(start, end, *draw)


_AFTER_SGD: dict[Any, Any] = {
    nearest_of_few: _sgd_nearest_of_few,
    nearest_in_rows: _sgd_nearest_in_rows,
    cells_of_few: _sgd_cells_of_few,
    cells_in_rows: _sgd_cells_in_rows,
}


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
