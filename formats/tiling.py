"""How a tensor falls into blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .block import Block
from .errors import FormatError
from .scaled import Geometry


class Tiling(NamedTuple):
    """A contiguous tensor as `outer` matrices of `rows` x `columns`, in blocks of `height` x `width`; the last may be short."""

    outer: int
    rows: int
    columns: int
    height: int
    width: int

    @property
    def bands(self) -> int:
        """Rows of blocks in a matrix."""
        return -(-self.rows // self.height)

    @property
    def strips(self) -> int:
        """Columns of blocks in a matrix."""
        return -(-self.columns // self.width)

    @property
    def blocks(self) -> int:
        """All blocks."""
        return self.outer * self.bands * self.strips

    @property
    def geometry(self) -> Geometry:
        """Which scale each element takes of one a block."""
        return Geometry(self.columns, self.width, 0, self.rows, self.bands, self.height, self.strips)

    def gather(self, x: torch.Tensor, fill: bool = False) -> torch.Tensor:
        """x as (outer, bands, height, strips, width), short blocks filled."""
        short = (0, -self.columns % self.width, 0, -self.rows % self.height)
        padded = torch.nn.functional.pad(x.reshape(self.outer, self.rows, self.columns), short, value=fill)
        return padded.view(self.outer, self.bands, self.height, self.strips, self.width)

    def spread(self, scales: torch.Tensor) -> torch.Tensor:
        """For each element, in row-major order, its block's scale, from (outer, bands, strips) scales."""
        full = scales.view(self.outer, self.bands, 1, self.strips, 1).expand(-1, -1, self.height, -1, self.width)
        matrices = full.reshape(self.outer, self.bands * self.height, self.strips * self.width)
        return matrices[:, : self.rows, : self.columns].reshape(-1)


def tiling(shape: torch.Size, fmt: Block, axis: int) -> tuple[Tiling, tuple[int, ...]]:
    """The tiling of a tensor of this shape, and the shape of its block scales: the tensor's, in blocks along the blocked axes.

    Args:
        shape: the tensor's; a scalar counts as one element.
        fmt: the format; a 2-D tile lies over the last two axes.
        axis: the axis of 1-D blocks, negative from the end.

    Raises:
        FormatError: no such axis, or a short last block under `remainder: error`.
    """
    full = tuple(shape) or (1,)
    if fmt.tile is not None:
        if len(full) < 2:
            given = f"got {fmt.tile} for a tensor of shape {tuple(shape)}"
            raise FormatError(f"tile: {given}; allowed: tensors of at least 2 axes", "tile")
        blocked = dict(zip((len(full) - 2, len(full) - 1), fmt.tile, strict=True))
    else:
        if not -len(full) <= axis < len(full):
            given = f"got {axis} for a tensor of shape {tuple(shape)}"
            raise FormatError(f"axis: {given}; allowed: {-len(full)} to {len(full) - 1}", "axis")
        blocked = {axis % len(full): fmt.elements}
    short = next((a for a, n in blocked.items() if full[a] % n), None)
    if short is not None and fmt.remainder == "error":
        raise FormatError(
            f"remainder: axis {short} has {full[short]} elements, blocks have {blocked[short]}; "
            "allowed: multiples of it, or `remainder: fill`",
            "remainder",
        )
    scales = tuple(-(-n // blocked[a]) if a in blocked else n for a, n in enumerate(full))
    return _tiling(full, blocked, short is not None), scales


def _tiling(full: tuple[int, ...], blocked: dict[int, int], short: bool) -> Tiling:
    first, last = min(blocked), max(blocked)
    outer, inner = torch.Size(full[:first]).numel(), torch.Size(full[last + 1 :]).numel()
    if first != last:
        return Tiling(outer, full[first], full[last], blocked[first], blocked[last])
    if inner != 1:
        return Tiling(outer, full[first], inner, blocked[first], 1)
    if short:
        return Tiling(1, outer, full[first], 1, blocked[first])
    return Tiling(1, 1, outer * full[first], 1, blocked[first])
