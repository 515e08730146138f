"""The innermost sum of a unit: which kernel computes it, with its arguments prepared once for a whole matmul."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hwsim.formats import Float

from . import integers
from .exact import exact_groups, wide
from .fused import CUTS, aligned, scaled_groups
from .grouping import groups, innermost_runs
from .lanes import AT_RUN_TIME, EVEN, Edges, compiled_mode, edges, lanes_hold
from .late import joined_late
from .operands import Array, Port, holds_groups
from .orders import ALONE, Alignment
from .record import Mac
from .shapes import places_of, shape_of, wraps_within
from .spans import span
from .sums import EXACT, double, outer_sum, sequential, stochastic, tree
from .words import Stream

if TYPE_CHECKING:
    from .cpu import Block


class Base(Protocol):
    """The innermost sum."""

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        """acc, the sums so far of a block of results, taken on over the terms ks; `with_c`: acc holds C (a tree's leaf)."""


def base_of(a: Port, b: Port, c: Array | None, mac: Mac, s: Stream) -> Base:
    """The fastest kernel that is exact for this unit on these operands."""
    if mac.fused and mac.fused.fraction_bits != "exact":
        return _Fused(a, b, mac, mac.fused, s)
    places = lanes_hold(mac.accumulator) and (mac.product == "exact" or lanes_hold(mac.product))
    narrow = places and a.fits_lanes(mac) and b.fits_lanes(mac)
    a, b = Port(scaled(a, mac, 1), None, a.format), Port(scaled(b, mac, 0), None, b.format)
    integer = integers.Integers.of(a, b, c, mac)
    if integer is not None:
        return integer
    held = _Held.of(a, b, mac, s)
    if held is not None:
        return held
    if mac.fused or (not narrow and not mac.tree):
        return _Double(a, b, mac) if not mac.fused and _is_double(mac) else _Exact(a, b, mac, s)
    return _Sum(a, b, c, mac, s)


def needs_reference(a: Port, b: Port, c: Array | None, mac: Mac) -> bool:
    """Whether no kernel is exact: trees of float64 sums, aligned products or exact sums of several that float64 does not hold,
    and sums that wrap from beyond what it holds."""
    if any(place.projection.overflow == "wrap" for place in places_of(mac)):
        x, y = Port(scaled(a, mac, 1), None, a.format), Port(scaled(b, mac, 0), None, b.format)
        values = [z for z in (x.values, y.values, c) if z is not None]
        if not wraps_within(list(map(span, values)), mac, a.values.shape[1]) and integers.Integers.of(x, y, c, mac) is None:
            return True
    narrow = a.fits_lanes(mac) and b.fits_lanes(mac)
    if mac.fused is not None:
        return mac.fused.fraction_bits != "exact" and not (narrow and holds_groups(mac, a.format, b.format))
    return mac.tree and not (narrow and lanes_hold(mac.accumulator) and (mac.product == "exact" or lanes_hold(mac.product)))


def expanded(port: Port, mac: Mac, axis: int) -> Array | None:
    """The scale of every element along K, where the unit applies scales to products; None elsewhere."""
    if port.scales is None or mac.scales is None or mac.scales.applied != "product":
        return None
    return np.repeat(port.scales, mac.scales.block, axis=axis).take(np.arange(port.values.shape[axis]), axis=axis)


def scaled(port: Port, mac: Mac, axis: int) -> Array:
    """The elements times their scales, exactly; the elements alone where scales act elsewhere."""
    scales = expanded(port, mac, axis)
    return port.values if scales is None else port.values * scales


def scaled_powers(port: Port, mac: Mac, axis: int) -> Array:
    """The powers of two of the elements times those of their scales."""
    scales = expanded(port, mac, axis)
    elements = powers(port.values, port.min_exponent)
    return elements if scales is None or mac.scales is None else elements * powers(scales, mac.scales.format.grid.min_exponent)


def _is_double(mac: Mac) -> bool:
    """Whether the unit's arithmetic is float64's own."""
    places = [mac.accumulator] if mac.product == "exact" else [mac.accumulator, mac.product]
    return all(
        isinstance(place.format, Float)
        and (place.format.exponent_bits, place.format.mantissa_bits, place.format.specials) == (11, 52, "ieee")
        and place.format.bias is None
        and place.rounding.mode == "nearest_even"
        and place.projection.overflow == "infinity"
        and not mac.flush_results
        for place in places
    )


class _Sum:
    """Sequential and pairwise sums in float64 lanes."""

    def __init__(self, a: Port, b: Port, c: Array | None, mac: Mac, s: Stream) -> None:
        self.a, self.b, self.s, self.tree = a.values, b.values, s, mac.tree
        self.at = edges(mac.accumulator, mac.flush_results)
        product = mac.accumulator if mac.product == "exact" else mac.product
        self.at_product = edges(product, mac.flush_results)
        if mac.tree:
            product_mode = EXACT if mac.product == "exact" else compiled_mode(mac.product.rounding)
            self.kernel = tree(compiled_mode(mac.accumulator.rounding), product_mode)
            return
        self.kernel = (stochastic if mac.accumulator.rounding.is_stochastic else sequential)(shape_of(a, b, c, mac))

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        places = self.at, self.at_product, block.first, width, self.s
        last = (with_c,) if self.tree else ()
        self.kernel(self.a, self.b, acc, block.i0, block.j0, ks.start, ks.stop, *places, *last)


class _Double:
    """Float64 itself."""

    def __init__(self, a: Port, b: Port, mac: Mac) -> None:
        self.a, self.b, self.kernel = a.values, b.values, double(mac.product == "exact")

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        self.kernel(self.a, self.b, acc, block.i0, block.j0, ks.start, ks.stop)


def _grouped(terms: int, mac: Mac, how: Alignment) -> tuple[Any, Any, Any]:
    """The terms in the order of the groups, where each group begins and the last one ends, and each one's first term."""
    found = [g for ks, _ in innermost_runs(range(terms), mac.levels(terms)) for g in groups(how, ks)]
    if how.grouping == "even_odd":
        found = [[*g[::2], *g[1::2]] for g in found]
    order, firsts = np.array([k for g in found for k in g], np.intp), np.array([min(g) for g in found], np.intp)
    return order, np.cumsum([0, *(len(g) for g in found)]), firsts


class _Held:
    """Exact sums of fused groups that float64 holds: formed there, then added to the running sum and rounded once."""

    def __init__(self, a: Port, b: Port, mac: Mac, order: Any, bounds: Any, firsts: Any, s: Stream) -> None:
        self.bounds, self.firsts = bounds, firsts
        self.a, self.b = np.ascontiguousarray(a.values[:, order]), np.ascontiguousarray(b.values[order])
        self.at, self.s = edges(mac.accumulator, mac.flush_results), s
        self.products, self.sum = double(True), outer_sum(compiled_mode(mac.accumulator.rounding), False)

    @classmethod
    def of(cls, a: Port, b: Port, mac: Mac, s: Stream) -> _Held | None:
        """The sums where every partial one of a group is a multiple of one power of two and below 2^53 of it; else None."""
        if mac.fused is None or mac.product != "exact" or mac.fused.negative_zero or not lanes_hold(mac.accumulator):
            return None
        left, right = span(a.values), span(b.values)
        if not (left.finite and right.finite):
            return None
        order, bounds, firsts = _grouped(a.values.shape[1], mac, mac.fused)
        terms = np.diff(bounds).max(initial=0)
        held = left.largest * right.largest * terms <= 2.0**53 * (left.step * right.step)
        return cls(a, b, mac, order, bounds, firsts, s) if held else None

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        g0, g1 = np.searchsorted(self.bounds, (ks.start, ks.stop))
        group, none = np.zeros_like(acc), np.ones((1, 1))
        for g in range(g0, g1):
            self.products(self.a, self.b, group, block.i0, block.j0, int(self.bounds[g]), int(self.bounds[g + 1]))
            self.sum(acc, group, none, self.at, 0, int(self.firsts[g]), block.first, width, self.s)
        acc += 0.0  # no sum is -0


class _Exact:
    """Exact sums in digits, of one product or of a fused group."""

    def __init__(self, a: Port, b: Port, mac: Mac, s: Stream) -> None:
        self.a, self.b, self.s = a.values, b.values, s
        order, self.bounds, self.firsts = _grouped(a.values.shape[1], mac, mac.fused or ALONE)
        if mac.fused:
            self.a, self.b = np.ascontiguousarray(self.a[:, order]), np.ascontiguousarray(self.b[order])
        product = mac.accumulator if mac.product == "exact" else mac.product
        at = edges(mac.accumulator, mac.flush_results)
        self.places = (
            at if mac.fused is None or mac.fused.negative_zero else at._replace(zero=0.0),
            wide(mac.accumulator.format.grid, mac.accumulator.rounding),
            edges(product, mac.flush_results),
            wide(product.format.grid, product.rounding),
        )
        self.flags = mac.product != "exact", mac.fused is None

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        g0, g1 = np.searchsorted(self.bounds, (ks.start, ks.stop))
        exact_groups(
            self.a, self.b, acc, block.i0, block.j0, self.bounds[g0 : g1 + 1], self.firsts[g0:g1], *self.places, *self.flags,
            block.first, width, self.s,
        )  # fmt: skip


class _Fused:
    """Aligned groups: terms put in the order of the groups, exponents as powers of two."""

    def __init__(self, a: Port, b: Port, mac: Mac, how: Alignment, s: Stream) -> None:
        self.s, self.how, self.mac = s, how, mac
        order, self.bounds, self.firsts = _grouped(a.values.shape[1], mac, how)
        self.a, self.b = np.ascontiguousarray(scaled(a, mac, 1)[:, order]), np.ascontiguousarray(scaled(b, mac, 0)[order])
        self.at: Edges = edges(mac.accumulator, mac.flush_results)
        if not how.negative_zero:
            self.at = self.at._replace(zero=0.0)
        self.unit = 2.0 ** int(how.fraction_bits)
        self.low = 2.0**mac.c_format.grid.min_exponent
        self.of_zero = 0.0 if how.e_zero is None else 2.0**how.e_zero
        self.run: Callable[..., None] = self._prepared(a, b, order)

    def _prepared(self, a: Port, b: Port, order: Any) -> Callable[..., None]:
        how, mode, cut = self.how, compiled_mode(self.mac.accumulator.rounding), CUTS[self.how.alignment]
        if how.exact_terms > 1:
            return self._groups(a, b, scaled_groups(mode, cut))
        pa = np.ascontiguousarray(scaled_powers(a, self.mac, 1)[:, order])
        pb = np.ascontiguousarray(scaled_powers(b, self.mac, 0)[order])
        if how.late:
            # Known units of the kind round to nearest even; a kernel for each other mode takes longer to compile than it saves.
            kernel = joined_late(mode if mode == EVEN else AT_RUN_TIME, cut, 2 if how.grouping == "even_odd" else 1)
            return self._late(pa, pb, kernel)
        starts = self.bounds[:-1]
        if not len(starts):
            return lambda *nothing: None
        za = np.where(np.logical_or.reduceat(self.a == 0, starts, axis=1), self.of_zero, 0.0)
        zb = np.where(np.logical_or.reduceat(self.b == 0, starts, axis=0), self.of_zero, 0.0)
        kernel = aligned(mode, cut)

        def run(acc: Array, block: Block, g0: int, g1: int, width: int) -> None:
            kernel(
                self.a, self.b, pa, pb, za, zb, acc, block.i0, block.j0, self.bounds[g0 : g1 + 1], self.firsts[g0:g1],
                g0,                 self.unit, self.low, self.of_zero, self.at, block.first, width, self.s,
            )  # fmt: skip

        return run

    def _late(self, pa: Array, pb: Array, kernel: Callable[..., None]) -> Callable[..., None]:
        late, limit = self.how.late, self.how.product_limit
        if late is None:
            raise ValueError("the unit has no late sum")
        constants = (
            self.unit,
            np.inf if limit is None else 2.0**limit,
            2.0**late.dot_bits,
            2.0**late.sum_bits,
            2.0**late.total_bits,
            0.0 if late.drop_below is None else 2.0**-late.drop_below,
            self.low,
        )

        def run(acc: Array, block: Block, g0: int, g1: int, width: int) -> None:
            place = self.at, block.first, width, self.s
            kernel(self.a, self.b, pa, pb, acc, block.i0, block.j0, self.bounds[g0 : g1 + 1], *constants, *place)

        return run

    def _groups(self, a: Port, b: Port, kernel: Callable[..., None]) -> Callable[..., None]:
        terms = self.a.shape[1]
        scales = self.mac.scales if self.mac.scales and self.mac.scales.applied == "group" else None
        block_terms = scales.block if scales else max(1, terms)
        sa = np.ones((len(self.a), -(-terms // block_terms))) if a.scales is None or scales is None else a.scales
        sb = np.ones((-(-terms // block_terms), self.b.shape[1])) if b.scales is None or scales is None else b.scales
        low = scales.format.grid.min_exponent if scales else 0
        qa, qb = powers(sa, low), powers(sb, low)

        def run(acc: Array, block: Block, g0: int, g1: int, width: int) -> None:
            kernel(
                self.a, self.b, sa, sb, qa, qb, self.how.exact_terms, block_terms, acc, block.i0, block.j0,
                self.bounds[g0 : g1 + 1], self.unit, self.low, self.of_zero, self.at, block.first, width, self.s,
            )  # fmt: skip

        return run

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        g0, g1 = np.searchsorted(self.bounds, (ks.start, ks.stop))
        self.run(acc, block, int(g0), int(g1), width)


def powers(x: Array, min_exponent: int) -> Array:
    """2^exponent of each element, at least 2^min_exponent; 0 for zero, NaN and the infinities."""
    with np.errstate(invalid="ignore"):
        e = np.ldexp(1.0, np.frexp(x)[1] - 1)
    return np.where((x == 0) | ~np.isfinite(x), 0.0, np.maximum(e, 2.0**min_exponent))
