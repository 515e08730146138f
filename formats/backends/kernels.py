"""Rounding one range of elements in compiled loops: the general one, in exact integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import lowering, philox
from hwsim.formats.lowering import (
    NEAREST_AWAY,
    NEAREST_EVEN,
    NEAREST_ZERO,
    STOCHASTIC,
    TO_ODD,
    TOWARD_NEGATIVE,
    TOWARD_POSITIVE,
)

from . import drawn_loops, nearest_loops, words
from . import fast as fast_loops
from .compiling import inlined, kept, sources
from .fast import fast
from .words import BLOCK, fill_words

CHUNK, WORDLESS = 2048, 4096
"""Elements that are rounded at a time: their random words stay in the cache, and where there are none, twice as many do."""
GUARD = 33
HALF = 1 << (GUARD - 1)
IMPLICIT = 1 << 52
FRACTION = IMPLICIT - 1
HUGE = 1 << 53
STEP = 9
LIMB = 27
LIMB_MASK = (1 << LIMB) - 1
DROPPED = 45
A, B = 0, 1


@inlined
def significand(x: Any) -> Any:
    """x = m 2^q with m of 53 bits, for positive finite x."""
    bits = np.float64(x).view(np.int64)
    m, q = bits & FRACTION, (bits >> 52) - 1075
    if q > -1075:
        return m | IMPLICIT, q
    q += 1
    while m < IMPLICIT:
        m <<= 1
        q -= 1
    return m, q


@inlined
def power_of_two(e: Any) -> Any:
    """2^e in float64: exact from 2^-1074 to 2^1023, infinite above."""
    if e < -1022:
        return np.int64(np.int64(1) << (e + 1074)).view(np.float64)
    return np.int64(np.int64(min(e + 1023, 2047)) << 52).view(np.float64)


@inlined
def ulp_exponent(e: Any, rule: Any) -> Any:
    """The exponent of the ulp of numbers from 2^e on."""
    return rule.smallest_exponent if e < rule.min_exponent else e - rule.mantissa_bits


@inlined
def shift(m: Any, sticky: Any, places: Any, modular: Any) -> Any:
    """(k, 33 bits of v, whether v has more) of m 2^-places = k + v; to the left, k modulo 2^64 or beyond every range."""
    if places <= 0:
        return (m << min(-places, 62) if modular or places == 0 else HUGE), np.int64(0), sticky
    right, kept = min(places, 62), min(max(places - GUARD, 0), 62)
    k = m >> right
    rest = m - (k << right)
    fraction = rest >> kept
    return k, fraction << max(GUARD - places, 0), sticky or fraction << kept != rest


@inlined
def long_division(remainder: Any, divisor: Any, bits: Any) -> Any:
    """The next quotient bits (modulo 2^64) of remainder < divisor < 2^54, and what remains."""
    quotient = np.int64(0)
    while bits > 0:
        step = min(bits, STEP)
        dividend = remainder << step
        digit = dividend // divisor
        quotient = (quotient << step) + digit
        remainder = dividend - digit * divisor
        bits -= step
    return quotient, remainder


@inlined
def divide(x: Any, scale: Any, rule: Any) -> Any:
    """(k, 33 bits of v, sticky, the exponent of the ulp) of the exact quotient of positive finite numbers."""
    a, a_exponent = significand(x)
    b, b_exponent = significand(scale)
    if b == IMPLICIT:
        e = a_exponent - b_exponent
        exponent = ulp_exponent(e, rule)
        k, fraction, sticky = shift(a, False, exponent - (e - 52), rule.wrap_bits > 0)
        return k, fraction, sticky, exponent
    e = a_exponent - b_exponent
    if a < b:
        a <<= 1
        e -= 1
    b <<= 1
    exponent = ulp_exponent(e, rule)
    whole = e - exponent + 1
    if whole > rule.mantissa_bits + 2 and rule.wrap_bits == 0:
        return np.int64(HUGE), np.int64(0), True, exponent
    k, a = long_division(a, b, whole)
    fraction, a = long_division(a, b, GUARD + min(whole, 0))
    return k, fraction, a != 0, exponent


@inlined
def goes_up(k: Any, fraction: Any, sticky: Any, exponent: Any, negative: Any, rule: Any, word: Any) -> Any:
    """Whether the magnitude takes k + 1 (see Rounding)."""
    mode = rule.mode
    inexact = fraction != 0 or sticky
    odd = ((k if rule.mantissa_bits else k + exponent - rule.parity) & 1) != 0
    if mode == NEAREST_EVEN:
        return fraction > HALF or (fraction == HALF and (sticky or odd))
    if mode == NEAREST_AWAY:
        return fraction >= HALF
    if mode == NEAREST_ZERO:
        return fraction > HALF or (fraction == HALF and sticky)
    if mode == TOWARD_POSITIVE:
        return inexact and not negative
    if mode == TOWARD_NEGATIVE:
        return inexact and negative
    if mode == TO_ODD:
        return inexact and not odd
    if mode == STOCHASTIC:
        n = rule.random_bits
        r = np.int64(word) >> (32 - n)
        if rule.variant == A:
            return (fraction >> (GUARD - n)) + r >= np.int64(1) << n
        if rule.variant == B:
            return (fraction >> (GUARD - n - 1)) + 2 * r + 1 >= np.int64(1) << (n + 1)
        whole, half = fraction >> (GUARD - n), np.int64(1) << (GUARD - n - 1)
        rest = fraction - (whole << (GUARD - n))
        whole += rest > half or (rest == half and (sticky or (whole & 1) != 0))
        return whole + r >= np.int64(1) << n
    return False


@inlined
def in_range(k: Any, exponent: Any, negative: Any, rule: Any) -> Any:
    """The value of k ulp of either sign, or what the overflow rule makes of it."""
    magnitude = np.float64(k) * power_of_two(exponent)
    if magnitude == 0 or magnitude < rule.flush_outputs:
        return rule.rounded_minus_zero if negative else rule.rounded_zero
    value = -magnitude if negative else magnitude
    if value > rule.max_value:
        return rule.above
    return rule.below if value < rule.min_value else value


@inlined
def wrapped(k: Any, negative: Any, rule: Any) -> Any:
    """k modulo 2^bits, as the rule's two's complement or unsigned number."""
    code = (-k if negative else k) & ((np.int64(1) << rule.wrap_bits) - 1)
    if rule.min_value < 0:
        code -= (code >> (rule.wrap_bits - 1)) << rule.wrap_bits
    return np.float64(code) * power_of_two(rule.smallest_exponent)


@inlined
def special(x: Any, rule: Any) -> Any:
    """What a zero, an infinity or NaN becomes."""
    negative = np.float64(x).view(np.int64) < 0
    if x == 0:
        return rule.minus_zero if negative else rule.zero
    if np.isinf(x):
        return rule.minus_infinity if negative else rule.infinity
    return rule.nan


@inlined
def round_quotient(x: Any, scale: Any, word: Any, rule: Any) -> Any:
    """x / scale, exact, rounded by the rule."""
    if x == 0 or scale == 0 or not np.isfinite(x) or not np.isfinite(scale):
        return special(x / scale, rule)
    negative = (x < 0) != (scale < 0)
    k, fraction, sticky, exponent = divide(abs(x), abs(scale), rule)
    if goes_up(k, fraction, sticky, exponent, negative, rule, word):
        k += 1
    return wrapped(k, negative, rule) if rule.wrap_bits else in_range(k, exponent, negative, rule)


@inlined
def multiply(rounded: Any, scale: Any, carrier: Any) -> Any:
    """rounded times scale, rounded once to the carrier."""
    if rounded == 0 or scale == 0 or not np.isfinite(rounded) or not np.isfinite(scale):
        return rounded * scale
    a, a_exponent = significand(abs(rounded))
    b, b_exponent = significand(abs(scale))
    a_high, a_low, b_high, b_low = a >> LIMB, a & LIMB_MASK, b >> LIMB, b & LIMB_MASK
    low = a_low * b_low
    middle = a_high * b_low + a_low * b_high + (low >> LIMB)
    upper = (a_high * b_high << (2 * LIMB - DROPPED)) + (middle >> (DROPPED - LIMB))
    sticky = ((middle & ((1 << (DROPPED - LIMB)) - 1)) | (low & LIMB_MASK)) != 0
    q = a_exponent + b_exponent + DROPPED
    exponent = ulp_exponent(q + 59 + (upper >> 60), carrier)
    k, fraction, sticky = shift(upper, sticky, exponent - q, False)
    negative = (rounded < 0) != (scale < 0)
    if goes_up(k, fraction, sticky, exponent, negative, carrier, np.uint32(0)):
        k += 1
    return in_range(k, exponent, negative, carrier)


@inlined
def general(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, carrier: Any) -> Any:
    """Round every x; element i is divided by scale[stride i]. Returns whether one became NaN."""
    found = False
    for i in range(x.size):
        value = np.float64(x[i])
        if abs(value) < rule.flush_inputs:
            value = np.copysign(0.0, value)
        s = scale[stride * i]
        rounded = round_quotient(value, s, words[i] if rule.mode == STOCHASTIC else np.uint32(0), rule)
        found |= np.isnan(rounded)
        out[i] = multiply(rounded, s, carrier) if s != 1 and rule.rescale != 0 else rounded
    return found


def _entry(version: int) -> Any:
    """round_range, which numba compiles again for another version of its sources."""

    @kept
    def round_range(
        x: Any,
        out: Any,
        low: Any,
        high: Any,
        origin: Any,
        scale: Any,
        geometry: Any,
        draw: Any,
        rules: Any,
        loop: Any,
        narrow: Any,
    ) -> Any:
        """Round the elements low .. high - 1 of a tensor. Returns whether one became NaN.

        Args:
            x, out: contiguous, float32 or float64; their first elements are the tensor's element `origin`.
            scale: float64, at least one element.
            geometry: the fields of a Geometry.
            draw: the numbers of a Draw.
            rules: the records of the format's Rule and the carrier's.
            loop: the fast loop to try on each piece (see fast.py), or None, which compiles to none.
            narrow: the carrier's record where the fast loops multiply into one narrower than float32, else None.
        """
        row, length, stride, period, blocks, size, step = geometry
        rule, carrier = rules[0], rules[1]
        words = np.empty(CHUNK + BLOCK, np.uint32)
        found = version < 0  # False; a version that is not named would not be closed over
        while low < high:
            stop, skip = min(low + (CHUNK if rule.mode == STOCHASTIC else WORDLESS), high), 0
            if rule.mode == STOCHASTIC:
                first = low + draw[4]
                skip = first & (BLOCK - 1)
                fill_words(words, first >> 6, (skip + stop - low + BLOCK - 1) >> 6, draw)
            while low < stop:
                r = low // row
                place = low - r * row
                g = place // length
                end = min(stop, r * row + min((g + 1) * length, row))
                first_scale = ((r // period) * blocks + (r % period) // size) * step + g + stride * (place - g * length)
                pieces = (
                    x[low - origin : end - origin],
                    out[low - origin : end - origin],
                    words[skip : skip + end - low],
                    scale[first_scale:],
                )
                done = False
                if loop is not None:
                    done = fast(*pieces, stride, rule, loop, narrow)
                if not done:
                    found |= general(*pieces, stride, rule, carrier)
                skip += end - low
                low = end
        return found

    return round_range


round_range = _entry(
    sources(
        __file__,
        fast_loops.__file__,
        nearest_loops.__file__,
        drawn_loops.__file__,
        words.__file__,
        lowering.__file__,
        philox.__file__,
    )
)
