"""The obviously right way: one element at a time, in exact rational arithmetic. Every backend is tested against this."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from math import copysign, floor, isfinite, isinf, isnan

from .base import Format
from .errors import FormatError, NanError
from .grid import Grid, power_of_two
from .levels import Levels
from .rounding import Projection, Rounding

HALF = Fraction(1, 2)
SMALLEST_NORMAL_FLOAT32 = Fraction(2) ** -126


def round_magnitude(magnitude: Fraction, negative: bool, grid: Grid, rounding: Rounding, word: int = 0) -> Fraction:
    """A non-negative real rounded to the grid with an unbounded exponent (see Rounding for the rules).

    Args:
        magnitude: |x|, exact.
        negative: the sign of x, which the directed modes look at.
        grid: the format's grid.
        rounding: the mode.
        word: the 32-bit random word, of which `stochastic` takes the top bits.
    """
    ulp_exponent = grid.ulp_exponent(magnitude)
    ulp = power_of_two(ulp_exponent)
    quotient = magnitude / ulp
    k = floor(quotient)
    v = quotient - k
    return (k + _goes_up(v, is_even(k, ulp_exponent, grid), negative, rounding, word)) * ulp


def is_even(k: int, ulp_exponent: int, grid: Grid) -> bool:
    """Whether the code of k ulp is even: k's parity, except without fraction bits, where each binade has one code."""
    if grid.mantissa_bits == 0:
        k += ulp_exponent - grid.min_exponent - (not grid.zero)
    return k % 2 == 0


def _goes_up(v: Fraction, even: bool, negative: bool, rounding: Rounding, word: int) -> bool:
    match rounding.mode:
        case "nearest_even":
            return v > HALF or (v == HALF and not even)
        case "nearest_away":
            return v >= HALF
        case "nearest_zero":
            return v > HALF
        case "toward_zero":
            return False
        case "toward_positive":
            return v > 0 and not negative
        case "toward_negative":
            return v > 0 and negative
        case "to_odd":
            return v > 0 and even
        case "stochastic":
            n = rounding.random_bits
            r = word >> (32 - n)
            full = 1 << n
            match rounding.variant:
                case "A":
                    return floor(v * full) + r >= full
                case "B":
                    return floor(v * 2 * full) + 2 * r + 1 >= 2 * full
                case "C":
                    return round(v * full) + r >= full


def round_to_level(x: Fraction, levels: Levels, rounding: Rounding, word: int = 0) -> Fraction:
    """A real number rounded to one of the levels (see Levels for inner and outer neighbours, and where nearest changes).

    A level stays, and what lies beyond the levels takes the last one. With v = |x - inner| / |outer - inner|, exactly,
    `stochastic` takes the outer neighbour as Rounding says. `nearest_even` and `to_odd` go by the codes; where these are both
    even or both odd, the one nearer to zero counts as the even one, of two as near the positive one.
    """
    place = bisect_right(levels.values, x)
    if place in (0, len(levels.values)) or x == levels.values[place - 1]:
        return Fraction(levels.values[max(place - 1, 0)])
    low, high = (Fraction(v) for v in levels.values[place - 1 : place + 1])
    inner, outer = sorted((low, high), key=lambda v: (abs(v), (v < 0) != (x < 0)))
    parity = {low: levels.codes[place - 1] % 2, high: levels.codes[place] % 2}
    even, odd = sorted((low, high), key=lambda v: (parity[v], abs(v), v < 0))
    boundary = Fraction(levels.boundaries[place - 1])
    match rounding.mode:
        case "toward_positive":
            return high
        case "toward_negative":
            return low
        case "toward_zero":
            return inner
        case "to_odd":
            return odd
        case "stochastic":
            return outer if _goes_up((x - inner) / (outer - inner), True, x < 0, rounding, word) else inner
        case mode if x == boundary:
            return inner if mode == "nearest_zero" or not levels.ties else outer if mode == "nearest_away" else even
        case _:
            return low if x < boundary else high


def project(x: Fraction | float, fmt: Format, projection: Projection, word: int = 0) -> Fraction | float:
    """The value of the format that an exact real, or a float special, becomes.

    Returns a Fraction, or a float for NaN, the infinities and -0.

    Raises:
        NanError: x becomes NaN, the format has none, and the projection says `error`.
    """
    if isinstance(x, float):
        if isnan(x):
            return not_a_number(fmt, projection)
        if isinf(x):
            return infinite(x < 0, fmt, projection)
        if isinstance(fmt.lattice, Levels):
            return project(Fraction(x), fmt, projection, word)
        return project(Fraction(x), fmt, projection, word) if x else zero(copysign(1, x) < 0, fmt, projection)
    if isinstance(fmt.lattice, Levels):
        small = projection.flush_inputs and abs(x) < SMALLEST_NORMAL_FLOAT32
        return round_to_level(Fraction(0) if small else x, fmt.lattice, projection.rounding, word)
    negative = x < 0
    if x == 0 or (projection.flush_inputs and abs(x) < SMALLEST_NORMAL_FLOAT32):
        return zero(negative, fmt, projection)
    magnitude = round_magnitude(abs(x), negative, fmt.grid, projection.rounding, word)
    if projection.flush_outputs and magnitude < Fraction(fmt.smallest_normal):
        magnitude = Fraction(0)
    return in_range(-magnitude if negative else magnitude, negative, fmt, projection)


def project_scaled(
    x: float, scale: float, fmt: Format, projection: Projection, carrier: Format, word: int = 0
) -> tuple[Fraction | float, Fraction | float]:
    """(r, r scale), where r is the exact quotient x / scale projected, and r scale is rounded once to the carrier.

    Zeros, infinities and NaN, of either operand, divide and multiply as in IEEE 754; `flush_inputs` acts on x.

    Raises:
        FormatError: as `project`.
    """
    if projection.flush_inputs and abs(x) < SMALLEST_NORMAL_FLOAT32:
        x = copysign(0.0, x)
    ordinary = x and scale and isfinite(x) and isfinite(scale)
    quotient = Fraction(x) / Fraction(scale) if ordinary else _special_quotient(x, scale)
    rounded = project(quotient, fmt, replace(projection, flush_inputs=False), word)
    if not (rounded and scale and isfinite(rounded) and isfinite(scale)):
        return rounded, float(rounded) * scale
    product = project(Fraction(rounded) * Fraction(scale), carrier, Projection(overflow="infinity"))
    return rounded, product if product else copysign(0.0, float(rounded)) * copysign(1, scale)


def _special_quotient(x: float, scale: float) -> float:
    """x / scale where one of them is zero, infinite or NaN."""
    sign = copysign(1, x) * copysign(1, scale)
    if isnan(x) or isnan(scale) or (x == 0 and scale == 0) or (isinf(x) and isinf(scale)):
        return float("nan")
    return copysign(0.0 if x == 0 or isinf(scale) else float("inf"), sign)


def in_range(rounded: Fraction, negative: bool, fmt: Format, projection: Projection) -> Fraction | float:
    """A rounded value, or what the overflow rule makes of it. Positive values round to the smallest where there is no zero."""
    grid = fmt.grid
    if rounded == 0 and not grid.zero and not negative:
        return Fraction(grid.min_value)
    if Fraction(grid.min_value) <= rounded <= Fraction(grid.max_value):
        return zero(negative, fmt, projection) if rounded == 0 else rounded
    limit = Fraction(grid.min_value if negative else grid.max_value)
    match projection.overflow:
        case "saturate" | "propagate":
            return limit
        case "nan":
            return not_a_number(fmt, projection)
        case "wrap":
            step = power_of_two(grid.smallest_exponent)
            span = (Fraction(grid.max_value) - Fraction(grid.min_value)) / step + 1
            return ((rounded - Fraction(grid.min_value)) / step % span) * step + Fraction(grid.min_value)
        case "infinity":
            if negative and not fmt.signed:
                return not_a_number(fmt, projection)
            inwards = ("toward_zero", "to_odd", "toward_positive" if negative else "toward_negative")
            return limit if projection.rounding.mode in inwards else float("-inf" if negative else "inf")


def infinite(negative: bool, fmt: Format, projection: Projection) -> Fraction | float:
    """What an infinity becomes."""
    limit = Fraction(fmt.min if negative else fmt.max)
    match projection.overflow:
        case "saturate":
            return limit
        case "nan" | "wrap":
            return not_a_number(fmt, projection)
        case "propagate" | "infinity":
            if not fmt.has_infinity:
                return limit
            if negative and not fmt.signed:
                return limit if projection.overflow == "propagate" else not_a_number(fmt, projection)
            return float("-inf" if negative else "inf")


def not_a_number(fmt: Format, projection: Projection) -> Fraction | float:
    """What NaN becomes.

    Raises:
        NanError: the format has none, and the projection says `error`.
    """
    if fmt.has_nan:
        return float("nan")
    match projection.nan:
        case "max":
            return Fraction(fmt.max)
        case "zero":
            if isinstance(fmt.lattice, Levels):
                return Fraction(0 if 0.0 in fmt.lattice.values else fmt.lattice.smallest_positive)
            return Fraction(0) if fmt.grid.zero else Fraction(fmt.grid.min_value)
        case "error":
            raise NanError(f"NaN given to {fmt}, which has no NaN; allowed: `nan: max` or `nan: zero` say what it becomes", "nan")


def zero(negative: bool, fmt: Format, projection: Projection) -> Fraction | float:
    """What a zero becomes; without a zero, the smallest value, or NaN where overflow is NaN."""
    if not fmt.grid.zero:
        return not_a_number(fmt, projection) if projection.overflow == "nan" else Fraction(fmt.grid.min_value)
    return -0.0 if negative and fmt.grid.negative_zero else Fraction(0)


def check_projection(fmt: Format, projection: Projection) -> None:
    """Refuse an overflow rule that the format cannot follow.

    Raises:
        FormatError: `infinity` or `nan` without such a value, `wrap` outside full-range two's complement and unsigned integers.
    """
    rule = projection.overflow
    if rule == "infinity" and not fmt.has_infinity:
        others = "saturate, nan" if fmt.has_nan else "saturate"
        raise FormatError(f"overflow: got 'infinity' for {fmt}, which has no infinity; allowed: {others}", "overflow")
    if rule == "nan" and not fmt.has_nan:
        raise FormatError(f"overflow: got 'nan' for {fmt}, which has no NaN; allowed: saturate", "overflow")
    if rule == "wrap" and (fmt.kind not in ("integer", "fixed") or getattr(fmt, "symmetric", False)):
        raise FormatError(f"overflow: got 'wrap' for {fmt}; allowed: integers and fixed point that use every code", "overflow")
