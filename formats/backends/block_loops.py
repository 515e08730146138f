"""Rounding blocks of float32 in loops that run in vector registers; the commonest widths are compiled as constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats.block_lowering import CEIL, EVEN, RCEIL

from .block_maxima import eight_of_16, eight_of_32
from .compiling import fma, inlined, woven
from .nearest_loops import INFINITY, MAGNITUDE, SIGN, saturates, single_limits, to_magic_from

FRACTION32, ONE32 = np.int32((1 << 23) - 1), 127
SMALLEST_NORMAL = np.int32(1 << 23)
HALF_NORMAL = np.int32(1 << 22)
"""The bits of 2^-127, the one power of two among the scales and their inverses that is subnormal."""
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
def splits(rule: Any, scale_digits: Any) -> Any:
    """Whether elements, all finite, times what float32 cuts off a scale times a float32 number are float32 numbers."""
    return saturates(rule) and scale_digits <= 8 and rule.mantissa_bits <= 15 and rule.smallest_exponent >= -28


@inlined
def split(factors: Any, highs: Any, rests: Any) -> Any:
    """Each factor as a float32 number, next to it toward zero, and the rest. Returns False where one is too small or large."""
    odd = False
    for b in range(factors.size):
        factor = factors[b]
        high = np.float32(factor)
        high = np.int32(high.view(np.int32) - (np.int32(1) if high > factor else np.int32(0))).view(np.float32)
        highs[b] = high
        rests[b] = np.float32(factor - high)
        odd |= ((factor <= SMALLEST_SPLIT) & (factor != 0)) | (factor >= LARGEST_SPLIT)
    return not odd


@inlined
def nearest_blocks(x: Any, out: Any, inverses: Any, factors: Any, rests: Any, rule: Any, width: Any) -> Any:
    """float32(x times its block's inverse) to nearest even by (q + c) - c, times its block's factor, rounded once to float32.

    The factor is the sum of `factors` and `rests` (see `split`), or the former alone where the latter is None. Returns False
    where a quotient is NaN or out of float32's room.
    """
    full = x.size // width
    at, left = full * width, -(-x.size // width) - full
    if rests is not None:
        if width == 16:
            done = _nearest(x, out, inverses, factors, rests, full, rule, 16, True)
        else:
            done = _nearest(x, out, inverses, factors, rests, full, rule, width, True)
        if at < x.size:
            done &= _nearest(x[at:], out[at:], inverses[full:], factors[full:], rests[full:], left, rule, x.size - at, True)
        return done
    if width == 32 and saturates(rule):
        done = _nearest(x, out, inverses, factors, None, full, rule, 32, True)
    elif width == 16 and saturates(rule):
        done = _nearest(x, out, inverses, factors, None, full, rule, 16, True)
    elif width == 1:
        done = _nearest(x, out, inverses, factors, None, full, rule, 1, False)
    else:
        done = _nearest(x, out, inverses, factors, None, full, rule, width, False)
    if at < x.size:
        done &= _nearest(x[at:], out[at:], inverses[full:], factors[full:], None, left, rule, x.size - at, False)
    return done


@woven
def _nearest(x: Any, out: Any, inverses: Any, factors: Any, rests: Any, blocks: Any, rule: Any, width: Any, clips: Any) -> Any:
    lift = to_magic_from(rule)
    normal, highest = single_limits(rule)
    low_magic = np.float32(1.5 * 2.0 ** (23 + rule.smallest_exponent))
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    above, below = np.float32(rule.above), np.float32(rule.below)
    sign_mask = SIGN if rule.signed_zero else np.int32(0)
    largest = np.int32(0)
    for b in range(blocks):
        first, inverse, factor = np.uint64(b * width), inverses[b], factors[b]
        rest = np.float32(0) if rests is None else rests[b]
        for j in range(width):
            i = first + np.uint64(j)
            q = np.float32(x[i] * inverse)
            bits = np.float32(q).view(np.int32)
            exponent = np.int32(bits & INFINITY)
            largest = max(largest, exponent)
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
    return largest < highest
