"""Which sequential kernel sums given operands exactly: the rules by which steps of it are left out."""

from __future__ import annotations

import numpy as np

from hwsim.formats import Float
from hwsim.formats.base import round_log2

from .directions import KNOWN, NEAREST, TOWARD_ZERO, direction_of, sided
from .lanes import AT_RUN_TIME, AWAY, DOWN, EVEN, STEADY, TRUNCATE, ZERO, compiled_mode, edges, mode_of, plain
from .operands import Array, Port, first_foreign
from .record import Mac, Rounded
from .spans import NOTHING, Span, span
from .sums import EXACT, Shape

LANE_BITS, INNOCUOUS_BITS = 53, 48
WORTH_COMPILING = 1 << 22
"""Multiply-accumulates from which on a rounding that is rare gets a kernel of its own, and `steady` sums are looked for."""


def shape_of(a: Port, b: Port, c: Array | None, mac: Mac) -> Shape:
    """What to compile: a kernel for this rounding where the sum is long enough to be worth it, else one that looks it up."""
    accumulator, product, flush = mac.accumulator, mac.product, mac.flush_results
    long = a.values.size * b.values.shape[1] >= WORTH_COMPILING
    single = _single(a, b, c, mac)
    even = mode_of(accumulator.rounding) == EVEN and single
    direction = NEAREST if even else direction_of(accumulator, flush)
    spans = [span(x) for x in (a.values, b.values, c) if x is not None] if long or direction != NEAREST else []
    finite = bool(spans) and all(found.finite for found in spans) and _products_fit(spans, mac)
    steady = _steady(a, spans, mac, NEAREST if even else TOWARD_ZERO) if long and finite and KNOWN else None
    if steady is not None:
        return steady
    mode, product_mode = mode_of(accumulator.rounding), EXACT if product == "exact" else mode_of(product.rounding)
    worth = long or compiled_mode(accumulator.rounding) != AT_RUN_TIME
    directed = direction != NEAREST and worth and (product == "exact" or direction_of(product, flush) == direction)
    if directed and (mode != DOWN or finite):
        is_plain, product_plain = finite and sided(accumulator, flush), product != "exact" and finite and sided(product, flush)
        return Shape(mode, product_mode, is_plain, product_plain, True, direction, _clamps(accumulator, flush))
    product_mode = EXACT if product == "exact" else compiled_mode(product.rounding)
    product_plain = product != "exact" and plain(product, flush)
    return Shape(compiled_mode(accumulator.rounding), product_mode, plain(accumulator, flush), product_plain, single)


def _clamps(place: Rounded, flush: bool) -> bool:
    """Whether what is too large becomes the largest value."""
    at = edges(place, flush)
    return at.over == at.max_value and at.under == at.min_value


def _products_fit(spans: list[Span], mac: Mac) -> bool:
    """Whether no rounded product can overflow."""
    return mac.product == "exact" or 2.0 * spans[0].largest * spans[1].largest < mac.product.format.grid.max_value


def _steady(a: Port, spans: list[Span], mac: Mac, direction: int) -> Shape | None:
    """A kernel that looks for no subnormals, and for no overflow where that is possible; None where the operands do not allow it.

    Sums are multiples of the last place of all addends, which is at least that of the elements' products and that of a rounded
    product's format. Rounding to nearest or toward zero changes a value of the accumulator plus an addend by no more than the
    addend; rounding to odd does so by one unit in the last place at most, and again only after the sum has grown by an exact one.
    So sums stay below twice all addends and one unit. A product stays below twice itself where no subnormal is cut, and where it
    is rounded to nearest or toward zero.
    """
    flush, accumulator, product = mac.flush_results, mac.accumulator, mac.product
    step, of_c = spans[0].step * spans[1].step, [*spans[2:], NOTHING][0]
    mode, product_mode, product_plain, product_steady = mode_of(accumulator.rounding), EXACT, False, False
    if product != "exact":
        product_mode, product_steady = mode_of(product.rounding), _cuts_no_subnormal(product, step, flush)
        product_plain = not product_steady and (plain if direction == NEAREST else sided)(product, flush)
        step = max(step, 2.0**product.format.grid.last_exponent)
        if not product_steady and direction not in (NEAREST, direction_of(product, flush)):
            return None
    if not _cuts_no_subnormal(accumulator, min(step, of_c.step), flush):
        return None
    addends = np.abs(a.values).sum(1).max(initial=0.0) * spans[1].largest + of_c.largest
    twice = product_steady or product_mode in (EXACT, EVEN, AWAY, ZERO, TRUNCATE)
    bounded = bool(twice and 8.0 * addends < accumulator.format.grid.max_value)
    clamps = not bounded and _clamps(accumulator, flush)
    return Shape(mode, product_mode, False, product_plain, True, direction, clamps, True, product_steady, bounded)


def _cuts_no_subnormal(place: Rounded, step: float, flush: bool) -> bool:
    """Whether rounding multiples of `step` changes none below the normal values.

    Either all are values, of a format with subnormals that far down; or none but zero lies there, for the step is a normal value.
    """
    grid = place.format.grid
    exponent = grid.smallest_exponent if grid.subnormals and not flush else grid.min_exponent
    signed = grid.negative_zero and grid.max_value == -grid.min_value
    return mode_of(place.rounding) in STEADY and signed and step >= 2.0**exponent


def _single(a: Port, b: Port, c: Array | None, mac: Mac) -> bool:
    """Whether the sum of accumulator and product in float64, rounded to the accumulator, is the sum rounded once."""
    wide = c is not None and mac.c_format != mac.accumulator.format and first_foreign(c, mac.accumulator.format) is not None
    return not wide and (_fits(a, b, mac) or _innocuous(a, b, mac))


def _fits(a: Port, b: Port, mac: Mac) -> bool:
    """Whether the accumulator plus a product always fits 53 bits, by the declared formats alone."""
    accumulator = mac.accumulator.format.grid
    if mac.product != "exact":
        product = mac.product.format.grid
        lowest, highest = product.last_exponent, round_log2(product.max_value)
    elif a.format is not None and b.format is not None and mac.scales is None:
        ports = a.format.grid, b.format.grid
        lowest = sum(grid.last_exponent for grid in ports)
        highest = 1 + sum(round_log2(max(grid.max_value, -grid.min_value)) for grid in ports)
    else:
        return False
    directed = mac.accumulator.rounding.mode == "toward_negative"
    top = max(highest, round_log2(accumulator.max_value)) + 2
    return not directed and top - min(lowest, accumulator.last_exponent) <= LANE_BITS


def _innocuous(a: Port, b: Port, mac: Mac) -> bool:
    """Whether rounding twice to nearest even is rounding once, as for sums of numbers of up to 24 bits (Figueroa, SIGNUM 1995).

    Let the accumulator have p bits and products q, p + q <= 48. Where float64 does not hold the sum, its smaller operand is less
    than a quarter unit in the last place of the larger. That does not matter if the larger one is a value of p bits: the
    accumulator always, a product where q <= p. Where q > p, a sum dominated by its product has to fit 53 bits or overflow.
    """
    if mac.accumulator.rounding.mode != "nearest_even" or not isinstance(mac.accumulator.format, Float):
        return False
    grid = mac.accumulator.format.grid
    digits = grid.mantissa_bits + 1
    product = a.digits + b.digits if mac.product == "exact" else mac.product.format.grid.mantissa_bits + 1
    short = round_log2(max(grid.max_value, -grid.min_value)) - grid.last_exponent + 4 <= LANE_BITS
    return digits + product <= INNOCUOUS_BITS and (product <= digits or short)


def places_of(mac: Mac) -> list[Rounded]:
    """Every place that a unit rounds at."""
    outer = [level.into for level in mac.levels(1 << 40)]
    return [mac.accumulator, *([] if mac.product == "exact" else [mac.product]), *outer]


def wraps_within(spans: list[Span], mac: Mac, terms: int) -> bool:
    """Whether sums that wrap are exact before they do: float64 holds the largest of them to the last place of all addends."""
    a, b, *others = spans
    grids = [place.format.grid for place in places_of(mac) if place.projection.overflow == "wrap"]
    reach = 2.0 * terms * a.largest * b.largest + sum(other.largest for other in others)
    reach += sum(grid.max_value - grid.min_value for grid in grids)
    last = min([a.step * b.step, *(other.step for other in others), *(2.0**grid.last_exponent for grid in grids)])
    return bool(reach < last * 2.0 ** (LANE_BITS - 1))
