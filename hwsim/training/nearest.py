"""Maps of rows of weights to rows of levels: the nearest level, and the cell of two levels around a weight."""

from __future__ import annotations

import torch

from hwsim.formats.backends.memory import empty_like

from .breakpoints import KERNEL_SIZE, watched
from .loops import Loop, at_once, flat

MAX_UNROLLED_LEVELS = 8


def nearest(u: torch.Tensor, levels: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The nearest level of each element, the lower of two that are equally near; NaN stays.

    Args:
        u: (rows, n).
        levels: (rows, levels), ascending.
        out: where the result goes; may be u itself.
    """
    if kernels_serve(u, out):
        out = empty_like(u) if out is None else out
        at_once([nearest_loop(u, levels, out)])
        return out
    middles = _middles(levels)
    place = torch.searchsorted(middles.contiguous(), u.contiguous())
    result = torch.where(u.isnan(), u, levels.gather(-1, place))
    return result if out is None else out.copy_(result)


def cells(u: torch.Tensor, levels: torch.Tensor, slope: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """clamp(c + (u - c) / slope, q, q') in the cell around each element, the PARQ map; arguments as `nearest`."""
    if kernels_serve(u, out):
        out = empty_like(u) if out is None else out
        at_once([cell_loop(u, levels, slope, out)])
        return out
    low, high = neighbours(u, levels)
    centre = (low + high) / 2
    result = torch.minimum(torch.maximum(centre + (u - centre) / slope, low), high)
    return result if out is None else out.copy_(result)


def nearest_loop(u: torch.Tensor, levels: torch.Tensor, out: torch.Tensor) -> Loop:
    """What writes the nearest level of some elements of u, where the kernels serve it."""
    from .level_kernels import nearest_in_rows, nearest_of_few

    values, marks = levels.contiguous().numpy(), _middles(levels).contiguous().numpy()
    if _are_few(levels):
        return Loop(nearest_of_few, (flat(u), flat(out), tuple(values[0]), tuple(marks[0])), u.numel())
    return Loop(nearest_in_rows, (flat(u), flat(out), u.shape[1], values, marks), u.numel())


def cell_loop(u: torch.Tensor, levels: torch.Tensor, slope: float, out: torch.Tensor) -> Loop:
    """What writes the PARQ map of some elements of u, where the kernels serve it."""
    from .level_kernels import cells_in_rows, cells_of_few

    values = levels.contiguous().numpy()
    numbers = values.dtype.type(slope), values.dtype.type(0.5)
    if _are_few(levels):
        return Loop(cells_of_few, (flat(u), flat(out), tuple(values[0]), *numbers), u.numel())
    return Loop(cells_in_rows, (flat(u), flat(out), u.shape[1], values, *numbers), u.numel())


def _are_few(levels: torch.Tensor) -> bool:
    """Few levels for a whole tensor: their number is then a constant of the kernel, whose loop runs in vector registers."""
    rows, count = levels.shape
    return rows == 1 and 1 < count <= MAX_UNROLLED_LEVELS


def _middles(levels: torch.Tensor) -> torch.Tensor:
    return (levels[:, :-1] + levels[:, 1:]) / 2


def kernels_serve(u: torch.Tensor, out: torch.Tensor | None) -> bool:
    """Whether u, and what is to be written, lie in memory as the compiled loops want them, and are large enough for them."""
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.is_contiguous() for t in (u, u if out is None else out))
    fits = u.device.type == "cpu" and u.dtype in (torch.float32, torch.float64) and u.numel() >= KERNEL_SIZE
    return plain and fits and not watched()


def neighbours(u: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbouring levels q < u <= q'; the outermost level twice beyond them."""
    place = torch.searchsorted(levels.contiguous(), u.contiguous())
    last = levels.shape[-1] - 1
    return levels.gather(-1, (place - 1).clamp(min=0)), levels.gather(-1, place.clamp(max=last))
