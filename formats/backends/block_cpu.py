"""Blocks on the CPU by compiled loops, split over torch's number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwsim.formats.block_lowering import ERROR, EVEN, SCALE_INTEGERS, TWO_LEVEL, BlockRule, ScaleNumbers
from hwsim.formats.level_lowering import numbers_of
from hwsim.formats.lowering import lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS
from hwsim.formats.tiling import Tiling

from .block_kernels import NEAREST_POWER, PIECE, round_pieces, run_tops
from .block_loops import MANTISSA_BITS, SMALLEST_EXPONENT
from .cpu import CONVERTED, NO_DRAW, RECORD, WIDE, readable
from .fast import NEAREST_SCALED, fast_loop
from .magnitude_cpu import LIMITS, largest_magnitudes
from .memory import empty_like
from .nearest_loops import INFINITY
from .refusal import refuse_nan, refuse_special
from .threads import in_threads

NUMBERS = np.dtype([(name, np.int64 if i < SCALE_INTEGERS else np.float64) for i, name in enumerate(ScaleNumbers._fields)])
SCALE_DIGITS = 29
"""With random numbers of 24 bits, within float64."""
QUOTIENT_DIGITS = 49
"""A quotient of float32 by such a scale that is no tie is farther from one than float64 can see."""
SINGLE_DIGITS, SMALLEST_SINGLE = 24, -149


def round_blocks(
    x: Tensor, rule: BlockRule, where: Tiling, draw: Sequence[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x rounded block by block, in `dtype` with x's strides; the scales, flat; the tensor's scale.

    Raises:
        FormatError: NaN or infinity where the rule refuses them.
    """
    source = (x.detach() if x.requires_grad else x).contiguous()
    loop = _loop(rule, dtype) if source.dtype is not torch.float64 else None
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    if rule.numbers.special == ERROR and not bool(x.isfinite().all()):
        refuse_special(x)
    out, scales = empty_like(source, dtype), torch.empty(where.blocks, dtype=scale_dtype)
    tops, largest = _tops(source, rule.numbers, where)
    levels = _levels(source, rule.numbers, largest)
    if x.numel():
        records = _records(rule, dtype)
        narrow = records[0][1] if loop is not None and dtype is not wide else None
        rest = scales.numpy(), tuple(where), levels, tops, tuple(draw) or NO_DRAW, records, loop, narrow
        if any(_in_pieces(source.view(-1), out.view(-1), where, rest)) and numbers_of(rule.element).refuses_nan:
            refuse_nan(x, out)
    tensor = torch.tensor(levels[1], dtype=torch.float32)
    same = source is x and x.is_contiguous()
    return (out if same else torch.empty_like(x, dtype=dtype).copy_(out)), scales, tensor


def _in_pieces(x: Tensor, out: Tensor, where: Tiling, rest: tuple[Any, ...]) -> list[bool]:
    """The loop on all pieces. Of the narrow dtypes, which it cannot read, some at a time: neighbours in memory."""
    span = max(where.width, PIECE // where.width * where.width)
    band = -(-where.columns // span)
    pieces = where.outer * where.bands * band
    if x.dtype in WIDE and out.dtype in WIDE:
        given, made = x.numpy(), out.numpy()
        return in_threads(lambda low, high: _round(low, high, given, made, 0, rest), pieces, x.numel())
    together = band if where.height > 1 else max(CONVERTED // span, 1)

    def convert(low: int, high: int) -> bool:
        found = False
        for first in range(low, high, together):
            last = min(first + together, high)
            start, end = _start(first, where, band, span), _start(last, where, band, span)
            part = readable(x[start:end])
            rounded = torch.empty_like(part, dtype=out.dtype if out.dtype in WIDE else torch.float32)
            found |= _round(first, last, part.numpy(), rounded.numpy(), start, rest)
            out[start:end] = rounded
        return found

    return in_threads(torch.inference_mode()(convert), pieces, x.numel(), together)


def _round(low: int, high: int, x: npt.NDArray[Any], out: npt.NDArray[Any], origin: int, rest: tuple[Any, ...]) -> bool:
    integers, limits = LIMITS[torch.float64 if x.dtype == np.float64 else torch.float32]
    return bool(round_pieces(low, high, x, out, origin, x.view(integers), limits, *rest))


def _start(piece: int, where: Tiling, band: int, span: int) -> int:
    """The tensor's element where a piece begins, `band` of them a row of blocks."""
    matrix, row = divmod(piece // band, where.bands)
    return (matrix * where.rows + row * where.height) * where.columns + piece % band * span


def _tops(x: Tensor, numbers: ScaleNumbers, where: Tiling) -> tuple[npt.NDArray[Any], float | None]:
    """The bits of the blocks' largest magnitudes, and the tensor's, where `two_level` needs it before it rounds a block.

    None where it does not, blocks are no runs of elements, or one has NaN or an infinity, and for float64.
    """
    none, run = (np.empty(0, np.int32), None), where.height == 1 and where.columns % where.width == 0
    if numbers.rule != TWO_LEVEL or x.dtype is torch.float64 or not run or not x.numel():
        return none
    tops, flat = np.empty(where.blocks, np.int32), x.view(-1)
    step = where.blocks if x.dtype is torch.float32 else max(CONVERTED // where.width, 1)

    def find(low: int, high: int) -> int:
        worst = 0
        for first in range(low, high, step):
            last = min(first + step, high)
            part = readable(flat[first * where.width : last * where.width])
            worst = max(worst, int(run_tops(part.numpy().view(np.int32), tops[first:last], where.width)))
        return worst

    worst = max(in_threads(find, tops.size, x.numel()))
    return (tops, float(np.int32(worst).view(np.float32))) if worst < INFINITY else none


def _levels(x: Tensor, numbers: ScaleNumbers, largest: float | None) -> npt.NDArray[Any]:
    """S and t of the rule `two_level`, from the largest finite magnitude where it is known; ones elsewhere."""
    if numbers.rule != TWO_LEVEL or not x.numel():
        return np.ones(2)
    single = np.finfo(np.float32)
    if largest is None:
        parts = (x,) if x.dtype in WIDE else torch.split(x.view(-1), CONVERTED)
        largest = max(float(largest_magnitudes(readable(part), 1)) for part in parts)
    amax = np.float32(min(largest, float(single.max)))
    if amax == 0:
        return np.ones(2)
    with np.errstate(over="ignore"):
        encoding = np.minimum(np.float32(numbers.top) / amax, single.max)
    return np.array([encoding, np.float32(1) / encoding], np.float64)


def _loop(rule: BlockRule, dtype: torch.dtype) -> int | None:
    """The loop for float32 elements: where a quotient by a scale stays off ties, and the product is rounded once."""
    numbers, element = rule.numbers, numbers_of(rule.element)
    digits = numbers.digits + numbers.mantissa_bits + 1
    if dtype is torch.float64:
        return None
    if numbers.rule == TWO_LEVEL:
        return fast_loop(element, False)
    if numbers.digits > SCALE_DIGITS or digits > QUOTIENT_DIGITS:
        return None
    loop = fast_loop(element, True)
    power = numbers.rule <= EVEN and numbers.low >= -127 and numbers.high <= 127
    single = element.mantissa_bits < MANTISSA_BITS and element.smallest_exponent > SMALLEST_EXPONENT
    exact = dtype is torch.float32 or (digits <= SINGLE_DIGITS and numbers.smallest >= SMALLEST_SINGLE)
    return NEAREST_POWER if loop == NEAREST_SCALED and power and single and exact else loop


@lru_cache(maxsize=1024)
def _records(rule: BlockRule, dtype: torch.dtype) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The rules of elements, of the result's dtype, of scales and of trials, and the scales' numbers, for the kernels."""
    carrier = lower(CARRIERS[dtype], Projection(overflow="infinity"))
    rules = np.array([tuple(r) for r in (rule.element, carrier, rule.scale, rule.trial)], dtype=RECORD)
    return rules, np.array([tuple(rule.numbers)], dtype=NUMBERS)
