"""Rounding as tensor operations, on any device: integers for significands, no logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hwsim.formats.bits import DIGITS, power_of_two, significand
from hwsim.formats.level_lowering import AnyRule, LevelRule
from hwsim.formats.lowering import STOCHASTIC, VARIANTS, Rule, lower
from hwsim.formats.philox import words
from hwsim.formats.rounding import MODES, Projection
from hwsim.formats.scaled import CARRIERS, Geometry

from .level_vector import round_to_levels
from .refusal import refuse_nan

GUARD = 33
HALF = 1 << (GUARD - 1)
STEP = 9
HUGE = 1 << DIGITS
LIMB = 27
LIMB_MASK = (1 << LIMB) - 1
DROPPED = 45


class Cut(NamedTuple):
    """A magnitude (k + v) ulp: k, the first 33 bits of v, and whether v has more bits than these."""

    k: Tensor
    fraction: Tensor
    sticky: Tensor


def round_tensor(
    x: Tensor, rule: AnyRule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """x rounded by a rule, after division by its scale and times it again, in `dtype`, with x's strides.

    Raises:
        FormatError: the rule refuses NaN, and an element becomes one.
    """
    out = torch.empty_like(x, dtype=dtype)
    if not x.numel():
        return out
    value = x.reshape(-1).to(torch.float64)
    numbers = rule.numbers if isinstance(rule, LevelRule) else rule
    value = torch.where(value.abs() < numbers.flush_inputs, torch.copysign(torch.zeros_like(value), value), value)
    word = words(value.numel(), draw, x.device) if numbers.mode == STOCHASTIC else None
    scales = None
    if scale is not None:
        scales = scale.reshape(-1).to(torch.float64)[geometry.scale_index(value.numel(), x.device)]
    rounded = round_to_levels(value, scales, rule, word) if isinstance(rule, LevelRule) else _round(value, scales, rule, word)
    if numbers.refuses_nan and bool(rounded.isnan().any()):
        refuse_nan(x, rounded)
    result = multiply(rounded, scales, dtype) if scales is not None and numbers.rescale else rounded
    return out.copy_(result.view(x.shape))


def _round(x: Tensor, scale: Tensor | None, rule: Rule, word: Tensor | None) -> Tensor:
    """The exact quotient x / scale rounded by the rule (float64 in, float64 out)."""
    ordinary = x.isfinite() & (x != 0)
    negative = x.signbit()
    special = x
    if scale is not None:
        ordinary &= scale.isfinite() & (scale != 0)
        negative ^= scale.signbit()
        special = x / scale
    magnitude = torch.where(ordinary, x.abs(), 1.0)
    if scale is None:
        m, exponent = significand(magnitude)
        ulp_exponent = _ulp_exponent(exponent + DIGITS - 1, rule)
        cut = _shift(m, torch.zeros_like(ordinary), ulp_exponent - exponent, bool(rule.wrap_bits))
    else:
        cut, ulp_exponent = _divide(magnitude, torch.where(ordinary, scale.abs(), 1.0), rule)
    k = cut.k + _goes_up(cut, ulp_exponent, negative, rule, word)
    rounded = _wrapped(k, negative, rule) if rule.wrap_bits else _in_range(k, ulp_exponent, negative, rule)
    return torch.where(ordinary, rounded, _special(special, rule))


def _ulp_exponent(exponent: Tensor, rule: Rule) -> Tensor:
    return torch.where(exponent < rule.min_exponent, rule.smallest_exponent, exponent - rule.mantissa_bits)


def _shift(m: Tensor, sticky: Tensor, places: Tensor, modular: bool) -> Cut:
    """A significand of up to 61 bits cut `places` from its end; to the left, modulo 2^64 if asked, else beyond every range."""
    right, kept = places.clamp(0, 62), (places - GUARD).clamp(0, 62)
    k = m >> right
    rest = m - (k << right)
    fraction = rest >> kept
    left = m << (-places).clamp(0, 62) if modular else torch.full_like(k, HUGE)
    return Cut(
        torch.where(places < 0, left, k),
        fraction << (GUARD - places).clamp(0, GUARD),
        sticky | (fraction << kept != rest),
    )


def _divide(x: Tensor, scale: Tensor, rule: Rule) -> tuple[Cut, Tensor]:
    """The cut of the exact quotient, and the exponent of its ulp, by long division."""
    (a, a_exponent), (b, b_exponent) = significand(x), significand(scale)
    below_one = a < b
    exponent = a_exponent - b_exponent - below_one.to(torch.int64)
    remainder, divisor = torch.where(below_one, a << 1, a), b << 1
    ulp_exponent = _ulp_exponent(exponent, rule)
    whole = exponent - ulp_exponent + 1
    if rule.wrap_bits:
        k, remainder = _long_division(remainder, divisor, whole, int(whole.max()))
    else:
        most = rule.mantissa_bits + 2
        k, remainder = _long_division(remainder, divisor, whole.clamp(max=most), most)
        k = torch.where(whole > most, HUGE, k)
    fraction, remainder = _long_division(remainder, divisor, GUARD + whole.clamp(max=0), GUARD)
    return Cut(k, fraction, remainder != 0), ulp_exponent


def _long_division(remainder: Tensor, divisor: Tensor, bits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The next `bits` quotient bits (modulo 2^64; none where negative) of remainder < divisor < 2^54, and what remains."""
    quotient = torch.zeros_like(remainder)
    for done in range(0, most, STEP):
        step = (bits - done).clamp(0, STEP)
        dividend = remainder << step
        digit = torch.div(dividend, divisor, rounding_mode="floor")
        quotient = (quotient << step) + digit
        remainder = dividend - digit * divisor
    return quotient, remainder


def _goes_up(cut: Cut, ulp_exponent: Tensor, negative: Tensor, rule: Rule, word: Tensor | None) -> Tensor:
    """Which magnitudes take k + 1 (see Rounding)."""
    inexact = (cut.fraction != 0) | cut.sticky
    tie = (cut.fraction == HALF) & ~cut.sticky
    odd = (cut.k + ulp_exponent - rule.parity if rule.mantissa_bits == 0 else cut.k) & 1 != 0
    match MODES[rule.mode]:
        case "nearest_even":
            return (cut.fraction >= HALF) & (~tie | odd)
        case "nearest_away":
            return cut.fraction >= HALF
        case "nearest_zero":
            return (cut.fraction >= HALF) & ~tie
        case "toward_positive":
            return inexact & ~negative
        case "toward_negative":
            return inexact & negative
        case "to_odd":
            return inexact & ~odd
        case "stochastic" if word is not None:
            return _draws_up(cut, rule, word)
        case _:
            return torch.zeros_like(inexact)


def _draws_up(cut: Cut, rule: Rule, word: Tensor) -> Tensor:
    n = rule.random_bits
    r = word >> (32 - n)
    match VARIANTS[rule.variant]:
        case "A":
            return (cut.fraction >> (GUARD - n)) + r >= 1 << n
        case "B":
            return (cut.fraction >> (GUARD - n - 1)) + 2 * r + 1 >= 1 << (n + 1)
        case _:
            whole, half = cut.fraction >> (GUARD - n), 1 << (GUARD - n - 1)
            rest = cut.fraction - (whole << (GUARD - n))
            nearest = whole + ((rest > half) | ((rest == half) & (cut.sticky | (whole & 1 != 0))))
            return nearest + r >= 1 << n


def _in_range(k: Tensor, ulp_exponent: Tensor, negative: Tensor, rule: Rule) -> Tensor:
    """The value of k ulp of either sign, or what the overflow rule makes of it."""
    magnitude = k.to(torch.float64) * power_of_two(ulp_exponent)
    vanishes = (magnitude == 0) | (magnitude < rule.flush_outputs)
    value = torch.where(negative, -magnitude, magnitude)
    value = torch.where(value > rule.max_value, rule.above, torch.where(value < rule.min_value, rule.below, value))
    return torch.where(vanishes, _by_sign(value, negative, rule.rounded_minus_zero, rule.rounded_zero), value)


def _wrapped(k: Tensor, negative: Tensor, rule: Rule) -> Tensor:
    """k modulo 2^bits, as the rule's two's complement or unsigned number."""
    code = torch.where(negative, -k, k) & ((1 << rule.wrap_bits) - 1)
    if rule.min_value < 0:
        code = code - ((code >> (rule.wrap_bits - 1)) << rule.wrap_bits)
    return code.to(torch.float64) * 2.0**rule.smallest_exponent


def _special(x: Tensor, rule: Rule) -> Tensor:
    """What zeros, infinities and NaN become."""
    negative = x.signbit()
    zeros = _by_sign(x, negative, rule.minus_zero, rule.zero)
    infinities = _by_sign(x, negative, rule.minus_infinity, rule.infinity)
    return torch.where(x.isnan(), rule.nan, torch.where(x.isinf(), infinities, zeros))


def _by_sign(like: Tensor, negative: Tensor, minus: float, plus: float) -> Tensor:
    return torch.full_like(like, plus).masked_fill(negative, minus)


def multiply(rounded: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """rounded times scale, rounded once to `dtype` (in float64)."""
    rule = lower(CARRIERS[dtype], Projection(overflow="infinity"))
    ordinary = rounded.isfinite() & (rounded != 0) & scale.isfinite() & (scale != 0)
    a, a_exponent = significand(torch.where(ordinary, rounded.abs(), 1.0))
    b, b_exponent = significand(torch.where(ordinary, scale.abs(), 1.0))
    (a_high, a_low), (b_high, b_low) = (a >> LIMB, a & LIMB_MASK), (b >> LIMB, b & LIMB_MASK)
    low = a_low * b_low
    middle = a_high * b_low + a_low * b_high + (low >> LIMB)
    upper = (a_high * b_high << (2 * LIMB - DROPPED)) + (middle >> (DROPPED - LIMB))
    sticky = (middle & ((1 << (DROPPED - LIMB)) - 1) | low & LIMB_MASK) != 0
    exponent = a_exponent + b_exponent + DROPPED
    ulp_exponent = _ulp_exponent(exponent + 59 + (upper >> 60), rule)
    cut = _shift(upper, sticky, ulp_exponent - exponent, False)
    negative = rounded.signbit() ^ scale.signbit()
    k = cut.k + _goes_up(cut, ulp_exponent, negative, rule, None)
    return torch.where(ordinary, _in_range(k, ulp_exponent, negative, rule), rounded * scale)
