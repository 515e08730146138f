"""Finding the scales of blocks in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats.block_lowering import ABSMAX, CANDIDATES, CEIL, EVEN, FLOOR, TWO_LEVEL

from .block_loops import LARGEST, tops_of
from .compiling import inlined
from .kernels import FRACTION, IMPLICIT, general, power_of_two, round_quotient, significand
from .magnitude_kernels import largest_bits, largest_finite_bits
from .nearest_loops import nearest_scaled

NO_WORD = np.uint32(0)


@inlined
def block_tops(bits: Any, first: Any, stride: Any, height: Any, width: Any, tops: Any, columns: Any, limits: Any) -> Any:
    """The bits of the largest magnitude of each block of a piece, into tops. Returns whether one is NaN or infinite.

    Args:
        bits: the tensor as integers; the piece begins at `first`, has `height` rows `stride` apart, columns.size columns and
            blocks `width` wide.
        columns: a buffer.
    """
    mask, n = limits[0], columns.size
    source = bits[first : first + n]
    if height > 1:
        for j in range(n):
            columns[j] = source[j] & mask
        for r in range(1, height):
            row = bits[first + r * stride : first + r * stride + n]
            for j in range(n):
                columns[j] = max(columns[j], bits.dtype.type(row[j] & mask))
        source = columns
    worst = bits.dtype.type(0)
    if bits.itemsize == 4:
        return tops_of(source, tops, width) >= limits[1]
    for b in range(tops.size):
        tops[b] = largest_bits(source[b * width : min(b * width + width, n)], mask)
        worst = max(worst, tops[b])
    return worst >= limits[1]


@inlined
def scale_exponent(amax: Any, numbers: Any) -> Any:
    """The exponent of a power of two by the rules `floor`, `ceil`, `even` and `rceil`."""
    m, q = significand(amax)
    e, rest = q + 52, m & FRACTION
    if numbers.rule == FLOOR:
        return e - numbers.element_exponent
    if numbers.rule == CEIL:
        return e + (rest != 0) - numbers.element_exponent
    if numbers.rule == EVEN:
        return e + (rest >= IMPLICIT - (IMPLICIT >> (numbers.mantissa_bits + 1))) - numbers.element_exponent
    limit, limit_exponent = significand(numbers.element_max)
    return q - limit_exponent + (m > limit)


@inlined
def squared_error(x: Any, first: Any, stride: Any, height: Any, width: Any, scale: Any, trial: Any) -> Any:
    """The sum of (x - s round(x / s))^2 over the finite elements of a block, in row-major order."""
    error = 0.0
    for r in range(height):
        for i in range(first + r * stride, first + r * stride + width):
            value = np.float64(x[i])
            if np.isfinite(value):
                product = round_quotient(value, scale, NO_WORD, trial) * scale
                distance = value - product
                error += distance * distance
    return error


@inlined
def best_scale(amax: Any, x: Any, first: Any, stride: Any, height: Any, width: Any, numbers: Any, records: Any) -> Any:
    """The candidate scale with the least squared error."""
    if amax == 0:
        return numbers.smallest_scale
    best, least = 0.0, np.inf
    for share in CANDIDATES:
        scale = max(round_quotient(np.float64(amax) * share, numbers.element_max, NO_WORD, records[2]), numbers.smallest_scale)
        error = squared_error(x, first, stride, height, width, scale, records[3])
        if best == 0 or error < least:
            best, least = scale, error
    return best


@inlined
def block_scales(amax: Any, raw: Any, scales: Any, words: Any, levels: Any, numbers: Any, records: Any, loop: Any) -> None:
    """The scale of each block from its largest magnitude, by every rule but `mse`.

    Args:
        amax: in the tensor's dtype. raw: a buffer like it. scales: float32 or float64.
        levels: S of the rule `two_level`, then t. loop: whether scales may be rounded by the fast loop, or None.
    """
    rule, divisor = records[2], np.ones(1)
    if numbers.rule == TWO_LEVEL:
        factor = np.float32(np.float32(levels[0]) * np.float32(numbers.reciprocal))
        for b in range(amax.size):
            raw[b] = min(np.float32(min(amax[b], LARGEST)) * min(factor, LARGEST), LARGEST)
    elif numbers.rule == ABSMAX:
        divisor[0] = numbers.element_max
        for b in range(amax.size):
            raw[b] = amax[b]
    else:
        for b in range(amax.size):
            exponent = scale_exponent(np.float64(amax[b]), numbers) if amax[b] > 0 else numbers.low
            scales[b] = power_of_two(min(max(exponent, numbers.low), numbers.high))
        return
    done = False
    if loop is not None and rule.mantissa_bits:
        done = nearest_scaled(raw, scales, divisor, 0, rule)
    if not done:
        general(raw, scales, words, divisor, 0, rule, records[1])
    if numbers.rule == ABSMAX:
        for b in range(amax.size):
            scales[b] = max(scales[b], numbers.smallest_scale)


@inlined
def finite_tops(bits: Any, first: Any, stride: Any, height: Any, width: Any, n: Any, tops: Any, broken: Any, limits: Any) -> None:
    """Mark the blocks that have NaN or an infinity, and put the largest finite magnitude in their tops."""
    for b in range(tops.size):
        broken[b] = tops[b] >= limits[1]
        if broken[b]:
            tops[b] = 0
            for r in range(height):
                start = first + r * stride
                tops[b] = max(tops[b], largest_finite_bits(bits[start + b * width : start + min(b * width + width, n)], limits))
