"""Rounding blocks of elements in exact integer arithmetic: Triton device functions.

They are the compiled loops of kernels.py without branches. Constants stand behind tensors, as Triton's interpreter asks.
A Rule comes as a pointer to its fields, int64 each (the real ones by their bits), so that a new format compiles nothing.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from hwsim.formats import lowering

FIELD = {name: tl.constexpr(place) for place, name in enumerate(lowering.Rule._fields)}
MODE, RANDOM_BITS, VARIANT = FIELD["mode"], FIELD["random_bits"], FIELD["variant"]
MANTISSA_BITS, MIN_EXPONENT, SMALLEST_EXPONENT = FIELD["mantissa_bits"], FIELD["min_exponent"], FIELD["smallest_exponent"]
PARITY, WRAP_BITS, SIGNED_ZERO, RESCALE = FIELD["parity"], FIELD["wrap_bits"], FIELD["signed_zero"], FIELD["rescale"]
MAX_VALUE, MIN_VALUE, ABOVE, BELOW = FIELD["max_value"], FIELD["min_value"], FIELD["above"], FIELD["below"]
INFINITY, MINUS_INFINITY, NAN = FIELD["infinity"], FIELD["minus_infinity"], FIELD["nan"]
ZERO, MINUS_ZERO = FIELD["zero"], FIELD["minus_zero"]
ROUNDED_ZERO, ROUNDED_MINUS_ZERO = FIELD["rounded_zero"], FIELD["rounded_minus_zero"]
FLUSH_INPUTS, FLUSH_OUTPUTS = FIELD["flush_inputs"], FIELD["flush_outputs"]

NEAREST_EVEN = tl.constexpr(lowering.NEAREST_EVEN)
NEAREST_AWAY = tl.constexpr(lowering.NEAREST_AWAY)
NEAREST_ZERO = tl.constexpr(lowering.NEAREST_ZERO)
TOWARD_POSITIVE = tl.constexpr(lowering.TOWARD_POSITIVE)
TOWARD_NEGATIVE = tl.constexpr(lowering.TOWARD_NEGATIVE)
TO_ODD = tl.constexpr(lowering.TO_ODD)
STOCHASTIC = tl.constexpr(lowering.STOCHASTIC)
A, B = tl.constexpr(0), tl.constexpr(1)

GUARD = tl.constexpr(33)
HALF = tl.constexpr(1 << 32)
IMPLICIT = tl.constexpr(1 << 52)
FRACTION = tl.constexpr((1 << 52) - 1)
HUGE = tl.constexpr(1 << 53)
STEP = tl.constexpr(48)
LIMB = tl.constexpr(27)
LIMB_MASK = tl.constexpr((1 << 27) - 1)
DROPPED = tl.constexpr(45)
KEPT = tl.constexpr(2 * 27 - 45)
CARRIED = tl.constexpr(45 - 27)
CARRIED_MASK = tl.constexpr((1 << (45 - 27)) - 1)
SMALLEST_NORMAL = tl.constexpr(2.0**-1022)


@triton.jit  # type: ignore[untyped-decorator]
def reals(rule: tl.tensor) -> Any:
    """The pointer from which the real fields of a rule are read."""
    return rule.to(tl.pointer_type(tl.float64), bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def float32_of(x: tl.tensor) -> Any:
    """x of at most 32 bits in float32; bfloat16 by its bits, as Triton's interpreter loses its subnormals."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def float64_of(x: tl.tensor) -> Any:
    """x in float64."""
    if x.dtype == tl.float64:
        return x
    else:
        return float32_of(x).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def exactly(x: tl.tensor, dtype: tl.constexpr) -> Any:
    """A float32 or float64 block of values of `dtype` in that dtype."""
    if dtype == tl.bfloat16:
        return (x.to(tl.float32).to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(dtype, bitcast=True)
    elif dtype == tl.float16:
        return x.to(tl.float32).to(dtype)
    else:
        return x.to(dtype)


@triton.jit  # type: ignore[untyped-decorator]
def significand(x: tl.tensor) -> Any:
    """x = m 2^q with m of 53 bits, for positive finite x."""
    subnormal = x < SMALLEST_NORMAL
    bits = tl.where(subnormal, x * 2.0**54, x).to(tl.int64, bitcast=True)
    return (bits & FRACTION) | IMPLICIT, (bits >> 52) - tl.where(subnormal, 1129, 1075)


@triton.jit  # type: ignore[untyped-decorator]
def power_of_two(e: tl.tensor) -> Any:
    """2^e in float64: exact from 2^-1074 to 2^1023, infinite above."""
    normal = tl.minimum(tl.maximum(e + 1023, 1), 2047) << 52
    subnormal = 1 << tl.minimum(tl.maximum(e + 1074, 0), 51)
    return tl.where(e < -1022, subnormal, normal).to(tl.float64, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def ulp_exponent(e: tl.tensor, rule: tl.tensor) -> Any:
    """log2 of the ulp of a magnitude from 2^e to 2^(e + 1)."""
    return tl.where(e < tl.load(rule + MIN_EXPONENT), tl.load(rule + SMALLEST_EXPONENT), e - tl.load(rule + MANTISSA_BITS))


@triton.jit  # type: ignore[untyped-decorator]
def shift(m: tl.tensor, sticky: tl.tensor, places: tl.tensor, modular: tl.tensor) -> Any:
    """(k, the first 33 bits of v, whether v has more) of m 2^-places = k + v; to the left, k modulo 2^64 or beyond all."""
    places = tl.minimum(tl.maximum(places, -62), 95)
    right, kept = tl.minimum(tl.maximum(places, 0), 62), tl.maximum(places - GUARD, 0)
    k = m >> right
    rest = m - (k << right)
    fraction = rest >> kept
    left = tl.where(modular, m << tl.maximum(-places, 0), HUGE)
    up = tl.maximum(-tl.maximum(places, 0) + GUARD, 0)
    return tl.where(places < 0, left, k), fraction << up, sticky | (fraction << kept != rest)


@triton.jit  # type: ignore[untyped-decorator]
def long_division(remainder: tl.tensor, divisor: tl.tensor, bits: tl.tensor) -> Any:
    """The next quotient bits (modulo 2^64) of remainder < divisor < 2^54, and what remains.

    A digit of 48 bits comes from a float64 quotient, which is at most one off; the remainder, exact modulo 2^64, shows which way.
    """
    quotient = tl.zeros_like(remainder)
    left = tl.max(bits)
    while left > 0:
        step = tl.minimum(tl.maximum(bits, 0), STEP)
        estimate = remainder.to(tl.float64) / divisor.to(tl.float64) * power_of_two(step)
        digit = estimate.to(tl.int64)
        remainder = (remainder << step) - digit * divisor
        over, under = remainder >= divisor, remainder < 0
        digit += over.to(tl.int64) - under.to(tl.int64)
        remainder += tl.where(under, divisor, tl.where(over, -divisor, 0))
        quotient = (quotient << step) + digit
        bits -= step
        left -= STEP
    return quotient, remainder


@triton.jit  # type: ignore[untyped-decorator]
def divide(x: tl.tensor, scale: tl.tensor, rule: tl.tensor) -> Any:
    """(k, 33 bits of v, sticky, the exponent of the ulp) of the exact quotient of positive finite numbers."""
    a, a_exponent = significand(x)
    b, b_exponent = significand(scale)
    below_one = a < b
    e = a_exponent - b_exponent - below_one.to(tl.int64)
    remainder, divisor = tl.where(below_one, a << 1, a), b << 1
    exponent = ulp_exponent(e, rule)
    whole = e - exponent + 1
    beyond = (whole > tl.load(rule + MANTISSA_BITS) + 2) & (tl.load(rule + WRAP_BITS) == 0)
    k, remainder = long_division(remainder, divisor, tl.where(beyond, 0, whole))
    fraction, remainder = long_division(remainder, divisor, tl.minimum(whole, 0) + GUARD)
    return tl.where(beyond, HUGE, k), fraction, remainder != 0, exponent


@triton.jit  # type: ignore[untyped-decorator]
def draws_up(fraction: tl.tensor, sticky: tl.tensor, rule: tl.tensor, word: tl.tensor) -> Any:
    """Whether the draw takes k + 1: by the variant's digits of v and the top bits of the word (see Rounding)."""
    n, variant = tl.load(rule + RANDOM_BITS), tl.load(rule + VARIANT)
    r = word.to(tl.int64) >> (32 - n)
    cut = -n + GUARD
    whole, half = fraction >> cut, 1 << (cut - 1)
    rest = fraction - (whole << cut)
    to_nearest = (rest > half) | ((rest == half) & (sticky | (whole & 1 != 0)))
    longer = (fraction >> (cut - 1)) + 2 * r + 1 >= 2 << n
    return tl.where(variant == B, longer, whole + tl.where(variant == A, 0, to_nearest.to(tl.int64)) + r >= 1 << n)


@triton.jit  # type: ignore[untyped-decorator]
def goes_up(
    k: tl.tensor,
    fraction: tl.tensor,
    sticky: tl.tensor,
    exponent: tl.tensor,
    negative: tl.tensor,
    rule: tl.tensor,
    word: tl.tensor,
) -> Any:
    """Whether the magnitude takes k + 1 (see Rounding)."""
    mode = tl.load(rule + MODE)
    inexact = (fraction != 0) | sticky
    tie = (fraction == HALF) & (sticky == 0)
    odd = (tl.where(tl.load(rule + MANTISSA_BITS) == 0, k + exponent - tl.load(rule + PARITY), k) & 1) != 0
    up = inexact & (inexact == 0)
    if mode == NEAREST_EVEN:
        up = (fraction >= HALF) & (odd | (tie == 0))
    elif mode == NEAREST_AWAY:
        up = fraction >= HALF
    elif mode == NEAREST_ZERO:
        up = (fraction >= HALF) & (tie == 0)
    elif mode == TOWARD_POSITIVE:
        up = inexact & (negative == 0)
    elif mode == TOWARD_NEGATIVE:
        up = inexact & negative
    elif mode == TO_ODD:
        up = inexact & (odd == 0)
    elif mode == STOCHASTIC:
        up = draws_up(fraction, sticky, rule, word)
    return up


@triton.jit  # type: ignore[untyped-decorator]
def in_range(k: tl.tensor, exponent: tl.tensor, negative: tl.tensor, rule: tl.tensor) -> Any:
    """The value of k ulp of either sign, or what the overflow rule makes of it."""
    real = reals(rule)
    magnitude = k.to(tl.float64) * power_of_two(exponent)
    vanishes = (magnitude == 0) | (magnitude < tl.load(real + FLUSH_OUTPUTS))
    value = tl.where(negative, -magnitude, magnitude)
    limited = tl.where(value < tl.load(real + MIN_VALUE), tl.load(real + BELOW), value)
    limited = tl.where(value > tl.load(real + MAX_VALUE), tl.load(real + ABOVE), limited)
    return tl.where(vanishes, tl.where(negative, tl.load(real + ROUNDED_MINUS_ZERO), tl.load(real + ROUNDED_ZERO)), limited)


@triton.jit  # type: ignore[untyped-decorator]
def wrapped(k: tl.tensor, negative: tl.tensor, rule: tl.tensor) -> Any:
    """k modulo 2^bits, as the rule's two's complement or unsigned number."""
    real = reals(rule)
    bits = tl.load(rule + WRAP_BITS)
    code = tl.where(negative, -k, k) & ((1 << bits) - 1)
    sign = tl.where(tl.load(real + MIN_VALUE) < 0, code >> (bits - 1), 0)
    return (code - (sign << bits)).to(tl.float64) * power_of_two(tl.load(rule + SMALLEST_EXPONENT))


@triton.jit  # type: ignore[untyped-decorator]
def special(x: tl.tensor, rule: tl.tensor) -> Any:
    """What zeros, infinities and NaN become."""
    real = reals(rule)
    negative = x.to(tl.int64, bitcast=True) < 0
    zeros = tl.where(negative, tl.load(real + MINUS_ZERO), tl.load(real + ZERO))
    infinities = tl.where(negative, tl.load(real + MINUS_INFINITY), tl.load(real + INFINITY))
    return tl.where(x == 0, zeros, tl.where(x != x, tl.load(real + NAN), infinities))


@triton.jit  # type: ignore[untyped-decorator]
def is_ordinary(x: tl.tensor) -> Any:
    """Whether x is finite and not zero."""
    return (x != 0) & (tl.abs(x) < float("inf"))


@triton.jit  # type: ignore[untyped-decorator]
def round_quotient(x: tl.tensor, scale: tl.tensor, word: tl.tensor, rule: tl.tensor) -> Any:
    """x / scale (x itself where scale is None), exact, rounded by the rule: float64 to float64."""
    ordinary = is_ordinary(x)
    negative = x.to(tl.int64, bitcast=True) < 0
    quotient = x
    if scale is None:
        m, q = significand(tl.where(ordinary, tl.abs(x), 1.0))
        exponent = ulp_exponent(q + 52, rule)
        k, fraction, sticky = shift(m, m < 0, exponent - q, tl.load(rule + WRAP_BITS) > 0)
    else:
        ordinary = ordinary & is_ordinary(scale)
        negative = negative ^ (scale.to(tl.int64, bitcast=True) < 0)
        quotient = x / scale
        k, fraction, sticky, exponent = divide(tl.where(ordinary, tl.abs(x), 1.0), tl.where(ordinary, tl.abs(scale), 1.0), rule)
    k += goes_up(k, fraction, sticky, exponent, negative, rule, word).to(tl.int64)
    rounded = tl.where(tl.load(rule + WRAP_BITS) > 0, wrapped(k, negative, rule), in_range(k, exponent, negative, rule))
    return tl.where(ordinary, rounded, special(quotient, rule))


@triton.jit  # type: ignore[untyped-decorator]
def multiply(rounded: tl.tensor, scale: tl.tensor, carrier: tl.tensor) -> Any:
    """rounded times scale, rounded once to the carrier."""
    ordinary = is_ordinary(rounded) & is_ordinary(scale)
    a, a_exponent = significand(tl.where(ordinary, tl.abs(rounded), 1.0))
    b, b_exponent = significand(tl.where(ordinary, tl.abs(scale), 1.0))
    a_high, a_low, b_high, b_low = a >> LIMB, a & LIMB_MASK, b >> LIMB, b & LIMB_MASK
    low = a_low * b_low
    middle = a_high * b_low + a_low * b_high + (low >> LIMB)
    upper = (a_high * b_high << KEPT) + (middle >> CARRIED)
    sticky = ((middle & CARRIED_MASK) | (low & LIMB_MASK)) != 0
    q = a_exponent + b_exponent + DROPPED
    exponent = ulp_exponent(q + 59 + (upper >> 60), carrier)
    k, fraction, sticky = shift(upper, sticky, exponent - q, False)
    negative = (rounded.to(tl.int64, bitcast=True) < 0) ^ (scale.to(tl.int64, bitcast=True) < 0)
    k += goes_up(k, fraction, sticky, exponent, negative, carrier, k).to(tl.int64)
    return tl.where(ordinary, in_range(k, exponent, negative, carrier), rounded * scale)
