"""The innermost step of a unit, as logic."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.formats import Fixed, Format, Integer
from hwsim.macs.record import Mac, Rounded

from .circuit import Port
from .fused import Term, fused, limited
from .reals import Exact, added, product, unpacked
from .rounding import Target, guard_bits, rounded
from .wires import Wires


def target(place: Rounded, flush: bool = False, positive_zero: bool = False) -> Target:
    """Where a place of a unit rounds to."""
    projection = place.projection
    if flush:
        projection = type(projection)(projection.rounding, projection.overflow, projection.nan, flush_outputs=True)
    return Target(place.format, projection, place.overflow == "always_infinity", positive_zero)


def sum_code(w: Wires, x: Exact, y: Exact, place: Rounded, flush: bool, random: Value | None) -> Value:
    """x + y, rounded."""
    down = place.rounding.mode == "toward_negative"
    total = added(w, x, y, place.format, guard_bits(place.rounding), down)
    return rounded(w, total, target(place, flush), random)[0]


class Step:
    """Writes the innermost step of a unit."""

    def __init__(self, mac: Mac, operands: tuple[Format, Format], terms: int, state: Format) -> None:
        self.mac, self.formats, self.terms, self.state = mac, operands, terms, state
        self.rounding = mac.accumulator.rounding
        self.with_c = not (mac.tree and (bool(mac.levels(1 << 40)) or mac.c.enters == "last"))

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The step's ports."""
        mac, (a, b) = self.mac, self.formats
        ports = [Port("a", a.bits, self.terms), Port("b", b.bits, self.terms)]
        if self.scales:
            ports += [Port(f"scale_{side}", self.scale_format.bits, self.scales) for side in "ab"]
        if self.with_c:
            ports.append(Port("c", self.state.bits))
        if self.rounding.is_stochastic:
            ports.append(Port("random", self.rounding.random_bits, self.additions))
        if mac.product != "exact" and mac.product.rounding.is_stochastic:
            ports.append(Port("random_product", mac.product.rounding.random_bits, self.terms))
        return tuple(ports)

    @property
    def additions(self) -> int:
        """How many additions round."""
        return max(1, self.terms - (not self.with_c)) if self.mac.tree else 1

    @property
    def scales(self) -> int:
        """How many scales the step takes for each operand."""
        scales = self.mac.scales
        return 0 if scales is None or scales.applied == "promotion" else -(-self.terms // scales.block)

    @property
    def scale_format(self) -> Format:
        """The scales' format."""
        if self.mac.scales is None:
            raise ValueError("a unit without scales")
        return self.mac.scales.format

    def __call__(self, w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        """The logic."""
        mac = self.mac
        if self.whole:
            return {"d": self._integers(w, given)}
        a, b = (
            [unpacked(w, given[port][n * f.bits : (n + 1) * f.bits], f, mac.flush_inputs) for n in range(self.terms)]
            for port, f in zip("ab", self.formats, strict=True)
        )
        c = unpacked(w, given["c"], self.state) if self.with_c else None
        random = given.get("random")
        if mac.fused:
            return {"d": self._fused(w, a, b, c, given, random)}
        products = [self._product(w, x, y, n, given) for n, (x, y) in enumerate(zip(a, b, strict=True))]
        if mac.tree:
            return {"d": self._tree(w, products, c, random)}
        if c is None:
            raise ValueError("a sequential step without a running sum")
        return {"d": sum_code(w, c, products[0], mac.accumulator, mac.flush_results, random)}

    @property
    def whole(self) -> bool:
        """Whether all numbers are integers."""
        places = (*self.formats, self.mac.accumulator.format, self.state)
        plain = self.mac.product == "exact" and not self.mac.fused and not self.mac.tree and not self.scales
        return plain and all(isinstance(fmt, Integer | Fixed) for fmt in places) and self._same_unit

    @property
    def _same_unit(self) -> bool:
        a, b = (fmt.grid.smallest_exponent for fmt in self.formats)
        return a + b == self.mac.accumulator.format.grid.smallest_exponent == self.state.grid.smallest_exponent

    def _integers(self, w: Wires, given: Mapping[str, Value]) -> Value:
        fmt = self.mac.accumulator.format
        a, b, c = (
            given[name].as_signed() if f.signed else given[name]
            for name, f in (("a", self.formats[0]), ("b", self.formats[1]), ("c", self.state))
        )
        total = w.let(a * b + c)
        if self.mac.accumulator.projection.overflow == "wrap":
            return total[: fmt.bits]
        step = 2.0**fmt.grid.smallest_exponent
        top, bottom = int(fmt.max / step), int(fmt.min / step)
        return w.let(Mux(total > top, top, Mux(total < bottom, bottom, total))[: fmt.bits])

    def _product(self, w: Wires, x: Exact, y: Exact, n: int, given: Mapping[str, Value]) -> Exact:
        mac = self.mac
        made = product(w, x, y)
        if self.scales and mac.scales is not None and mac.scales.applied == "product":
            made = product(w, made, self._scale(w, given, n))
        if mac.product == "exact":
            return made
        place = mac.product
        bits = place.rounding.random_bits
        word = given["random_product"][n * bits : (n + 1) * bits] if place.rounding.is_stochastic else None
        code, _ = rounded(w, made, target(place, mac.flush_results), word)
        return unpacked(w, code, place.format)

    def _scale(self, w: Wires, given: Mapping[str, Value], n: int) -> Exact:
        fmt, block = self.scale_format, n // (self.mac.scales.block if self.mac.scales else 1)
        bits = slice(block * fmt.bits, (block + 1) * fmt.bits)
        return product(w, unpacked(w, given["scale_a"][bits], fmt), unpacked(w, given["scale_b"][bits], fmt))

    def _tree(self, w: Wires, products: list[Exact], c: Exact | None, random: Value | None) -> Value:
        place, flush, bits, used = self.mac.accumulator, self.mac.flush_results, self.rounding.random_bits, 0
        nodes = ([] if c is None else [c]) + products
        if len(nodes) == 1:
            return rounded(w, nodes[0], target(place, flush), random)[0]
        while True:
            found = []
            for x, y in zip(nodes[::2], nodes[1::2], strict=False):
                word = None if random is None else random[used * bits : (used + 1) * bits]
                used += 1
                code = sum_code(w, x, y, place, flush, word)
                found.append(unpacked(w, code, place.format))
            if len(nodes) == 2:
                return code
            nodes = found + (nodes[-1:] if len(nodes) % 2 else [])

    def _fused(
        self, w: Wires, a: list[Exact], b: list[Exact], c: Exact | None, given: Mapping[str, Value], random: Value | None
    ) -> Value:
        how, mac = self.mac.fused, self.mac
        if how is None or c is None:
            raise ValueError("a fused step needs its alignment and a running sum")
        terms = self._scaled_groups(w, a, b, given) if how.exact_terms > 1 else self._terms(w, a, b, given)
        terms = [Term(limited(w, t.value, how.product_limit), t.point, t.zero) for t in terms]
        total = fused(w, c, terms, how)
        return rounded(w, total, target(mac.accumulator, mac.flush_results, not how.negative_zero), random)[0]

    def _terms(self, w: Wires, a: list[Exact], b: list[Exact], given: Mapping[str, Value]) -> list[Term]:
        """Products, times the scales; where a scale is zero, they are zeros as those of zero elements."""
        found = []
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            value, zero = product(w, x, y), w.let(~(x.nonzero & y.nonzero))
            point = len(x.magnitude) - 1 + len(y.magnitude) - 1
            if self.scales:
                scale = self._scale(w, given, n)
                value, zero = product(w, value, scale), w.let(zero | ~scale.nonzero)
                point += 2 * self.scale_format.grid.mantissa_bits
            found.append(Term(value, point, zero))
        return found

    def _scaled_groups(self, w: Wires, a: list[Exact], b: list[Exact], given: Mapping[str, Value]) -> list[Term]:
        """Exact sums of `exact_terms` products, times the scales."""
        size = self.mac.fused.exact_terms if self.mac.fused else 1
        found = []
        for first in range(0, self.terms, size):
            run = range(first, min(first + size, self.terms))
            products = [product(w, a[n], b[n]) for n in run]
            low = min(p.low for p in products)
            width = max(p.high + len(p.magnitude) for p in products) - low
            placed = [w.shift_left(Cat(Const(0, p.low - low), p.magnitude), p.offset, width) for p in products]
            signed = [w.let(Mux(p.sign, -at, Cat(at, Const(0, 1)).as_signed())) for p, at in zip(products, placed, strict=True)]
            total = w.let(w.total(signed))
            sign = w.let(total < 0)
            magnitude = w.let(Mux(sign, -total, total)[: len(total)])
            value = Exact(sign, magnitude, Const(0, 1), low, 0, len(magnitude) - 1)
            zero = Const(1, 1)
            for n in run:
                zero = w.let(zero & ~(a[n].nonzero & b[n].nonzero))
            point = -low
            if self.scales:
                scale = self._scale(w, given, first)
                value = product(w, value, scale)
                zero = w.let(zero | ~scale.nonzero)
                point += 2 * self.scale_format.grid.mantissa_bits
            found.append(Term(value, point, zero))
        return found
