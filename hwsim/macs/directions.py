"""Directed rounding of float64 lanes by the processor itself: in its own rounding direction a sum is cut as it is formed.

Cutting twice in one direction is cutting once, so that a float64 sum in the direction of the accumulator's rounding needs no
exact error. What remains of a sum that was cut toward zero says how to round it to odd or to nearest. The direction belongs to
the thread, and every kernel sets it back to nearest before it returns.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .lanes import (
    AWAY,
    DOWN,
    EVEN,
    EXPONENT_MASK,
    FRACTION_BITS,
    INVERSE,
    ODD,
    SIGN_MASK,
    STOCHASTIC_A,
    TRUNCATE,
    UP,
    ZERO,
    Edges,
    bits_float,
    bounded,
    edges,
    float_bits,
    mode_of,
    within,
)
from .record import Rounded

TOWARD_ZERO, NEAREST, UPWARD, DOWNWARD = range(4)
DIRECTIONS = {
    EVEN: TOWARD_ZERO, AWAY: TOWARD_ZERO, ZERO: UPWARD, TRUNCATE: TOWARD_ZERO, UP: UPWARD, DOWN: DOWNWARD, ODD: TOWARD_ZERO,
    STOCHASTIC_A: TOWARD_ZERO,
}  # fmt: skip
KNOWN = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
LEAST_DIGITS = 2
"""Mantissa bits with which an infinite sum still has an inverse unit in the last place that is no zero."""
INTEGER = 0x433 << FRACTION_BITS
"""The bits of 2^52: with an integer in their fraction, those of 2^52 plus the integer."""


def direction_of(place: Rounded, flush: bool) -> int:
    """The direction in which the processor does the rounding of a place; NEAREST where it does not."""
    mode, grid = mode_of(place.rounding), place.format.grid
    if not KNOWN or mode not in DIRECTIONS or edges(place, flush).span > 0.0:
        return NEAREST
    if not grid.subnormals or grid.mantissa_bits < LEAST_DIGITS:
        return NEAREST
    return NEAREST if mode == DOWN and not sided(place, flush) else DIRECTIONS[mode]


def sided(place: Rounded, flush: bool) -> bool:
    """Whether both signs have the same values, with subnormals, -0 and NaN."""
    grid = place.format.grid
    return grid.max_value == -grid.min_value and grid.subnormals and grid.negative_zero and place.format.has_nan and not flush


if TYPE_CHECKING:

    def set_direction(direction: int) -> None:
        """Make this thread round float64 arithmetic in a direction."""

    def nearest_integer(x: float) -> float:
        """x rounded to the nearest integer, ties to even, whatever the direction."""
else:

    @intrinsic
    def set_direction(typing: Any, direction: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            builder.call(
                builder.module.declare_intrinsic("llvm.set.rounding", (), kind), [builder.trunc(args[0], ir.IntType(32))]
            )
            return context.get_dummy_value()

        return types.none(types.int64), build

    @intrinsic
    def nearest_integer(typing: Any, x: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])
            return builder.call(builder.module.declare_intrinsic("llvm.roundeven", [ir.DoubleType()], kind), args)

        return types.float64(types.float64), build


@njit(forceinline=True)
def round_directed(s: float, at: Edges, mode: int, plain: bool, word: int) -> float:
    """A sum formed in the direction of `mode`, rounded to the grid of `at`, while the processor rounds in that direction.

    With `plain` the place is `sided`, and infinities come from overflow alone.
    """
    bits = float_bits(s)
    sign = bits & SIGN_MASK
    binade = bits_float(bits & EXPONENT_MASK)
    magic = float_bits(binade if binade > at.low else at.low) + at.shift
    m, c = abs(s), bits_float(magic)
    if mode == UP or mode == DOWN:  # noqa: SIM109
        c = bits_float(magic | sign)
        r = abs((s + c) - c)
    elif mode == AWAY:
        # Twice as fine, so that the last bit says whether the rest is at least one half.
        c = bits_float(magic - (1 << FRACTION_BITS))
        r = bits_float((float_bits(m + c) + 1) & -2) - c
    elif mode == STOCHASTIC_A:
        random = bits_float((word >> at.random_shift) | INTEGER) - 2.0**FRACTION_BITS
        r = (m + random * (c * at.random_step) + c) - c
    else:
        r = (m + c) - c
    if not plain:
        return bounded(bits_float(float_bits(r) | sign), s, at)
    over = -at.under if (mode == UP or mode == DOWN) and bits < 0 else at.over  # noqa: SIM109
    r = over if r > at.max_value else r
    return bits_float(float_bits(r) | sign)


@njit(forceinline=True)
def unequal(x: float, y: float) -> bool:
    """Whether x is more or less than y: not so where an infinite sum leaves NaN."""
    return x < y or x > y


@njit(forceinline=True)
def add_directed(total: float, p: float, at: Edges, mode: int, plain: bool, clamps: bool) -> float:
    """total + p rounded to the grid of `at` by a mode that asks what is left of the sum: EVEN or ODD (the processor rounds toward
    zero) or ZERO (upward). With `plain` see `round_directed`; with `clamps` what is too large becomes the largest value.

    Toward zero, a sum cut to r is exact where r - p gives the total back: what is left has the sign of the sum, so that r - p is
    smaller than the total where the total has that sign too, and else a float64, without rounding.
    """
    s = total + p
    sign = float_bits(s) & SIGN_MASK
    if mode == ZERO:
        opposite = -total - p
        m = s if s > opposite else opposite
        # Twice as fine and rounded up, so that the last bit is set for a rest of up to one half.
        c = bits_float(float_bits(_binade(m, at)) + at.shift - (1 << FRACTION_BITS))
        r = bits_float(float_bits(m + c) & -2) - c
        if plain:
            r = at.over if r > at.max_value else r
            return bits_float(float_bits(r) | sign)
    elif mode == ODD:
        c = bits_float((float_bits(_binade(s, at)) + at.shift) | sign)
        w = s + c
        r = bits_float(float_bits(w) | (1 if unequal((w - c) - p, total) else 0)) - c
    else:
        odd = bits_float(float_bits(s) | (1 if unequal(s - p, total) else 0))
        ulp = float_bits(_binade(s, at)) + (at.shift - (FRACTION_BITS << FRACTION_BITS))
        r = nearest_integer(odd * bits_float(INVERSE - ulp)) * bits_float(ulp)
    if not plain:
        return bounded(bits_float((float_bits(r) & ~SIGN_MASK) | sign), s, at)
    return within(r, at, clamps)


@njit(forceinline=True)
def _binade(s: float, at: Edges) -> float:
    """The power of two of |s|, at least that of the smallest normal value."""
    binade = bits_float(float_bits(s) & EXPONENT_MASK)
    return binade if binade > at.low else at.low
