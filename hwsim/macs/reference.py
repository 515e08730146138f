"""The obviously right way: one dot product at a time, in exact rational arithmetic, in the words of the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import copysign, floor, inf, isfinite, nan

from hwsim.formats import Draw, Rounding
from hwsim.formats.grid import power_of_two
from hwsim.formats.philox import word
from hwsim.formats.reference import project, round_magnitude

from .grouping import groups, runs
from .orders import Alignment
from .record import Level, Mac, Rounded
from .steps import Part, Real, Step, Watch


@dataclass(frozen=True)
class Terms:
    """The operands of one dot product.

    Args:
        a, b: K element values each. scale_a, scale_b: one scale for each block, or None.
        exponent_a, exponent_b: the smallest exponent of the operands' formats.
        output: the result's row-major index, of `outputs` results; they number the random words.
    """

    a: Sequence[float]
    b: Sequence[float]
    scale_a: Sequence[float] | None
    scale_b: Sequence[float] | None
    exponent_a: int
    exponent_b: int
    output: int
    outputs: int
    draw: Draw


def dot(terms: Terms, c: float | None, mac: Mac, watch: Watch | None = None) -> float:
    """One element of the result (see Mac); `watch` is told every step that rounds.

    The random word of an addition has the index ((level outputs + output) K + k), where k is the first product in the right-hand
    operand; level 0 is the accumulator, 1 the products' own rounding, 2 and on the outer sums from the inside, then C last.
    """
    sums = _Sums(terms, mac, watch)
    size, levels = len(terms.a), mac.levels(len(terms.a))
    start = None if c is None else settle(real(c), Rounded(format=mac.c_format, overflow=None, nan=mac.outermost.nan))
    first = start if mac.c.enters != "last" else None
    if size or first is None:
        total = sums.run(range(size), levels, first)
    else:
        total = sums.settle(first, mac.outermost, 0, 0, [Part("c", first, first)])
    if mac.c.enters == "last" and start is not None:
        total = sums.add(total, start, mac.outermost, len(levels) + 2, 0, "c")
    return float(total)


def real(x: float) -> Real:
    """A float as an exact real."""
    return Fraction(x) if isfinite(x) and not (x == 0 and copysign(1, x) < 0) else x


def sign(x: Real) -> int:
    """-1 or 1; of a NaN, 1."""
    return -1 if x < 0 or (x == 0 and isinstance(x, float)) else 1


def finite(x: Real) -> bool:
    """Whether it is neither NaN nor an infinity."""
    return isinstance(x, Fraction) or x == 0


def times(x: Real, y: Real) -> Real:
    """The exact product; zero times infinity is NaN."""
    if x != x or y != y:
        return nan
    s = sign(x) * sign(y)
    if not (finite(x) and finite(y)):
        return nan if x == 0 or y == 0 else s * inf
    if x == 0 or y == 0:
        return Fraction(0) if s > 0 else -0.0
    return Fraction(x) * Fraction(y)


def plus(x: Real, y: Real, rounding: Rounding) -> Real:
    """The exact sum; the sign of an exact zero as in IEEE 754-2019 section 6.3."""
    if not (finite(x) and finite(y)):
        return float(x if not finite(x) else 0) + float(y if not finite(y) else 0)
    if Fraction(x) + Fraction(y):
        return Fraction(x) + Fraction(y)
    negative = sign(x) < 0 and sign(y) < 0
    if sign(x) != sign(y):
        negative = rounding.mode == "toward_negative"
    return -0.0 if negative else Fraction(0)


def settle(x: Real, place: Rounded, flush: bool = False, random: int = 0) -> Real:
    """The value that an exact real becomes at a place of the unit."""
    fmt, projection = place.format, place.projection
    if place.overflow == "always_infinity" and isinstance(x, Fraction):
        beyond = round_magnitude(abs(x), x < 0, fmt.grid, place.rounding, random) > Fraction(fmt.max)
        if beyond:
            return sign(x) * inf
    if flush:
        projection = type(projection)(projection.rounding, projection.overflow, projection.nan, flush_outputs=True)
    return project(x, fmt, projection, random)


def exponent(x: Fraction, smallest: int) -> int:
    """floor(log2 |x|), not below `smallest`; of zero, `smallest`."""
    if x == 0:
        return smallest
    n, d = abs(x.numerator), x.denominator
    e = n.bit_length() - d.bit_length()  # n / d lies between 2^(e-1) and 2^(e+1)
    return max(e - (n << max(-e, 0) < d << max(e, 0)), smallest)


def cut(x: Real, unit_exponent: int, how: str) -> Fraction:
    """A finite real cut at 2^unit_exponent (see Alignment)."""
    unit = power_of_two(unit_exponent)
    q = Fraction(x) / unit
    toward_zero = floor(abs(q)) * sign(q)
    rules: dict[str, Callable[[], Fraction]] = {
        "truncate": lambda: Fraction(toward_zero),
        "floor": lambda: Fraction(floor(q)),
        "nearest": lambda: Fraction(round(q)),
        "sticky": lambda: toward_zero + Fraction(sign(q), 2) * (q != toward_zero),
    }
    return rules[how]() * unit


class _Sums:
    """The sums of one dot product."""

    def __init__(self, terms: Terms, mac: Mac, watch: Watch | None) -> None:
        self.terms, self.mac, self.watch = terms, mac, watch

    def word(self, level: int, k: int) -> int:
        index = (level * self.terms.outputs + self.terms.output) * len(self.terms.a) + k
        return word(index, self.terms.draw)

    def settle(self, x: Real, place: Rounded, level: int, k: int, parts: Sequence[Part], unit: int | None = None) -> Real:
        """The exact sum x of the parts, which were cut at 2^unit, rounded."""
        random = self.word(level, k) if place.rounding.is_stochastic else None
        result = settle(x, place, self.mac.flush_results, random or 0)
        if self.watch:
            self.watch(Step(level, k, tuple(parts), unit, x, place, random, result))
        return result

    def add(self, x: Real, y: Real, place: Rounded, level: int, k: int, term: str = "") -> Real:
        parts = Part("running sum", x, x), Part(term or ("product" if level == 0 else "partial sum"), y, y)
        return self.settle(plus(x, y, place.rounding), place, level, k, parts)

    def run(self, ks: range, levels: tuple[Level, ...], start: Real | None) -> Real:
        """The sum over a run of k, from `start` (None: from +0, and no leaf in a tree)."""
        if not levels:
            return self.base(ks, start)
        *inner, outermost = levels
        total: Real = Fraction(0) if start is None else start
        for part in runs(ks, outermost.every):
            partial = self.run(part, tuple(inner), None)
            if outermost.scaled:
                partial = times(partial, self.promotion_scale(part.start, outermost.into))
            total = self.add(total, partial, outermost.into, 1 + len(levels), part.start)
        return total

    def base(self, ks: range, start: Real | None) -> Real:
        mac = self.mac
        if mac.tree:
            return self.tree(ks, start)
        total: Real = Fraction(0) if start is None else start
        if mac.fused:
            for group in groups(mac.fused, ks):
                total = self.fuse(total, group, mac.fused)
            return total
        for k in ks:
            total = self.add(total, self.product(k), mac.accumulator, 0, k)
        return total

    def tree(self, ks: range, start: Real | None) -> Real:
        """Neighbours level by level; each node remembers its first product."""
        leaves = [(self.product(k), k) for k in ks]
        nodes = ([] if start is None else [(start, ks.start)]) + leaves
        if len(nodes) < 2:
            value, k = nodes[0] if nodes else (Fraction(0), 0)
            return self.settle(value, self.mac.accumulator, 0, k, [Part("product", value, value)])
        while len(nodes) > 1:
            pairs = zip(nodes[::2], nodes[1::2], strict=False)
            odd = nodes[-1:] if len(nodes) % 2 else []
            nodes = [(self.add(x, y, self.mac.accumulator, 0, k), first) for (x, first), (y, k) in pairs] + odd
        return nodes[0][0]

    def scale(self, k: int) -> tuple[Real, Real]:
        t, scales = self.terms, self.mac.scales
        if scales is None or t.scale_a is None or t.scale_b is None:
            return Fraction(1), Fraction(1)
        return real(t.scale_a[k // scales.block]), real(t.scale_b[k // scales.block])

    def promotion_scale(self, k: int, into: Rounded) -> Real:
        return settle(times(*self.scale(k)), Rounded(format=into.format))

    def product(self, k: int) -> Real:
        value = times(real(self.terms.a[k]), real(self.terms.b[k]))
        if self.mac.scales and self.mac.scales.applied == "product":
            value = times(value, times(*self.scale(k)))
        if self.mac.product == "exact":
            return value
        return self.settle(value, self.mac.product, 1, k, [Part("product", value, value)])

    def fuse(self, total: Real, ks: Sequence[int], how: Alignment) -> Real:
        """One group: the running sum and the products of ks, aligned, summed, rounded once."""
        named = [(_name(part), *self.term(part, how)) for part in _parts(ks, how.exact_terms)]
        terms = [(x, e) for _, x, e in named]
        unit: int | None = None
        kept = [total, *(x for x, _ in terms)]
        exact: Real
        if not all(finite(x) for x in kept):
            exact = Fraction(0)
            for x in [*kept[1:], total]:
                exact = plus(exact, x, Rounding())
        elif how.fraction_bits == "exact":
            exact = sum((Fraction(x) for x in kept), Fraction(0))
        elif how.late:
            exact = self.join_late(Fraction(total), terms, how, how.fraction_bits)
        else:
            e_total = how.e_zero if total == 0 else exponent(Fraction(total), self.smallest)
            exponents = [e for e in (e_total, *(e for _, e in terms)) if e is not None]
            unit = max(exponents, default=0) - how.fraction_bits
            kept = [cut(x, unit, how.alignment) for x in kept]
            exact = sum((Fraction(x) for x in kept), Fraction(0))
        values = [("running sum", total), *((name, x) for name, x, _ in named)]
        parts = [Part(name, x, y) for (name, x), y in zip(values, kept, strict=True)]
        result = self.settle(exact, self.mac.accumulator, 0, ks[0], parts, unit)
        return Fraction(0) if result == 0 and not how.negative_zero else result

    @property
    def smallest(self) -> int:
        """The exponent of subnormal running sums."""
        return self.mac.c_format.grid.min_exponent

    def term(self, ks: Sequence[int], how: Alignment) -> tuple[Real, int | None]:
        """One aligned term, with its exponent: a product, or the scaled exact sum of `exact_terms` products."""
        t = self.terms
        aligned = self.mac.scales is not None and self.mac.scales.applied != "promotion"
        scale_a, scale_b = self.scale(ks[0]) if aligned else (Fraction(1), Fraction(1))
        value: Real = Fraction(0)
        for k in ks:
            value = plus(value, self.product(k), Rounding())
        zero = scale_a == 0 or scale_b == 0 or all(t.a[k] == 0 or t.b[k] == 0 for k in ks)
        e = (
            exponent(Fraction(scale_a), _smallest(self.mac)) + exponent(Fraction(scale_b), _smallest(self.mac))
            if finite(scale_a) and finite(scale_b)
            else 0
        )
        if how.exact_terms > 1:
            value = times(value, times(scale_a, scale_b))
        elif finite(value):
            e += exponent(Fraction(t.a[ks[0]]), t.exponent_a) + exponent(Fraction(t.b[ks[0]]), t.exponent_b)
        if how.product_limit is not None and abs(float(value)) >= 2.0**how.product_limit:
            value = sign(value) * inf
        return value, how.e_zero if zero else e

    def join_late(self, total: Fraction, terms: list[tuple[Real, int | None]], how: Alignment, bits: int) -> Fraction:
        """The products first, then the running sum (see LateSum)."""
        late, smallest = how.late, self.smallest
        if late is None:
            raise ValueError("the unit has no late sum")
        halves = [terms[::2], terms[1::2]] if how.grouping == "even_odd" else [terms]
        sums: list[tuple[Fraction, int]] = []
        for half in halves:
            top = max((e for _, e in half if e is not None), default=None)
            if top is not None:
                sums.append((sum((cut(x, top - bits, how.alignment) for x, _ in half), Fraction(0)), top))
        e_total = exponent(total, smallest)
        e_dot = max((e for _, e in sums), default=e_total)
        joined = sum((cut(x, e_dot - bits, "floor") if len(halves) > 1 else x for x, _ in sums), Fraction(0))
        top = max(e_dot, e_total)
        kept = late.drop_below is None or e_total >= top - late.drop_below
        both = cut(joined, top - late.dot_bits, "floor") + (cut(total, top - late.sum_bits, "floor") if kept else 0)
        return cut(both, exponent(both, smallest) - late.total_bits, "floor")


def _parts(ks: Sequence[int], size: int) -> list[Sequence[int]]:
    edges = [*range(0, len(ks), size), len(ks)]
    return [ks[i:j] for i, j in pairwise(edges)]


def _name(ks: Sequence[int]) -> str:
    return f"product {ks[0]}" if len(ks) == 1 else f"products {ks[0]} to {ks[-1]}"


def _smallest(mac: Mac) -> int:
    return mac.scales.format.grid.min_exponent if mac.scales else 0
