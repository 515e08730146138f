"""The operators under `torch.func.vmap`: every sample becomes, bit for bit, what it becomes alone.

All samples are rounded in one call. They are rounded one after another where each begins something anew: the words of a
stochastic rounding, the scale of a whole tensor that is found on the way, scales of its own for its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .block_lowering import TWO_LEVEL, unpack_block
from .scaled import Geometry
from .tiling import Tiling

Axes = Sequence[int | None]
"""For each argument the axis that the samples lie along; None where they share it."""
Blocks = tuple[Tensor, Tensor, Tensor]


def round_samples(
    quantize: Callable[..., Tensor], info: Any, axes: Axes, x: Tensor, rule: str, scale: Tensor | None, where: Sequence[int],
    draw: Sequence[int], dtype: torch.dtype,
) -> tuple[Tensor, int]:  # fmt: skip
    """The rule of `hwsim::quantize` (see `torch.library.register_vmap`)."""
    count, scales, at, anew = info.batch_size, scale, Geometry(*where), bool(draw)
    if scale is not None and at.blocks:
        scales = _together(scale, axes[2], count)
    elif scale is not None and axes[2] is not None:
        anew |= bool(at.stride or at.step)
        scales, at = scale.movedim(axes[2], 0), at._replace(blocks=1, step=1)
    if not (anew and count):
        return quantize(_together(x, axes[0], count), rule, scales, at, draw, dtype), 0
    each = (quantize(_one(x, axes[0], n), rule, _one(scale, axes[2], n), where, draw, dtype) for n in range(count))
    return torch.stack(list(each)), 0


def round_samples_in_blocks(
    quantize: Callable[..., Blocks], info: Any, axes: Axes, x: Tensor, rule: str, where: Sequence[int], draw: Sequence[int],
    dtype: torch.dtype, scale_dtype: torch.dtype,
) -> tuple[Blocks, tuple[int, int, int | None]]:  # fmt: skip
    """The rule of `hwsim::quantize_block`."""
    count, at, samples = info.batch_size, Tiling(*where), _together(x, axes[0], info.batch_size)
    if count and (draw or unpack_block(rule).numbers.rule == TWO_LEVEL):
        each = [quantize(sample, rule, at, draw, dtype, scale_dtype) for sample in samples]
        values, scales, tensor = (torch.stack(part) for part in zip(*each, strict=True))
        return (values, scales, tensor), (0, 0, 0)
    values, scales, tensor = quantize(samples, rule, at._replace(outer=at.outer * count), draw, dtype, scale_dtype)
    return (values, scales.view(count, at.blocks), tensor), (0, 0, None)


def _together(x: Tensor, axis: int | None, count: int) -> Tensor:
    """Sample after sample."""
    return x.expand(count, *x.shape) if axis is None else x.movedim(axis, 0)


def _one(x: Tensor | None, axis: int | None, n: int) -> Tensor | None:
    return x if x is None or axis is None else x.select(axis, n)
