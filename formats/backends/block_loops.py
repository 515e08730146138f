"""Rounding blocks of float32 in loops that run in vector registers; the commonest widths are compiled as constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats.block_lowering import CEIL, EVEN, RCEIL

from .block_maxima import eight_of_16, eight_of_32
from .compiling import fma, inlined, woven
from .nearest_loops import (
    INFINITY,
    MAGNITUDE,
    SIGN,
    last_in_range,
    rounded_sum,
    rounds_by_sums,
    saturates,
    single_limits,
    sum_numbers,
)

FRACTION32, ONE32 = np.int32((1 << 23) - 1), 127
SMALLEST_NORMAL = np.int32(1 << 23)
HALF_NORMAL = np.int32(1 << 22)
"""The bits of 2^-127, the one power of two among the scales and their inverses that is subnormal."""
LARGEST = np.finfo(np.float32).max
MANTISSA_BITS, SMALLEST_EXPONENT = 20, -100
"""Elements with fewer bits, on a coarser grid, are rounded here."""
SMALLEST_SPLIT, LARGEST_SPLIT = 2.0**-90, 2.0**126
"""The factors of blocks that are multiplied as two float32 numbers."""


@inlined
def tops_of(bits: Any, tops: Any, width: Any) -> Any:
    """The bits of the largest magnitude of each block of float32 bits, into tops. Returns the largest of all."""
    full = bits.size // width
    if width == 32:
        worst = _tops(bits, tops, full, 32)
    elif width == 16:
        worst = _tops(bits, tops, full, 16)
    elif width == 1:
        worst = _tops(bits, tops, full, 1)
    else:
        worst = _tops(bits, tops, full, width)
    if full < tops.size:
        worst = max(worst, _tops(bits[full * width :], tops[full:], tops.size - full, bits.size - full * width))
    return worst


@woven
def _tops(bits: Any, tops: Any, blocks: Any, width: Any) -> Any:
    worst, done = np.int32(0), 0
    if width == 16 or width == 32:
        done = blocks // 8 * 8
        for b in range(0, done, 8):
            if width == 16:
                eight_of_16(bits, np.uint64(b * 16), tops, np.uint64(b))
            else:
                eight_of_32(bits, np.uint64(b * 32), tops, np.uint64(b))
        for b in range(done):
            worst = max(worst, tops[b])
    for b in range(done, blocks):
        first, top = np.uint64(b * width), np.int32(0)
        for j in range(width):
            top = max(top, np.int32(bits[first + np.uint64(j)] & MAGNITUDE))
        tops[b] = top
        worst = max(worst, top)
    return worst


@inlined
def power_scales(tops: Any, scales: Any, inverses: Any, factors: Any, numbers: Any) -> Any:
    """Scales that are powers of two, from float32 bits: in float64, their inverses and they in float32.

    Returns False where a magnitude is subnormal. The exponent is that of the largest magnitude less that of the largest element,
    and one more where the fraction is beyond what the rule rounds down (see block_scales.scale_exponent).
    """
    rest_limit, offset = FRACTION32, np.int32(numbers.element_exponent)
    if numbers.rule == CEIL:
        rest_limit = np.int32(0)
    elif numbers.rule == EVEN:
        rest_limit = np.int32((1 << 23) - (1 << (22 - numbers.mantissa_bits)) - 1)
    elif numbers.rule == RCEIL:
        largest = np.float32(numbers.element_max).view(np.int32)
        rest_limit, offset = np.int32(largest & FRACTION32), np.int32((largest >> 23) - ONE32)
    low, high = np.int32(numbers.low + ONE32), np.int32(numbers.high + ONE32)
    small = False
    for b in range(tops.size):
        top = tops[b]
        small |= 0 < top < SMALLEST_NORMAL
        e = np.int32((top >> 23) - offset + (np.int32(1) if np.int32(top & FRACTION32) > rest_limit else np.int32(0)))
        e = min(max(e, low), high) if top > 0 else low
        factors[b] = np.int32(e << 23 if e > 0 else HALF_NORMAL).view(np.float32)
        inverses[b] = np.int32((2 * ONE32 - e) << 23 if e < 2 * ONE32 else HALF_NORMAL).view(np.float32)
        scales[b] = factors[b]
    return not small


@inlined
def splits(rule: Any, scale: Any, scale_digits: Any) -> Any:
    """Whether `two_level_factors` rounds scales by their rule, and elements, all finite, times its rests are float32 numbers."""
    few = saturates(rule) and scale_digits <= 8 and rule.mantissa_bits <= 15 and rule.smallest_exponent >= -28
    return few and rounds_by_sums(scale)


@inlined
def two_level_factors(
    tops: Any, scales: Any, inverses: Any, factors: Any, rests: Any, levels: Any, numbers: Any, rule: Any
) -> Any:
    """Scales by the rule `two_level` from finite magnitudes, the inverses of scales times t, and those products as sums of two.

    A factor is the float32 number next to scale times t toward zero; its rest makes the sum exact. Returns False where a factor
    is NaN, too small or too large.
    """
    encoding, decoding = min(np.float32(np.float32(levels[0]) * np.float32(numbers.reciprocal)), LARGEST), np.float32(levels[1])
    sums, last, above = sum_numbers(rule), last_in_range(rule), np.float32(rule.above)
    small, large, odd = np.float32(SMALLEST_SPLIT), np.float32(LARGEST_SPLIT), np.int32(0)
    for b in range(tops.size):
        raw = min(np.float32(np.int32(tops[b]).view(np.float32) * encoding), LARGEST)
        bits = np.float32(raw).view(np.int32)
        scale = rounded_sum(bits, sums)
        scale = above if bits > last else scale
        scales[b] = scale
        product = np.float32(scale * decoding)
        odd |= np.int32(0) if (small < product < large) | (product == 0) else np.int32(1)
        inverses[b] = min(np.float32(np.float32(1) / product), LARGEST)
        over = np.float32(fma(scale, decoding, np.float32(-product))) < 0
        factor = np.int32(product.view(np.int32) - (np.int32(1) if over else np.int32(0))).view(np.float32)
        factors[b] = factor
        rests[b] = fma(scale, decoding, np.float32(-factor))
    return odd == 0


@inlined
def have_room(tops: Any, inverses: Any, rule: Any) -> Any:
    """Whether `nearest_blocks` has room for the quotients of blocks of finite elements, from the bits of their largest ones."""
    _, highest = single_limits(rule)
    largest = np.int32(0)
    for b in range(tops.size):
        quotient = np.float32(np.int32(tops[b]).view(np.float32) * inverses[b])
        largest = max(largest, quotient.view(np.int32))
    return largest < highest


@inlined
def nearest_blocks(x: Any, out: Any, inverses: Any, factors: Any, rests: Any, rule: Any, width: Any) -> None:
    """float32(x times its block's inverse) to nearest even by (q + c) - c, times its block's factor, rounded once to float32.

    The factor is the sum of `factors` and `rests` (see `two_level_factors`), or the former alone where the latter is None. There
    has to be room (see `have_room`).
    """
    full = x.size // width
    at, left = full * width, -(-x.size // width) - full
    if rests is not None:
        if width == 16:
            _nearest(x, out, inverses, factors, rests, full, rule, 16, True)
        else:
            _nearest(x, out, inverses, factors, rests, full, rule, width, True)
        if at < x.size:
            _nearest(x[at:], out[at:], inverses[full:], factors[full:], rests[full:], left, rule, x.size - at, True)
        return
    if width == 32 and saturates(rule):
        _nearest(x, out, inverses, factors, None, full, rule, 32, True)
    elif width == 16 and saturates(rule):
        _nearest(x, out, inverses, factors, None, full, rule, 16, True)
    elif width == 1:
        _nearest(x, out, inverses, factors, None, full, rule, 1, False)
    else:
        _nearest(x, out, inverses, factors, None, full, rule, width, False)
    if at < x.size:
        _nearest(x[at:], out[at:], inverses[full:], factors[full:], None, left, rule, x.size - at, False)


@woven
def _nearest(x: Any, out: Any, inverses: Any, factors: Any, rests: Any, blocks: Any, rule: Any, width: Any, clips: Any) -> None:
    (lift, lowest), (normal, _) = sum_numbers(rule), single_limits(rule)
    low_magic = np.int32(lowest).view(np.float32)
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    above, below = np.float32(rule.above), np.float32(rule.below)
    sign_mask = SIGN if rule.signed_zero else np.int32(0)
    for b in range(blocks):
        first, inverse, factor = np.uint64(b * width), inverses[b], factors[b]
        rest = np.float32(0) if rests is None else rests[b]
        for j in range(width):
            i = first + np.uint64(j)
            q = np.float32(x[i] * inverse)
            bits = np.float32(q).view(np.int32)
            exponent = np.int32(bits & INFINITY)
            magic = np.int32(exponent + lift).view(np.float32)
            magic = low_magic if exponent < normal else magic
            y = np.float32(np.float32(q + magic) - magic)
            if clips:
                y = y if y < top else top
                y = y if y > bottom else bottom
            else:
                y = above if y > top else y
                y = below if y < bottom else y
            y = np.int32(np.float32(y).view(np.int32) | np.int32(bits & sign_mask)).view(np.float32)
            if rests is None:
                out[i] = np.float32(y * factor)
            else:
                # Exact but for its one rounding: y times the rest, no longer than a float32 number, has y's sign.
                out[i] = fma(y, factor, np.float32(y * rest))
