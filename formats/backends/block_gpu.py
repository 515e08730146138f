"""Blocks on GPUs by Triton kernels; with TRITON_INTERPRET=1, on the CPU by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hwsim.formats.block_lowering import ERROR, MSE, TWO_LEVEL, BlockRule
from hwsim.formats.level_lowering import AnyRule, LevelRule, numbers_of
from hwsim.formats.lowering import Rule, lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS
from hwsim.formats.tiling import Tiling

from .gpu import BLOCK, FAST_BLOCK, NO_DRAW, OPTIONS, check_device, grid, words
from .gpu import tables as level_tables
from .refusal import refuse_nan, refuse_special

TILE, WIDEST, TRIED = 2048, 512, 16
"""Elements that block_scales takes together, columns of one block among them, and blocks whose candidates are tried together."""


def round_blocks(
    x: Tensor, rule: BlockRule, where: Tiling, draw: Sequence[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x rounded block by block, in `dtype` with x's strides; the scales, flat; the tensor's scale.

    Raises:
        FormatError: NaN or infinity where the rule refuses them; x is not on a GPU, and nothing interprets the kernels.
    """
    check_device(x)
    if rule.numbers.special == ERROR and not bool(x.isfinite().all()):
        refuse_special(x)
    source = x.detach().contiguous()
    out = torch.empty_like(source, dtype=dtype)
    scales = torch.empty(where.blocks, dtype=torch.float64, device=x.device)
    tensor = torch.ones((), dtype=torch.float32, device=x.device)
    refuses = numbers_of(rule.element).refuses_nan
    found = torch.zeros(1, dtype=torch.int32, device=x.device) if refuses else None
    if x.numel():
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _launch(source, out, scales, tensor, rule, found, where, tuple(draw) or NO_DRAW)
    if found is not None and found.item():
        refuse_nan(x, out)
    values = out if out.stride() == x.stride() else torch.empty_like(x, dtype=dtype).copy_(out)
    return values, scales.to(scale_dtype), tensor


def _launch(
    x: Tensor,
    out: Tensor,
    scales: Tensor,
    tensor: Tensor,
    rule: BlockRule,
    found: Tensor | None,
    where: Tiling,
    draw: tuple[int, ...],
) -> None:
    """Find the tensor's scale and the blocks' scales, then round; `found` is set where an element becomes NaN."""
    from . import gpu_blocks as kernels

    (rules, numbers), fields, count = _packed(rule, out.dtype, x.device), len(Rule._fields), x.numel()
    shape = where.bands, where.strips, *where[1:]
    top = torch.zeros((), dtype=torch.int64 if x.dtype is torch.float64 else torch.int32, device=x.device)
    if rule.numbers.rule == TWO_LEVEL:
        kernels.largest_magnitude[grid(count, FAST_BLOCK)](x, top, count, FAST_BLOCK, **OPTIONS)
    chunk = min(_power_of_two(where.width), WIDEST)
    beside = min(TILE // chunk, _power_of_two(where.blocks))
    blocks = where.blocks, *shape, fields, beside
    kernels.block_scales[grid(where.blocks, beside)](x, scales, tensor, top, rules, numbers, *blocks, chunk, **OPTIONS)
    if rule.numbers.rule == MSE:
        beside, trial = min(TRIED, _power_of_two(where.blocks)), _tables(rule.trial, x.device)
        blocks = where.blocks, *shape, fields, beside
        kernels.best_scales[grid(where.blocks, beside)](x, scales, rules, numbers, *trial, *blocks, **OPTIONS)
    tables = _tables(rule.element, x.device)
    rest = scales, tensor, found, count, *shape, *draw, fields, BLOCK
    kernels.round_elements[grid(count, BLOCK)](x, out, rules, numbers, *tables, *rest, **OPTIONS)


def _tables(rule: AnyRule, device: torch.device) -> tuple[Tensor | None, Tensor | None, int]:
    """Outcomes, keys and half their padded number, of a rule of levels."""
    if not isinstance(rule, LevelRule):
        return None, None, 0
    values, keys = level_tables(rule, device)
    return values, keys, len(values) >> 1


def _power_of_two(n: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=1024)
def _packed(rule: BlockRule, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rules of elements, of the result's dtype, of scales and of trials, and the scales' numbers, as kernels take them."""
    carrier = lower(CARRIERS[dtype], Projection(overflow="infinity"))
    rules = numbers_of(rule.element), carrier, rule.scale, numbers_of(rule.trial)
    return words([field for one in rules for field in one], device), words(rule.numbers, device)
