"""Which scale each element of a tensor is divided by, and which dtype the result has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from .base import Format
from .errors import FormatError
from .float import Float

CARRIERS: dict[torch.dtype, Format] = {
    torch.float16: Float(5, 10, name="float16"),
    torch.bfloat16: Float(8, 7, name="bfloat16"),
    torch.float32: Float(8, 23, name="float32"),
    torch.float64: Float(11, 52, name="float64"),
}
"""The formats that a tensor's dtype is."""


@dataclass(frozen=True)
class ScaleLayout:
    """How many scales a tensor has: one (the default), one an index of `axis`, or one for each `size` neighbours along it.

    The scale's shape is, for a tensor of shape (..., n, ...): any shape of one element; n elements; (..., ceil(n / size), ...),
    the last group being short where size does not divide n.

    Args:
        axis: the axis of channels or groups, negative from the end; None for one scale.
        size: neighbours a group; None for one scale an index.

    Raises:
        FormatError: a size without an axis, or below 1.
    """

    axis: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (self.axis is None or self.size < 1):
            raise FormatError(f"size: got {self.size}, axis {self.axis}; allowed: a whole number from 1 on and an axis", "size")


PER_TENSOR = ScaleLayout()


class Geometry(NamedTuple):
    """Which scale an element takes, as kernels see it.

    The elements, in row-major order, fall into rows of `row` elements and these into segments of `length` (the last one of a
    row may be short). Element i of segment g of row r takes scale
    ((r div period) blocks + (r mod period) div size) step + g + stride i.
    """

    row: int = 1
    length: int = 1
    stride: int = 0
    period: int = 1
    blocks: int = 0
    size: int = 1
    step: int = 0

    def scale_index(self, count: int, device: torch.device) -> torch.Tensor:
        """The index of the scale of elements 0 .. count - 1."""
        i = torch.arange(count, device=device)
        r, place = i // self.row, i % self.row
        first = ((r // self.period) * self.blocks + (r % self.period) // self.size) * self.step
        return first + place // self.length + self.stride * (place % self.length)


UNSCALED = Geometry()


def geometry(shape: torch.Size, scale: torch.Tensor, layout: ScaleLayout) -> Geometry:
    """The geometry of a tensor of this shape under a layout; a scalar counts as one element.

    Raises:
        FormatError: no such axis, or a scale of another shape than the layout's.
    """
    count = shape.numel()
    if layout.axis is None:
        _check_shape(scale, scale.numel() == 1, "one element")
        return Geometry(max(count, 1), max(count, 1))
    shape = shape or torch.Size((1,))
    if not -len(shape) <= layout.axis < len(shape):
        allowed = f"{-len(shape)} to {len(shape) - 1}"
        raise FormatError(f"axis: got {layout.axis} for a tensor of shape {tuple(shape)}; allowed: {allowed}", "axis")
    axis = layout.axis % len(shape)
    n, inner = max(shape[axis], 1), max(shape[axis + 1 :].numel(), 1)
    if layout.size is None:
        _check_shape(scale, scale.numel() == shape[axis], f"{shape[axis]} elements")
        return Geometry(n, n, stride=1) if inner == 1 else Geometry(inner, inner, period=n, step=1)
    groups = -(-n // layout.size)
    expected = (*shape[:axis], -(-shape[axis] // layout.size), *shape[axis + 1 :])
    _check_shape(scale, tuple(scale.shape) == expected, f"shape {expected}")
    if inner == 1:
        return Geometry(n, layout.size, blocks=groups, step=1)
    return Geometry(inner, inner, stride=1, period=n, blocks=groups, size=layout.size, step=inner)


def _check_shape(scale: torch.Tensor, fits: bool, expected: str) -> None:
    if not fits:
        raise FormatError(f"scale: got shape {tuple(scale.shape)}; allowed: {expected}", "scale")


@lru_cache(maxsize=1024)
def result_dtype(fmt: Format, dtype: torch.dtype) -> torch.dtype:
    """The input's dtype where that holds every value of the format, else the smaller of float32 and float64 that does.

    Raises:
        FormatError: tensors of this dtype are not rounded.
    """
    if dtype not in CARRIERS:
        raise FormatError(f"dtype: got {dtype}; allowed: {', '.join(str(d) for d in CARRIERS)}")
    return dtype if fmt.holds(dtype) else fmt.carrier
