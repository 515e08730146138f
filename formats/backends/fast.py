"""The commonest roundings of float32 in loops that run in vector registers, at about the speed of memory.

Each loop gives up (returns False) on a piece that has a NaN or an infinity; the general loop then does the piece again.
"""

from __future__ import annotations

from functools import lru_cache
from math import isnan
from typing import Any

import numpy as np

from hwsim.formats.lowering import NEAREST_EVEN, STOCHASTIC, Rule

from .compiling import inlined

NEAREST, DRAWN, NEAREST_SCALED, DRAWN_SCALED = range(4)

SIGN, MAGNITUDE, INFINITY = np.int32(-(1 << 31)), np.int32((1 << 31) - 1), np.int32(0x7F800000)
SIGN64, EXPONENT, QUIET = np.int64(-(1 << 63)), np.int64(0x7FF << 52), np.int64(1 << 51)
ONE_SQUARED = np.int64(2046 << 52)
FRACTION64 = np.int64((1 << 52) - 1)
TO_WHOLE = 2.0**52
SINGLE_BITS = 8
"""With more, too many pieces have a quotient near a tie."""
DRAWN_BITS = 24


@lru_cache(maxsize=1024)
def fast_loop(rule: Rule, scaled: bool) -> int | None:
    """The loop that rounds finite float32 by this rule (and by float32 scales) to float32 values, or None."""
    ordinary = not (rule.wrap_bits or rule.flush_inputs or rule.flush_outputs or isnan(rule.above) or isnan(rule.below))
    if not ordinary or rule.rounded_zero != 0 or rule.mantissa_bits > 23 + rule.uniform:
        return None
    symmetric = rule.below == -rule.above and rule.min_value == -rule.max_value
    narrow = not rule.uniform and symmetric and rule.mantissa_bits < 23 and rule.min_exponent >= -126
    linear = rule.min_exponent == -126 and rule.smallest_exponent == -126 - rule.mantissa_bits
    if rule.mode == NEAREST_EVEN:
        if narrow and not scaled and (linear or rule.smallest_exponent + 23 <= 126):
            return NEAREST
        return NEAREST_SCALED if rule.mantissa_bits else None
    if rule.mode == STOCHASTIC and rule.variant == 0 and rule.random_bits <= DRAWN_BITS:
        return DRAWN if narrow and not scaled and (linear or -126 <= rule.smallest_exponent <= 0) else DRAWN_SCALED
    return None


@inlined
def fast(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, loop: Any, carrier: Any = None) -> Any:
    """Round the float32 piece x into out by one of the loops; element i is divided by scale[stride i].

    Values times their scale are rounded to float32, or once to the narrower `carrier` (the Rule of a dtype).
    """
    if loop == NEAREST:
        return nearest(x.view(np.int32), out.view(np.int32), rule)
    if loop == DRAWN:
        return drawn(x.view(np.int32), out.view(np.int32), words, rule)
    if loop == NEAREST_SCALED:
        if stride == 0 and carrier is None and nearest_single(x, out, scale[0], rule):
            return True
        return nearest_scaled(x, out, scale, stride, rule, carrier)
    return drawn_scaled(x, out, words, scale, stride, rule, carrier)


@inlined
def linear_from(rule: Any) -> Any:
    """The float32 bits from which on the format's codes are float32 codes with their end cut off."""
    if rule.min_exponent == -126 and rule.smallest_exponent == -126 - rule.mantissa_bits:
        return np.int32(0)
    return np.int32((rule.min_exponent + 127) << 23)


@inlined
def nearest(x: Any, out: Any, rule: Any) -> Any:
    """Nearest even, on float32 bits: above the smallest normal, half is added and the end cut off; below, (x + c) - c."""
    cut = 23 - rule.mantissa_bits
    unit, half, mask = np.int32(1 << cut), np.int32(1 << (cut - 1)), np.int32(-(1 << cut))
    even = np.int32((rule.parity & 1) << cut)
    normal = linear_from(rule)
    magic = np.float32(1.5 * 2.0 ** (rule.smallest_exponent + 23))
    top, above = np.float32(rule.max_value).view(np.int32), np.float32(rule.above).view(np.int32)
    signed_zero = rule.signed_zero != 0
    largest = np.int32(0)
    for i in range(x.size):
        a = np.int32(x[i] & MAGNITUDE)
        magnitude = np.int32(a).view(np.float32)
        low = np.float32((magnitude + magic) - magic).view(np.int32)
        high = np.int32(np.int32(a + half) - (np.int32(1) if np.int32(a & unit) == even else np.int32(0))) & mask
        t = low if a < normal else np.int32(high)
        t = above if t > top else t
        largest = max(largest, a)
        out[i] = t | (x[i] & SIGN) if signed_zero or t != 0 else np.int32(0)
    return largest < INFINITY


@inlined
def drawn(x: Any, out: Any, words: Any, rule: Any) -> Any:
    """Stochastic A, on float32 bits: above the smallest normal, random bits are added to those cut off; below, v is compared."""
    cut, n = 23 - rule.mantissa_bits, rule.random_bits
    mask, kept = np.int32(-(1 << cut)), np.int32(-(1 << max(cut - n, 0)))
    to_cut, to_n = np.uint32((32 - cut) & 31), np.uint32((32 - n) & 31)
    normal = linear_from(rule)
    per_unit, unit = np.float32(2.0**-rule.smallest_exponent), np.float32(2.0**rule.smallest_exponent)
    full, full_float = np.int32(1 << n), np.float32(1 << n)
    top, above = np.float32(rule.max_value).view(np.int32), np.float32(rule.above).view(np.int32)
    signed_zero = rule.signed_zero != 0
    largest = np.int32(0)
    for i in range(x.size):
        a, word = np.int32(x[i] & MAGNITUDE), words[i]
        high = np.int32(a + np.int32(np.int32(np.uint32(word >> to_cut)) & kept)) & mask
        scaled = np.int32(a).view(np.float32) * per_unit
        k = np.int32(scaled)
        v = np.int32(np.float32(scaled - np.float32(k)) * full_float)
        k = np.int32(k + (np.int32(1) if np.int32(v + np.int32(np.uint32(word >> to_n))) >= full else np.int32(0)))
        low = np.float32(np.float32(k) * unit).view(np.int32)
        t = low if a < normal else np.int32(high)
        t = above if t > top else t
        largest = max(largest, a)
        out[i] = t | (x[i] & SIGN) if signed_zero or t != 0 else np.int32(0)
    return largest < INFINITY


@inlined
def float64_bits_from(rule: Any) -> Any:
    """The float64 bits of the smallest normal value: below them the ulp is constant."""
    return EXPONENT if rule.min_exponent > 1023 else np.int64((rule.min_exponent + 1023) << 52)


@inlined
def nearest_single(x: Any, out: Any, s: Any, rule: Any) -> Any:
    """Nearest even of x / s in float32, where both ends of an interval that holds the quotient are rounded alike.

    Rounding an inverse and a product moves an end by at most 2^-23 of itself, less than it is apart from x / s; the inverse of a
    power of two is exact. Returns False where the ends differ, near a tie, and where float32 has no room.
    """
    few = rule.mantissa_bits <= SINGLE_BITS and -100 < rule.smallest_exponent < 100
    if not (few and 2.0**-100 < abs(s) < 2.0**100 and np.float64(np.float32(s)) == s):
        return False
    apart = 0.0 if np.float64(s).view(np.int64) & FRACTION64 == 0 else 1.25 * 2.0**-23
    near, far = np.float32((1.0 - apart) / s), np.float32((1.0 + apart) / s)
    again = np.float32(s if rule.rescale else 1.0)
    to_magic, quiet = np.int32((23 - rule.mantissa_bits) << 23), np.int32(1 << 22)
    highest = np.int32((230 + rule.mantissa_bits) << 23)
    normal = highest if rule.min_exponent > 127 else np.int32((rule.min_exponent + 127) << 23)
    low_magic = np.float32(1.5 * 2.0 ** (23 + rule.smallest_exponent))
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    above, below = np.float32(rule.above), np.float32(rule.below)
    sign_mask = SIGN if rule.signed_zero else np.int32(0)
    largest, different = np.int32(0), np.int32(0)
    for i in range(x.size):
        q = np.float32(x[i] * far)
        bits = np.float32(q).view(np.int32)
        exponent = np.int32(bits & INFINITY)
        largest = max(largest, exponent)
        magic = np.int32(np.int32(exponent + to_magic) | quiet).view(np.float32)
        magic = low_magic if exponent < normal else magic
        end = np.float32(q + magic)
        start = np.float32(np.float32(x[i] * near) + magic)
        different = np.int32(different | np.int32(end.view(np.int32) ^ start.view(np.int32)))
        y = np.float32(end - magic)
        y = above if y > top else y
        y = below if y < bottom else y
        y = np.int32(np.float32(y).view(np.int32) | np.int32(bits & sign_mask)).view(np.float32)
        out[i] = y * again
    return largest < highest and different == 0


@inlined
def nearest_scaled(x: Any, out: Any, scale: Any, stride: Any, rule: Any, carrier: Any = None) -> Any:
    """Nearest even of x / scale by (q + c) - c in float64, whose 53 bits keep quotients of float32 off ties they are not on."""
    ranges, grid, sign_mask = limits(rule), nearest_grid(rule), SIGN64 if rule.signed_zero else np.int64(0)
    product = product_numbers(carrier)
    special, rescale = np.int64(0), rule.rescale != 0
    if stride == 0:
        s = scale[0]
        again = s if rescale else 1.0
        for i in range(x.size):
            q = np.float64(x[i]) / s
            special |= np.int64(np.float64(q).view(np.int64) & EXPONENT == EXPONENT)
            out[i] = as_carried(nearest_quotient(q, grid, ranges, sign_mask) * again, product)
    else:
        for i in range(x.size):
            s = scale[i]
            q = np.float64(x[i]) / s
            special |= np.int64(np.float64(q).view(np.int64) & EXPONENT == EXPONENT)
            out[i] = as_carried(nearest_quotient(q, grid, ranges, sign_mask) * (s if rescale else 1.0), product)
    return special == 0


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
def limits(rule: Any) -> Any:
    """The range of finite values, and what lies beyond it becomes."""
    return rule.max_value, rule.min_value, rule.above, rule.below


@inlined
def nearest_grid(rule: Any) -> Any:
    """The smallest normal value's bits, what lifts an exponent to that of c, and c below the smallest normal value."""
    return float64_bits_from(rule), np.int64((52 - rule.mantissa_bits) << 52), 1.5 * 2.0 ** (52 + rule.smallest_exponent)


@inlined
def product_numbers(carrier: Any) -> Any:
    """What `as_carried` needs; None for float32."""
    if carrier is None:
        return None
    return nearest_grid(carrier), limits(carrier)


@inlined
def as_carried(product: Any, numbers: Any) -> Any:
    """An exact product rounded once to float32, or to a narrower carrier."""
    if numbers is None:
        return np.float32(product)
    grid, ranges = numbers
    return np.float32(nearest_quotient(product, grid, ranges, SIGN64))


@inlined
def nearest_quotient(q: Any, grid: Any, ranges: Any, sign_mask: Any) -> Any:
    """q rounded to nearest even and brought into range; its sign is kept where the mask has one."""
    normal, to_magic, low_magic = grid
    top, bottom, above, below = ranges
    bits = np.float64(q).view(np.int64)
    exponent = bits & EXPONENT
    magic = np.int64((exponent + to_magic) | QUIET).view(np.float64)
    magic = low_magic if exponent < normal else magic
    y = (q + magic) - magic
    y = above if y > top else y
    y = below if y < bottom else y
    return np.int64(np.float64(y).view(np.int64) | (bits & sign_mask)).view(np.float64)


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
