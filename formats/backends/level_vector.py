"""Rounding to levels as tensor operations, on any device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hwsim.formats.base import Format
from hwsim.formats.bits import power_of_two
from hwsim.formats.level_lowering import LevelRule
from hwsim.formats.lowering import STOCHASTIC, VARIANTS, Rule
from hwsim.formats.steps import BASE, steps

LARGEST = 2.0**200
TINY = 2.0**-300
"""Below it no number differs from another of its sign to a draw: thresholds between float32 numbers are multiples of 2^-182."""
SPLITTER = 2.0**27 + 1
COARSE = 2.0**17
"""Random thresholds are split after 17 of their 33 bits: either part times a float32 number is exact in float64."""


def round_to_levels(x: Tensor, scale: Tensor | None, rule: LevelRule, word: Tensor | None) -> Tensor:
    """The exact quotient x / scale as the rule's level (float64 in, float64 out)."""
    numbers, quotient = rule.numbers, x if scale is None else x / scale
    side = torch.zeros_like(x, dtype=torch.int64) if scale is None else _side(x, scale, quotient)
    values, keys = _tables(rule.format, numbers.mode, x.device)
    place = torch.searchsorted(keys, _key(quotient, side), right=True)
    rounded = values[place]
    if word is not None and numbers.mode == STOCHASTIC:
        rounded = _drawn(x, scale, quotient, side, values, place, numbers, word)
    infinite = quotient.isinf() & (x.isinf() if scale is None else x.isinf() | (scale == 0))
    infinities = torch.where(quotient < 0, numbers.minus_infinity, numbers.infinity).to(torch.float64)
    return torch.where(quotient.isnan(), numbers.nan, torch.where(infinite, infinities, rounded))


@lru_cache(maxsize=128)
def _tables(fmt: Format, mode: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The outcomes and the keys of the edges."""
    found = steps(fmt, mode)
    return torch.from_numpy(found.values).to(device), torch.from_numpy(found.keys).to(device)


def _key(quotient: Tensor, side: Tensor) -> Tensor:
    """The keys of real numbers, given by their nearest float64 and the side of it that they lie on (see Steps)."""
    negative = (quotient < 0) | ((quotient == 0) & (side < 0))
    magnitude = quotient.abs().clamp(max=LARGEST).view(torch.int64)
    key = (2 * (magnitude - BASE) + torch.where(negative, -side, side)).clamp(min=1)
    key = torch.where((quotient == 0) & (side == 0), 0, key)
    return torch.where(negative, -key, key)


def _side(x: Tensor, scale: Tensor, quotient: Tensor) -> Tensor:
    """The sign of x / scale - quotient, exactly, for quotients below 2^200."""
    numerator, divisor = _normalized(x, scale)
    near = torch.where(quotient.abs() < LARGEST, quotient, 0)
    product, rest = _product(near, divisor)
    side = ((numerator - product) - rest).sign()
    side = torch.where(quotient == 0, torch.where(x.isfinite() & scale.isfinite(), x.sign() * scale.sign(), 0), side)
    return torch.where(side.isnan(), 0, side).to(torch.int64)


def _normalized(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """x and scale over the power of two that brings the scale to 1 .. 2, and over the scale's sign."""
    divisor, exponent = torch.frexp(scale.abs())
    exponent = 1 - exponent.to(torch.int64)
    half = exponent >> 1
    return x * power_of_two(half) * power_of_two(exponent - half) * scale.sign(), divisor * 2


def _product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a b as the sum of two numbers, exactly (Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """a as the sum of two numbers of 26 bits (Veltkamp)."""
    c = a * SPLITTER
    high = c - (c - a)
    return high, a - high


def _sign_of_sum(terms: list[Tensor]) -> Tensor:
    """The sign of the exact sum: of the last component of Shewchuk's expansion that is not zero."""
    expansion = [terms[0]]
    for rest in terms[1:]:
        for place, e in enumerate(expansion):
            total = rest + e
            back = total - rest
            expansion[place] = (rest - (total - back)) + (e - back)
            rest = total
        expansion.append(rest)
    sign = torch.zeros_like(terms[0])
    for component in expansion:
        sign = torch.where(component != 0, component.sign(), sign)
    return sign


def _drawn(
    x: Tensor,
    scale: Tensor | None,
    quotient: Tensor,
    side: Tensor,
    values: Tensor,
    place: Tensor,
    numbers: Rule,
    word: Tensor,
) -> Tensor:
    """The inner or the outer neighbour: outer where |x / scale - inner| reaches the threshold's share of |outer - inner|."""
    low, high = values[place], values[(place + 1).clamp(max=len(values) - 1)]
    inside = (quotient > values[0]) | ((quotient == values[0]) & (side > 0))
    between = inside & (place < len(values) - 1) & ((quotient != low) | (side != 0))
    total = low + high
    lower_is_inner = (total > 0) | ((total == 0) & ((quotient < 0) | ((quotient == 0) & (side < 0))))
    inner, outer = torch.where(lower_is_inner, low, high), torch.where(lower_is_inner, high, low)
    threshold, included = _threshold(numbers, word)
    coarse, left = (threshold * COARSE).floor() / COARSE, 1 - threshold
    left_coarse = (left * COARSE).floor() / COARSE
    parts = [inner * left_coarse, inner * (left - left_coarse), outer * coarse, outer * (threshold - coarse)]
    if scale is None:
        distance = _sign_of_sum([x, *(-part for part in parts)])
    else:
        ordinary = between & scale.isfinite()
        numerator, divisor = _normalized(torch.where(ordinary, x, 0), torch.where(ordinary, scale, 1))
        tiny = ordinary & (x != 0) & (quotient.abs() < TINY)
        numerator = torch.where(tiny, x.sign() * scale.sign() * TINY, numerator)
        products = [_product(part, divisor) for part in parts]
        distance = _sign_of_sum([numerator, *(-term for product in products for term in product)])
    distance = torch.where(lower_is_inner, distance, -distance)
    up = (distance > 0) | ((distance == 0) & included)
    return torch.where(between, torch.where(up, outer, inner), low)


def _threshold(numbers: Rule, word: Tensor) -> tuple[Tensor, Tensor]:
    """The share v from which on the draw goes outwards, and whether it does so at v itself (see Rounding)."""
    n = numbers.random_bits
    missing = (1 << n) - (word >> (32 - n))
    match VARIANTS[numbers.variant]:
        case "A":
            return missing.double() * 2.0**-n, torch.ones_like(word, dtype=torch.bool)
        case "B":
            return (2 * missing - 1).double() * 2.0 ** -(n + 1), torch.ones_like(word, dtype=torch.bool)
        case _:
            return (2 * missing - 1).double() * 2.0 ** -(n + 1), missing & 1 == 0
