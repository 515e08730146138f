"""Rounding float32 stochastically in loops that run in vector registers (see nearest_loops.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import inlined, woven
from .nearest_loops import (
    EXPONENT,
    INFINITY,
    MAGNITUDE,
    SIGN,
    SIGN64,
    as_carried,
    float64_bits_from,
    has_room,
    limits,
    linear_from,
    near_and_far,
    product_numbers,
    single_limits,
)

LINEAR, SHORT, LONG = range(3)
"""Loops for formats without subnormals of their own, for those whose v 2^N fits into an integer with k, and for the others."""
SHORT_BITS, HIGHEST = 30, 127
ONE_SQUARED, ONE_SQUARED32 = np.int64(2046 << 52), np.int32(254 << 23)
BEYOND = np.float32(2.0**22)
TO_WHOLE = 2.0**52


@inlined
def drawn(x: Any, out: Any, words: Any, rule: Any) -> Any:
    """Stochastic A, on float32 bits: above the smallest normal, random bits are added to those cut off; below, v is compared."""
    if linear_from(rule) == 0:
        return _drawn(x, out, words, rule, LINEAR)
    if rule.mantissa_bits + rule.random_bits <= SHORT_BITS and rule.random_bits - rule.smallest_exponent <= HIGHEST:
        return _drawn(x, out, words, rule, SHORT)
    return _drawn(x, out, words, rule, LONG)


@woven
def _drawn(x: Any, out: Any, words: Any, rule: Any, kind: Any) -> Any:
    cut, n = 23 - rule.mantissa_bits, rule.random_bits
    mask, kept = np.int32(-(1 << cut)), np.int32(-(1 << max(cut - n, 0)))
    to_cut, to_n, places = np.uint32((32 - cut) & 31), np.uint32((32 - n) & 31), np.uint32(n & 31)
    normal = linear_from(rule)
    per_unit, unit = np.float32(2.0**-rule.smallest_exponent), np.float32(2.0**rule.smallest_exponent)
    full, full_float = np.int32(1 << n), np.float32(1 << n)
    per_part = np.float32(2.0 ** min(n - rule.smallest_exponent, HIGHEST))
    top, above = np.float32(rule.max_value).view(np.int32), np.float32(rule.above).view(np.int32)
    zero_sign = SIGN if rule.signed_zero else np.int32(0)
    largest = np.int32(0)
    for i in range(x.size):
        a, word = np.int32(x[i] & MAGNITUDE), words[i]
        t = np.int32(np.int32(a + np.int32(np.int32(np.uint32(word >> to_cut)) & kept)) & mask)
        if kind != LINEAR:
            r = np.int32(np.uint32(word >> to_n))
            if kind == SHORT:
                k = np.int32(np.uint32(np.int32(np.int32(a).view(np.float32) * per_part) + r) >> places)
            else:
                scaled = np.int32(a).view(np.float32) * per_unit
                k = np.int32(scaled)
                v = np.int32(np.float32(scaled - np.float32(k)) * full_float)
                k = np.int32(k + (np.int32(1) if np.int32(v + r) >= full else np.int32(0)))
            t = np.float32(np.float32(k) * unit).view(np.int32) if a < normal else t
        t = above if t > top else t
        largest = max(largest, a)
        out[i] = t | (x[i] & (SIGN if t != 0 else zero_sign))
    return largest < INFINITY


@inlined
def drawn_single(x: Any, out: Any, words: Any, s: Any, rule: Any) -> Any:
    """Stochastic A of x / s in float32, where both ends of an interval that holds the quotient are rounded alike.

    Returns False where the ends differ, and where float32 has no room.
    """
    if not has_room(s, rule):
        return False
    near, far = near_and_far(s)
    again = np.float32(s if rule.rescale else 1.0)
    normal, highest = single_limits(rule)
    to_ulp, low_ulp = np.int32(rule.mantissa_bits << 23), np.float32(2.0**rule.smallest_exponent).view(np.int32)
    per_draw, to_n = np.float32(2.0**-rule.random_bits), np.uint32((32 - rule.random_bits) & 31)
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    above, below = np.float32(rule.above), np.float32(rule.below)
    signed_zero = rule.signed_zero != 0
    largest, different = np.int32(0), np.int32(0)
    for i in range(x.size):
        q, p = np.float32(x[i] * far), np.float32(x[i] * near)
        bits, lower = q.view(np.int32), p.view(np.int32)
        exponent = np.int32(bits & INFINITY)
        largest = max(largest, exponent)
        constant = exponent < normal
        ulp = low_ulp if constant else np.int32(exponent - to_ulp)
        different = np.int32(different | (np.int32(0) if constant else np.int32(np.int32(bits ^ lower) & INFINITY)))
        per_ulp = np.int32(ONE_SQUARED32 - ulp).view(np.float32)
        threshold = np.float32(np.float32(1) - np.float32(np.int32(np.uint32(words[i] >> to_n))) * per_draw)
        end, start = up_from(abs(q) * per_ulp, threshold), up_from(abs(p) * per_ulp, threshold)
        different = np.int32(different | np.int32(end ^ start))
        magnitude = np.float32(np.float32(end) * np.int32(ulp).view(np.float32)).view(np.int32)
        y = np.int32(magnitude | np.int32(bits & SIGN)).view(np.float32)
        y = above if y > top else y
        y = below if y < bottom else y
        out[i] = (y if signed_zero else np.float32(y + np.float32(0))) * again
    return largest < highest and different == 0


@inlined
def up_from(quotient: Any, threshold: Any) -> Any:
    """k + 1 of a quotient k + v with v at the threshold or above it, else k; quotients beyond every range are cut off."""
    q = quotient if quotient < BEYOND else BEYOND
    k = np.int32(q)
    return np.int32(k + (np.int32(1) if np.float32(q - np.float32(k)) >= threshold else np.int32(0)))


@inlined
def drawn_scaled(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, carrier: Any = None) -> Any:
    """Stochastic A of x / scale: the remainder |x| - k ulp scale, and its comparison with the draw, are exact in float64."""
    low_ulp = np.float64(2.0**rule.smallest_exponent).view(np.int64)
    grid = float64_bits_from(rule), np.int64(rule.mantissa_bits << 52), low_ulp
    full, to_n = 2.0**rule.random_bits, np.uint32((32 - rule.random_bits) & 31)
    ranges, signed_zero, product = limits(rule), rule.signed_zero != 0, product_numbers(carrier)
    special, rescale = np.int64(0), rule.rescale != 0
    if stride == 0:
        s = scale[0]
        again = s if rescale else 1.0
        for i in range(x.size):
            value = np.float64(x[i])
            q = value / s
            special |= np.int64(np.float64(q).view(np.int64) & EXPONENT == EXPONENT)
            r = np.float64(np.int32(np.uint32(words[i] >> to_n)))
            out[i] = as_carried(drawn_quotient(value, s, q, full, full - r, grid, ranges, signed_zero) * again, product)
    else:
        for i in range(x.size):
            value, s = np.float64(x[i]), scale[i]
            q = value / s
            special |= np.int64(np.float64(q).view(np.int64) & EXPONENT == EXPONENT)
            r = np.float64(np.int32(np.uint32(words[i] >> to_n)))
            y = drawn_quotient(value, s, q, full, full - r, grid, ranges, signed_zero)
            out[i] = as_carried(y * (s if rescale else 1.0), product)
    return special == 0


@inlined
def drawn_quotient(x: Any, s: Any, q: Any, full: Any, threshold: Any, grid: Any, ranges: Any, signed_zero: Any) -> Any:
    """x / s, near q, rounded up where the remainder times 2^N reaches the threshold 2^N - R, and brought into range."""
    normal, to_ulp, low_ulp = grid
    top, bottom, above, below = ranges
    bits = np.float64(q).view(np.int64)
    exponent = bits & EXPONENT
    ulp_bits = low_ulp if exponent < normal else np.int64(exponent - to_ulp)
    ulp = np.int64(ulp_bits).view(np.float64)
    quotient = abs(q) * np.int64(ONE_SQUARED - ulp_bits).view(np.float64)
    k = (quotient + TO_WHOLE) - TO_WHOLE
    k -= 1.0 if k > quotient else 0.0
    unit = ulp * abs(s)
    k += 1.0 if (abs(x) - k * unit) * full >= threshold * unit else 0.0
    magnitude = np.float64(k * ulp).view(np.int64)
    y = np.int64(magnitude | (bits & SIGN64)).view(np.float64)
    y = above if y > top else y
    y = below if y < bottom else y
    return y if signed_zero else y + 0.0
