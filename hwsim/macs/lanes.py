"""Rounding of float64 lanes inside numba loops: an exact or odd-rounded sum to any grid, without a branch, so that it vectorises.

A float64 is the carrier. A sum of two float64 numbers is rounded to odd there (Boldo and Melquiond, IEEE Trans. Computers 57(4),
2008), after which rounding to a grid of up to 50 mantissa bits is single.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hwsim.formats import Format, Rounding

from .record import Rounded

MODES = {
    "nearest_even": 0,
    "nearest_away": 1,
    "nearest_zero": 2,
    "toward_zero": 3,
    "toward_positive": 4,
    "toward_negative": 5,
    "to_odd": 6,
    ("stochastic", "A"): 7,
    ("stochastic", "B"): 8,
    ("stochastic", "C"): 9,
}
EVEN, AWAY, ZERO, TRUNCATE, UP, DOWN, ODD, STOCHASTIC_A, STOCHASTIC_B, STOCHASTIC_C = range(10)
# Common modes are compiled into the kernels; the others are looked up in `Edges` while they run.
AT_RUN_TIME = -2
COMPILED = (EVEN, TRUNCATE, STOCHASTIC_A)
STEADY = (EVEN, AWAY, ZERO, TRUNCATE, ODD)
FRACTION_BITS = 52
EXPONENT_MASK = 0x7FF << FRACTION_BITS
SIGN_MASK = -(1 << 63)
INVERSE = 2046 << FRACTION_BITS
"""The bits of a power of two, taken from this, are those of its inverse."""


class Edges(NamedTuple):
    """A grid, its limits and its random bits, as the run-time arguments of a kernel."""

    low: float
    low_magic: float
    shift: int
    max_value: float
    min_value: float
    over: float
    under: float
    infinity: float
    negative_infinity: float
    nan: float
    flush_below: float
    zero: float
    span: float
    random_scale: float
    random_shift: int
    random_step: float
    mode: int


def mode_of(rounding: Rounding) -> int:
    """The kernels' number of a rounding mode."""
    return MODES[(rounding.mode, rounding.variant) if rounding.is_stochastic else rounding.mode]


def compiled_mode(rounding: Rounding) -> int:
    """The mode to compile a kernel for: that of the rounding, or AT_RUN_TIME."""
    mode = mode_of(rounding)
    return mode if mode in COMPILED else AT_RUN_TIME


def edges(place: Rounded, flush: bool = False) -> Edges:
    """The run-time arguments that describe one place of rounding."""
    fmt, projection = place.format, place.projection
    grid, mode, rule = fmt.grid, place.rounding.mode, projection.overflow
    nan = _nan(fmt, projection.nan)
    to_infinity = rule == "infinity"
    inwards = to_infinity and place.overflow != "always_infinity"
    over = {"nan": nan, "infinity": np.inf}.get(rule, grid.max_value)
    under = {"nan": nan, "infinity": -np.inf}.get(rule, grid.min_value)
    if inwards and mode in ("toward_zero", "to_odd", "toward_negative"):
        over = grid.max_value
    if inwards and mode in ("toward_zero", "to_odd", "toward_positive"):
        under = grid.min_value
    infinite = {"saturate": (grid.max_value, grid.min_value), "nan": (nan, nan), "wrap": (nan, nan)}.get(rule, (np.inf, -np.inf))
    if not fmt.has_infinity and infinite[0] == np.inf:
        infinite = (grid.max_value, grid.min_value)
    span = grid.max_value - grid.min_value + grid.smallest_positive if rule == "wrap" else 0.0
    bits = place.rounding.random_bits
    low, low_magic, shift = (
        2.0**grid.min_exponent,
        2.0 ** (grid.smallest_exponent + FRACTION_BITS),
        FRACTION_BITS - grid.mantissa_bits,
    )
    if span > 0.0:
        # What wraps keeps its last places, however large it is; from `low` on float64 has none below them.
        low, shift = low_magic, -FRACTION_BITS
    return Edges(
        low=low,
        low_magic=low_magic,
        shift=shift << FRACTION_BITS,
        max_value=grid.max_value,
        min_value=grid.min_value,
        over=over,
        under=under,
        infinity=infinite[0],
        negative_infinity=infinite[1],
        nan=nan,
        flush_below=fmt.smallest_normal if flush else 0.0,
        zero=-0.0 if grid.negative_zero else 0.0,
        span=span,
        random_scale=2.0**bits,
        random_shift=32 - bits,
        random_step=2.0 ** (-FRACTION_BITS - bits),
        mode=mode_of(place.rounding),
    )


def _nan(fmt: Format, rule: str) -> float:
    """What a NaN becomes; NaN stands for the error that the caller raises."""
    if fmt.has_nan or rule == "error":
        return float("nan")
    return fmt.max if rule == "max" else 0.0


def plain(place: Rounded, flush: bool) -> bool:
    """Whether the place is symmetric, with subnormals, -0 and NaN, and treats infinity as overflow: as common floats do."""
    at, grid = edges(place, flush), place.format.grid
    symmetric = grid.max_value == -grid.min_value and at.over == -at.under and at.infinity == -at.negative_infinity
    common = grid.subnormals and grid.negative_zero and place.format.has_nan and not flush
    return symmetric and common and compiled_mode(place.rounding) != AT_RUN_TIME and (at.mode != EVEN or at.infinity == at.over)


def lanes_hold(place: Rounded) -> bool:
    """Whether rounding a float64 that was rounded to odd equals rounding the exact value, for every result of the place."""
    grid, rounding = place.format.grid, place.rounding
    used = grid.mantissa_bits + 1 + (rounding.random_bits + 2 if rounding.is_stochastic else 2)
    return used <= FRACTION_BITS + 1 and grid.smallest_exponent > -900 and max(grid.max_value, -grid.min_value) < 2.0**900


if TYPE_CHECKING:

    def float_bits(x: float) -> int:
        """The 64 bits of a float, as a signed integer."""

    def bits_float(bits: int) -> float:
        """The float with these 64 bits."""

    def fused_multiply_add(a: float, b: float, c: float) -> float:
        """a b + c, rounded once."""
else:

    @intrinsic
    def float_bits(typing: Any, x: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.IntType(64))

        return types.int64(types.float64), build

    @intrinsic
    def bits_float(typing: Any, bits: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.DoubleType())

        return types.float64(types.int64), build

    @intrinsic
    def fused_multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.fma(*args)

        return types.float64(types.float64, types.float64, types.float64), build


@njit(forceinline=True)
def add_to_odd(a: float, b: float, down: bool) -> float:
    """a + b in float64, rounded to odd; an exact zero of unlike signs is -0 where the unit rounds `down` (IEEE 754 6.3)."""
    s = a + b
    late = s - a
    error = (a - (s - late)) + (b - late)
    bits = float_bits(s)
    inexact = error < 0.0 or error > 0.0
    opposite = (float_bits(error) ^ bits) < 0
    odd = (bits - (1 if opposite else 0)) | 1
    s = bits_float(odd if inexact else bits)
    if down:
        s = -0.0 if s == 0.0 and (float_bits(a) < 0 or float_bits(b) < 0) else s
    return s


@njit(forceinline=True)
def round_lane(s: float, at: Edges, mode: int, word: int) -> float:
    """A float64 rounded to the grid of `at`; `word` is the 32-bit random word. A constant `mode` leaves one rule in the loop."""
    bits = float_bits(s)
    m = abs(s)
    magic = bits_float((bits & EXPONENT_MASK) + at.shift) if m >= at.low else at.low_magic
    r = neighbour(m, magic, bits < 0, at, mode, word)
    return bounded(bits_float(float_bits(r) | (bits & SIGN_MASK)), s, at)


@njit(forceinline=True)
def round_plain(s: float, at: Edges, mode: int, word: int) -> float:
    """The same in fewer steps, for places that are `plain`."""
    bits = float_bits(s)
    m = abs(s)
    binade = bits_float(bits & EXPONENT_MASK)
    magic = bits_float(float_bits(binade if binade > at.low else at.low) + at.shift)
    r = neighbour(m, magic, bits < 0, at, mode, word)
    r = at.over if r > at.max_value else r
    if mode != EVEN:
        r = at.infinity if m == np.inf else r
    return bits_float(float_bits(r) | (bits & SIGN_MASK))


@njit(forceinline=True)
def round_steady(s: float, cut: int, at: Edges, mode: int) -> float:
    """The same in whole numbers, by a mode of STEADY, where nothing below the normal values has to be cut; without bounds.

    `cut` is -1 where the exact value lies beyond s, by less than its last place, else 0.
    """
    bits, drop = float_bits(s), at.shift >> FRACTION_BITS
    half = 1 << (drop - 1)
    if mode == EVEN:
        bits += half - 1 + (((bits >> drop) | cut) & 1)
    elif mode == AWAY:
        bits += half
    elif mode == ZERO:
        bits += half - 1 - cut
    elif mode == ODD:
        rest = 2 * half - 1
        bits |= ((bits & rest) | (cut & 1)) + rest
    return bits_float(bits & -(2 * half))


@njit(forceinline=True)
def neighbour(m: float, magic: float, negative: bool, at: Edges, mode: int, word: int) -> float:
    """The magnitude m rounded to a multiple of ulp = magic 2^-52 (the binade above the largest value, and infinity, included)."""
    r = (m + magic) - magic
    if mode == EVEN:
        return r
    ulp = magic * 2.0**-52
    if mode == AWAY:
        return r + ulp if m - r == 0.5 * ulp else r
    if mode == ZERO:
        return r - ulp if r - m == 0.5 * ulp else r
    if mode == UP or mode == DOWN:  # noqa: SIM109
        outwards = negative == (mode == DOWN)
        r = r + ulp if outwards and r < m else r
        return r - ulp if not outwards and r > m else r
    r = r - ulp if r > m else r
    if mode == ODD:
        r = r + ulp if r < m and (float_bits(r + magic) & 1) == 0 else r
    elif mode == STOCHASTIC_A:
        r = r + ulp if (m - r) * at.random_scale >= (at.random_scale - (word >> at.random_shift)) * ulp else r
    elif mode == STOCHASTIC_B:
        twice = 2.0 * at.random_scale
        r = r + ulp if (m - r) * twice >= (twice - 2.0 * (word >> at.random_shift) - 1.0) * ulp else r
    elif mode == STOCHASTIC_C:
        v = np.rint((m - r) / ulp * at.random_scale)
        r = r + ulp if v + (word >> at.random_shift) >= at.random_scale else r
    return r


@njit(forceinline=True)
def bounded(r: float, s: float, at: Edges) -> float:
    """A value `r` on the unbounded grid, or what the flush, overflow, infinity and NaN rules make of it; `s` is before it."""
    out = (r * 0.0 if abs(r) < at.flush_below else r) + at.zero
    if at.span > 0.0:
        return wrapped(out, at)
    out = at.over if out > at.max_value else out
    out = at.under if out < at.min_value else out
    out = at.infinity if s == np.inf else out
    out = at.negative_infinity if s == -np.inf else out
    return at.nan if s != s else out


@njit(forceinline=True)
def within(r: float, at: Edges, clamps: bool) -> float:
    """A sum of finite terms, or what it overflows to; with `clamps` that is the largest value, on both sides."""
    if clamps:
        r = r if r < at.max_value else at.max_value
        return r if r > at.min_value else at.min_value
    r = at.over if r > at.max_value else r
    return at.under if r < at.min_value else r


@njit(forceinline=True)
def wrapped(x: float, at: Edges) -> float:
    """A multiple of the grid's step, modulo its span; NaN and the infinities follow the NaN rule."""
    if not abs(x) < np.inf:
        return at.nan
    turns: float = np.floor((x - at.min_value) / at.span)
    return x - at.span * turns
