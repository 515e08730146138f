"""The commonest roundings of float32 in loops that run in vector registers, at about the speed of memory.

Each loop gives up (returns False) on a piece that has a NaN or an infinity; the general loop then does the piece again.
"""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
from numba import njit

from hwsim.formats.lowering import NEAREST_EVEN, STOCHASTIC, Rule

NEAREST, DRAWN, NEAREST_SCALED, DRAWN_SCALED = range(4)

SIGN, MAGNITUDE, INFINITY = np.int32(-(1 << 31)), np.int32((1 << 31) - 1), np.int32(0x7F800000)
EXPONENT, QUIET = np.int64(0x7FF << 52), np.int64(1 << 51)
DRAWN_BITS = 24


def fast_loop(rule: Rule, scaled: bool) -> int | None:
    """The loop that rounds finite float32 by this rule (and by float32 scales) to float32 values, or None."""
    ordinary = not (rule.wrap_bits or rule.flush_inputs or rule.flush_outputs or isnan(rule.above) or isnan(rule.below))
    if not ordinary or rule.rounded_zero != 0 or rule.mantissa_bits > 23 + rule.uniform:
        return None
    symmetric = rule.below == -rule.above and rule.min_value == -rule.max_value
    narrow = not rule.uniform and symmetric and rule.mantissa_bits < 23 and rule.min_exponent >= -126
    if rule.mode == NEAREST_EVEN:
        if narrow and not scaled and rule.smallest_exponent + 23 <= 126:
            return NEAREST
        return NEAREST_SCALED if rule.mantissa_bits else None
    if rule.mode == STOCHASTIC and rule.variant == 0 and rule.random_bits <= DRAWN_BITS:
        return DRAWN if narrow and not scaled and -126 <= rule.smallest_exponent <= 0 else DRAWN_SCALED
    return None


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def fast(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, loop: Any) -> Any:
    """Round the float32 piece x into out by one of the loops; element i is divided by scale[stride i]."""
    if loop == NEAREST:
        return nearest(x.view(np.int32), out.view(np.int32), rule)
    if loop == DRAWN:
        return drawn(x.view(np.int32), out.view(np.int32), words, rule)
    if loop == NEAREST_SCALED:
        return nearest_scaled(x, out, scale, stride, rule)
    return drawn_scaled(x, out, words, scale, stride, rule)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def linear_from(rule: Any) -> Any:
    """The float32 bits from which on the format's codes are float32 codes with their end cut off."""
    if rule.min_exponent == -126 and rule.smallest_exponent == -126 - rule.mantissa_bits:
        return np.int32(0)
    return np.int32((rule.min_exponent + 127) << 23)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
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


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
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


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def float64_bits_from(rule: Any) -> Any:
    """The float64 bits of the smallest normal value: below them the ulp is constant."""
    return EXPONENT if rule.min_exponent > 1023 else np.int64((rule.min_exponent + 1023) << 52)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def nearest_scaled(x: Any, out: Any, scale: Any, stride: Any, rule: Any) -> Any:
    """Nearest even of x / scale by (q + c) - c in float64, whose 53 bits keep every quotient of float32 off the ties it is not on."""
    normal, to_magic = float64_bits_from(rule), np.int64((52 - rule.mantissa_bits) << 52)
    low_magic = 1.5 * 2.0 ** (52 + rule.smallest_exponent)
    top, bottom, above, below = rule.max_value, rule.min_value, rule.above, rule.below
    signed_zero, rescale = rule.signed_zero != 0, rule.rescale != 0
    special = np.int64(0)
    for i in range(x.size):
        s = scale[stride * i]
        q = np.float64(x[i]) / s
        exponent = np.float64(q).view(np.int64) & EXPONENT
        magic = np.int64((exponent + to_magic) | QUIET).view(np.float64)
        magic = low_magic if exponent < normal else magic
        y = (q + magic) - magic
        y = above if y > top else (below if y < bottom else y)
        y = np.copysign(y, q) if signed_zero else y
        special |= np.int64(exponent == EXPONENT)
        out[i] = np.float32(y * (s if rescale else 1.0))
    return special == 0


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def drawn_scaled(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any) -> Any:
    """Stochastic A of x / scale: the remainder |x| - k ulp scale, and its comparison with the draw, are exact in float64."""
    normal, to_ulp = float64_bits_from(rule), np.int64(rule.mantissa_bits << 52)
    low_ulp = np.float64(2.0**rule.smallest_exponent).view(np.int64)
    full, to_n = 2.0**rule.random_bits, np.uint32((32 - rule.random_bits) & 31)
    top, bottom, above, below = rule.max_value, rule.min_value, rule.above, rule.below
    signed_zero, rescale = rule.signed_zero != 0, rule.rescale != 0
    special = np.int64(0)
    for i in range(x.size):
        s = scale[stride * i]
        value, divisor = np.float64(x[i]), abs(s)
        a = abs(value)
        q = a / divisor
        exponent = np.float64(q).view(np.int64) & EXPONENT
        ulp_bits = low_ulp if exponent < normal else np.int64(exponent - to_ulp)
        ulp = np.int64(ulp_bits).view(np.float64)
        k = np.floor(q * np.int64((np.int64(2046) << 52) - ulp_bits).view(np.float64))
        unit = ulp * divisor
        r = np.float64(np.int32(np.uint32(words[i] >> to_n)))
        k += 1.0 if (a - k * unit) * full >= (full - r) * unit else 0.0
        y = np.copysign(k * ulp, value) * np.copysign(1.0, s)
        y = above if y > top else (below if y < bottom else y)
        y = y if signed_zero else y + 0.0
        special |= np.int64(exponent == EXPONENT)
        out[i] = np.float32(y * (s if rescale else 1.0))
    return special == 0
