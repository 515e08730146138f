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

from .block_kernels import NEAREST_POWER, PIECE, round_pieces
from .block_loops import MANTISSA_BITS, SMALLEST_EXPONENT
from .cpu import NO_DRAW, RECORD, readable
from .fast import NEAREST_SCALED, fast_loop
from .magnitude_cpu import LIMITS, largest_magnitudes
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
    source = readable(x)
    loop = _loop(rule, dtype) if source.dtype is torch.float32 else None
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    if rule.numbers.special == ERROR and not bool(x.isfinite().all()):
        refuse_special(x)
    out, scales = torch.empty_like(source, dtype=wide), np.empty(where.blocks)
    flat, integers = source.numpy().reshape(-1), LIMITS[source.dtype]
    levels = _levels(source, rule.numbers)
    if flat.size:
        span = max(where.width, PIECE // where.width * where.width)
        pieces = where.outer * where.bands * -(-where.columns // span)
        arguments = (
            flat,
            flat.view(integers[0]),
            integers[1],
            out.numpy().reshape(-1),
            scales,
            tuple(where),
            levels,
        )
        records = _records(rule, dtype)
        narrow = records[0][1] if loop is not None and dtype is not wide else None
        rest = tuple(draw) or NO_DRAW, records, loop, narrow
        found = any(in_threads(lambda low, high: bool(round_pieces(low, high, *arguments, *rest)), pieces, flat.size))
        if found and numbers_of(rule.element).refuses_nan:
            refuse_nan(x, out)
    values = out if out.dtype is dtype else out.to(dtype)
    tensor = torch.tensor(levels[1], dtype=torch.float32)
    same = source is x and x.is_contiguous()
    return (values if same else torch.empty_like(x, dtype=dtype).copy_(values)), torch.from_numpy(scales).to(scale_dtype), tensor


def _levels(x: Tensor, numbers: ScaleNumbers) -> npt.NDArray[Any]:
    """S and t of the rule `two_level`, ones elsewhere."""
    if numbers.rule != TWO_LEVEL or not x.numel():
        return np.ones(2)
    single = np.finfo(np.float32)
    amax = np.float32(min(float(largest_magnitudes(x, 1)), float(single.max)))
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
