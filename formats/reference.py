"""The obviously right way: one element at a time, in exact rational arithmetic. Every backend is tested against this."""

from __future__ import annotations

from fractions import Fraction
from math import copysign, floor, isinf, isnan

from .base import Format
from .errors import FormatError
from .grid import Grid
from .rounding import Projection, Rounding

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
    ulp = Fraction(2) ** ulp_exponent
    k = floor(magnitude / ulp)
    v = magnitude / ulp - k
    # The code's parity is k's, except without fraction bits, where each binade has one code.
    even = (k + (ulp_exponent - grid.min_exponent if grid.mantissa_bits == 0 else 0)) % 2 == 0
    return (k + _goes_up(v, even, negative, rounding, word)) * ulp


def _goes_up(v: Fraction, even: bool, negative: bool, rounding: Rounding, word: int) -> bool:
    half = Fraction(1, 2)
    match rounding.mode:
        case "nearest_even":
            return v > half or (v == half and not even)
        case "nearest_away":
            return v >= half
        case "nearest_zero":
            return v > half
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
            match rounding.variant:
                case "A":
                    return floor(v * 2**n) + r >= 2**n
                case "B":
                    return floor(v * 2 ** (n + 1)) + 2 * r + 1 >= 2 ** (n + 1)
                case "C":
                    return round(v * 2**n) + r >= 2**n


def project(x: Fraction | float, fmt: Format, projection: Projection, word: int = 0) -> Fraction | float:
    """The value of the format that an exact real, or a float special, becomes.

    Returns a Fraction, or a float for NaN, the infinities and -0.

    Raises:
        FormatError: x is NaN, the format has none, and the projection says `error`.
    """
    grid = fmt.grid
    if isinstance(x, float):
        if isnan(x):
            return _no_number(fmt, projection)
        if isinf(x):
            return _infinite(x < 0, fmt, projection)
        return _zero(copysign(1, x) < 0, grid) if x == 0 else project(Fraction(x), fmt, projection, word)
    negative = x < 0
    if x == 0:
        return _in_range(x, negative, fmt, projection)
    if projection.flush_inputs and abs(x) < SMALLEST_NORMAL_FLOAT32:
        return _zero(negative, grid)
    magnitude = round_magnitude(abs(x), negative, grid, projection.rounding, word)
    if projection.flush_outputs and magnitude < Fraction(fmt.smallest_normal):
        magnitude = Fraction(0)
    return _in_range(-magnitude if negative else magnitude, negative, fmt, projection)


def _in_range(rounded: Fraction, negative: bool, fmt: Format, projection: Projection) -> Fraction | float:
    """A rounded value, or what the overflow rule makes of it."""
    grid = fmt.grid
    if Fraction(grid.min_value) <= rounded <= Fraction(grid.max_value):
        return _zero(negative, grid) if rounded == 0 else rounded
    if not grid.zero and 0 <= rounded < Fraction(grid.min_value) and not (rounded == 0 and projection.overflow == "nan"):
        return Fraction(grid.min_value)
    limit = Fraction(grid.min_value if negative else grid.max_value)
    match projection.overflow:
        case "saturate" | "propagate":
            return limit if limit or not negative else Fraction(0)
        case "nan":
            return _no_number(fmt, projection)
        case "wrap":
            step = Fraction(2) ** grid.smallest_exponent
            span = (Fraction(grid.max_value) - Fraction(grid.min_value)) / step + 1
            return ((rounded - Fraction(grid.min_value)) / step % span) * step + Fraction(grid.min_value)
        case "infinity":
            if negative and not fmt.signed:
                return _no_number(fmt, projection)
            inwards = ("toward_zero", "to_odd", "toward_positive" if negative else "toward_negative")
            return limit if projection.rounding.mode in inwards else float("-inf" if negative else "inf")


def _infinite(negative: bool, fmt: Format, projection: Projection) -> Fraction | float:
    limit = Fraction(fmt.grid.min_value if negative else fmt.grid.max_value)
    match projection.overflow:
        case "saturate":
            return limit
        case "nan" | "wrap":
            return _no_number(fmt, projection)
        case "propagate" | "infinity":
            if not fmt.has_infinity:
                return limit
            if negative and not fmt.signed:
                return limit if projection.overflow == "propagate" else _no_number(fmt, projection)
            return float("-inf" if negative else "inf")


def _no_number(fmt: Format, projection: Projection) -> Fraction | float:
    if fmt.has_nan:
        return float("nan")
    match projection.nan:
        case "max":
            return Fraction(fmt.grid.max_value)
        case "zero":
            return Fraction(0) if fmt.grid.zero else Fraction(fmt.grid.min_value)
        case "error":
            raise FormatError(f"NaN given to {fmt}, which has no NaN; allowed: `nan: max` or `nan: zero` say what it becomes")


def _zero(negative: bool, grid: Grid) -> Fraction | float:
    if not grid.zero:
        return Fraction(grid.min_value)
    return -0.0 if negative and grid.negative_zero else Fraction(0)


def check_projection(fmt: Format, projection: Projection) -> None:
    """Refuse an overflow rule that the format cannot follow.

    Raises:
        FormatError: `infinity` or `nan` without such a value, `wrap` outside full-range two's complement and unsigned integers.
    """
    rule = projection.overflow
    if rule == "infinity" and not fmt.has_infinity:
        raise FormatError(f"overflow: got 'infinity' for {fmt}, which has no infinity; allowed: saturate{_nan_word(fmt)}", "overflow")
    if rule == "nan" and not fmt.has_nan:
        raise FormatError(f"overflow: got 'nan' for {fmt}, which has no NaN; allowed: saturate", "overflow")
    if rule == "wrap" and (fmt.kind not in ("integer", "fixed") or getattr(fmt, "symmetric", False)):
        raise FormatError(f"overflow: got 'wrap' for {fmt}; allowed: only integers and fixed point that use every code", "overflow")


def _nan_word(fmt: Format) -> str:
    return ", nan" if fmt.has_nan else ""
