"""Rounding float32 to nearest even in loops that run in vector registers.

Each loop gives up (returns False) on a piece that has a NaN or an infinity; the general loop then does the piece again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import fma, inlined, woven

SIGN, MAGNITUDE, INFINITY = np.int32(-(1 << 31)), np.int32((1 << 31) - 1), np.int32(0x7F800000)
SIGN64, EXPONENT, QUIET = np.int64(-(1 << 63)), np.int64(0x7FF << 52), np.int64(1 << 51)
FRACTION64 = np.int64((1 << 52) - 1)
SINGLE_BITS = 8
"""With more, too many pieces have a quotient near a tie."""
SUM_BITS, BIG = 20, 2.0**100
"""Formats with fewer mantissa bits and values below this are rounded by sums: c is a float32 number at all of them."""


@inlined
def linear_from(rule: Any) -> Any:
    """The float32 bits from which on the format's codes are float32 codes with their end cut off."""
    if rule.min_exponent == -126 and rule.smallest_exponent == -126 - rule.mantissa_bits:
        return np.int32(0)
    return np.int32((rule.min_exponent + 127) << 23)


@inlined
def nearest(x: Any, out: Any, rule: Any) -> Any:
    """Nearest even, without a scale."""
    if rounds_by_sums(rule):
        return _nearest_by_sums(x, out, rule)
    if linear_from(rule) == 0:
        return _nearest_by_bits(x, out, rule, False)
    return _nearest_by_bits(x, out, rule, True)


@inlined
def rounds_by_sums(rule: Any) -> Any:
    """Whether `rounded_sum` rounds every finite float32 magnitude, and all numbers that it takes are normal float32 ones."""
    gradual = rule.smallest_exponent == rule.min_exponent - rule.mantissa_bits and 0 < rule.mantissa_bits <= SUM_BITS
    return linear_from(rule) > 0 and gradual and rule.smallest_exponent + 23 <= 126 and 1 / BIG < rule.max_value < BIG


@inlined
def sum_numbers(rule: Any) -> Any:
    """What `rounded_sum` needs: what makes c of exponent bits, and the bits of the smallest c."""
    return to_magic_from(rule), np.int32(((rule.smallest_exponent + 23 + 127) << 23) + (1 << 22))


@woven
def rounded_sum(bits: Any, numbers: Any) -> Any:
    """(|x| + c) - c of |x|'s bits, where the ulp of c, 1.5 times a power of two, is the format's at x; nonsense beyond BIG."""
    lift, lowest = numbers
    magic = np.int32(max(np.int32(np.int32(bits & INFINITY) + lift), lowest)).view(np.float32)
    return np.float32(np.float32(np.int32(bits).view(np.float32) + magic) - magic)


@inlined
def last_in_range(rule: Any) -> Any:
    """The bits of the largest float32 number that `rounded_sum` does not lift above the format's largest value."""
    top = np.float32(rule.max_value)
    half_ulp = np.int32((top.view(np.int32) & INFINITY) - ((rule.mantissa_bits + 1) << 23))
    half_ulp = max(half_ulp, np.int32((rule.smallest_exponent - 1 + 127) << 23))
    tie = np.float32(top + np.int32(half_ulp).view(np.float32)).view(np.int32)
    return np.int32(tie - (np.int32(1) if rounded_sum(tie, sum_numbers(rule)) > top else np.int32(0)))


@inlined
def _nearest_by_sums(x: Any, out: Any, rule: Any) -> Any:
    sums, last, above = sum_numbers(rule), last_in_range(rule), np.float32(rule.above).view(np.int32)
    zero_sign, largest = SIGN if rule.signed_zero else np.int32(0), np.int32(0)
    for i in range(x.size):
        a = np.int32(x[i] & MAGNITUDE)
        largest = max(largest, a)
        t = np.float32(rounded_sum(a, sums)).view(np.int32)
        t = above if a > last else t
        out[i] = t | (x[i] & (SIGN if t != 0 else zero_sign))
    return largest < INFINITY


@woven
def _nearest_by_bits(x: Any, out: Any, rule: Any, low_ends: Any) -> Any:
    """Half is added and the end cut off; below the smallest normal, where `low_ends` says there is such, (|x| + c) - c."""
    cut = 23 - rule.mantissa_bits
    unit, half, mask = np.int32(1 << cut), np.int32(1 << (cut - 1)), np.int32(-(1 << cut))
    even = np.int32((rule.parity & 1) << cut)
    normal = linear_from(rule)
    magic = np.float32(1.5 * 2.0 ** (rule.smallest_exponent + 23))
    top, above = np.float32(rule.max_value).view(np.int32), np.float32(rule.above).view(np.int32)
    zero_sign = SIGN if rule.signed_zero else np.int32(0)
    largest = np.int32(0)
    for i in range(x.size):
        a = np.int32(x[i] & MAGNITUDE)
        t = np.int32(np.int32(np.int32(a + half) - (np.int32(1) if np.int32(a & unit) == even else np.int32(0))) & mask)
        if low_ends:
            low = np.float32((np.int32(a).view(np.float32) + magic) - magic).view(np.int32)
            t = low if a < normal else t
        t = above if t > top else t
        largest = max(largest, a)
        out[i] = t | (x[i] & (SIGN if t != 0 else zero_sign))
    return largest < INFINITY


@inlined
def to_magic_from(rule: Any) -> Any:
    """What added to float32's exponent bits at x makes c: 1.5 times the power of two whose ulp is the format's at x."""
    return np.int32(((23 - rule.mantissa_bits) << 23) + (1 << 22))


@inlined
def saturates(rule: Any) -> Any:
    """Whether what lies beyond the range of finite values becomes its ends."""
    return rule.above == rule.max_value and rule.below == rule.min_value


@inlined
def has_room(s: Any, rule: Any) -> Any:
    """Whether quotients by s can be bracketed in float32."""
    few = rule.mantissa_bits <= SINGLE_BITS and -100 < rule.smallest_exponent < 100
    return few and 2.0**-100 < abs(s) < 2.0**100 and np.float64(np.float32(s)) == s


@inlined
def is_power(s: Any) -> Any:
    """Whether s is a power of two, of either sign."""
    return np.float64(s).view(np.int64) & FRACTION64 == 0


@inlined
def near_and_far(s: Any) -> Any:
    """Inverses of s whose products with x lie to either side of x / s; that of a power of two is exact.

    Each product is within 2^-23 of itself from what its inverse stands for.
    """
    apart = 0.0 if is_power(s) else 1.25 * 2.0**-23
    return np.float32((1.0 - apart) / s), np.float32((1.0 + apart) / s)


@inlined
def single_limits(rule: Any) -> Any:
    """The float32 bits below which the ulp is constant, and those from which on there is no room."""
    highest = np.int32((230 + rule.mantissa_bits) << 23)
    return highest if rule.min_exponent > 127 else np.int32((rule.min_exponent + 127) << 23), highest


@inlined
def nearest_single(x: Any, out: Any, s: Any, rule: Any) -> Any:
    """Nearest even of x / s in float32. Returns False near a tie, and where float32 has no room."""
    if not has_room(s, rule):
        return False
    uniform = rule.min_exponent > 127 and rule.signed_zero == 0
    if uniform and saturates(rule) and abs(s) * 2.0**rule.smallest_exponent > 2.0**-100:
        return _nearest_multiple(x, out, s, rule)
    return _nearest_in_interval(x, out, s, rule)


@inlined
def _nearest_multiple(x: Any, out: Any, s: Any, rule: Any) -> Any:
    """On a uniform grid: k s is the nearest multiple where x - k s, which no rounding lifts over s / 2, is below s / 2.

    Quotients by powers of two are exact, so that ties between multiples go to the even one.
    """
    scale, inverse, unit = np.float32(s), np.float32(1.0 / s), 2.0**rule.smallest_exponent
    again = np.float32(s if rule.rescale else 1.0)
    half, magic = np.float32(abs(s) * unit * 0.5).view(np.int32), np.float32(1.5 * 2.0**23 * unit)
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    largest = np.int32(0)
    for i in range(x.size):
        y = np.float32(np.float32(np.float32(x[i] * inverse) + magic) - magic)
        rest = np.float32(fma(-y, scale, np.float32(x[i])))
        largest = max(largest, np.int32(rest.view(np.int32) & MAGNITUDE))
        y = y if y < top else top
        y = y if y > bottom else bottom
        out[i] = y * again
    return largest < half or (largest == half and is_power(s))


@inlined
def _nearest_in_interval(x: Any, out: Any, s: Any, rule: Any) -> Any:
    """On any grid: where both ends of an interval that holds the quotient are rounded alike."""
    near, far = near_and_far(s)
    again = np.float32(s if rule.rescale else 1.0)
    lift = to_magic_from(rule)
    normal, highest = single_limits(rule)
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
        magic = np.int32(exponent + lift).view(np.float32)
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
def float64_bits_from(rule: Any) -> Any:
    """The float64 bits of the smallest normal value: below them the ulp is constant."""
    return EXPONENT if rule.min_exponent > 1023 else np.int64((rule.min_exponent + 1023) << 52)


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
