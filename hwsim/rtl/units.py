"""A Mac as circuits: the innermost step, the outer sums, and what scales them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.errors import FormatError
from hwsim.formats import Fixed, Float, Format, Integer
from hwsim.macs.orders import Chunked
from hwsim.macs.record import Mac, Rounded

from .circuit import Circuit, Port
from .converters import identifier
from .fused import Term, fused, limited
from .reals import Exact, added, product, unpacked
from .rounding import Target, guard_bits, rounded
from .wires import Wires

TREE_TERMS = 4


@dataclass(frozen=True)
class Unit:
    """A dot-product unit as circuits.

    Attributes:
        step: takes the innermost sum on by one group of terms: `a`, `b` (and `scale_a`, `scale_b`) and the sum so far, `c`, give
            `d`. Of a tree it is the whole tree.
        outer: for each outer sum, innermost first: the sum so far, `c`, and a partial sum, `a` (times `scale`), give `d`.
        scale: the product of two scales where partial sums are scaled, or None.
        last: where C enters last, its addition, else None.
        operands: the formats of `a` and `b`. terms: how many of them the step takes.
        state: the format of the step's `c`. total: that of the outermost sum's.
    """

    step: Circuit
    outer: tuple[Circuit, ...]
    scale: Circuit | None
    last: Circuit | None
    operands: tuple[Format, Format]
    terms: int
    state: Format
    total: Format

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        """All of them, the step first, each once."""
        found = {c.name: c for c in (self.step, *self.outer, self.scale, self.last) if c is not None}
        return tuple(found.values())


def target(place: Rounded, flush: bool = False, positive_zero: bool = False) -> Target:
    """Where a place of a unit rounds to."""
    projection = place.projection
    if flush:
        projection = type(projection)(projection.rounding, projection.overflow, projection.nan, flush_outputs=True)
    return Target(place.format, projection, place.overflow == "always_infinity", positive_zero)


def pairs(mac: Mac) -> list[tuple[Format, Format]]:
    """The operand formats that a unit has circuits for: the first of either port, the second of either, and so on.

    Raises:
        FormatError: the unit declares no operands.
    """
    if mac.operands is None:
        raise FormatError("operands: missing; a circuit needs them; allowed: a format, or {input: ..., weight: ...}", "operands")
    found = zip(mac.operands.input, mac.operands.weight, strict=False)
    return list(found)


def lowered(mac: Mac, operands: tuple[Format, Format] | None = None, terms: int | None = None) -> Unit:
    """The circuits of a unit.

    Args:
        operands: formats of A and B; the first ones the unit takes, unless said.
        terms: the leaves of a `pairwise` tree, or the terms of a fused group that takes in all of K (4 unless said).

    Raises:
        FormatError: the unit is `native`, has no declared operands, or its C has a format that the sum's port cannot take, or
            another field has no circuit; the error names the field.
    """
    check_lowers(mac)
    given = operands or pairs(mac)[0]
    name = identifier(mac.name or "unit", *(() if given == pairs(mac)[0] else given))
    size = _terms(mac, terms)
    outer = mac.levels(1 << 40)
    total = _state(mac)
    state = mac.accumulator.format if outer else total
    build = _Builder(mac, given, size, state)
    step = Circuit(name, build.inputs, (Port("d", mac.accumulator.format.bits),), build)
    places, circuits = [mac.accumulator, *(level.into for level in outer)], []
    for n, level in enumerate(outer):
        first = total if n == len(outer) - 1 else level.into.format
        circuits.append(_sum(f"{name}_outer{n + 1}", first, places[n].format, level.into, level.scaled, mac))
    last = None
    if mac.c.enters == "last":
        last = _sum(f"{name}_c", mac.outermost.format, mac.c_format, mac.outermost, False, mac)
    scale = _scale(f"{name}_scale", mac) if any(level.scaled for level in outer) else None
    return Unit(step, tuple(circuits), scale, last, given, size, state, total)


def check_lowers(mac: Mac) -> None:
    """Refuse a unit that has no circuit.

    Raises:
        FormatError: it names the field.
    """
    if mac.is_native:
        raise FormatError(
            "order: native has no circuit: its order is not defined; allowed: sequential, fma, pairwise, ...", "order"
        )
    if mac.flush_inputs != "none" and not mac.flush_results:
        raise FormatError(
            f"flush_inputs: {mac.flush_inputs} has no circuit where results keep subnormals, since C and the running sum share a "
            "port; allowed: none, or with flush_results",
            "flush_inputs",
        )
    floats = mac.operands is not None and any(isinstance(fmt, Float) for fmt in (*mac.operands.input, *mac.operands.weight))
    if mac.accumulator.projection.overflow == "wrap" and floats:
        raise FormatError("accumulator: `overflow: wrap` has no circuit with float operands; allowed: saturate", "accumulator")
    grid = mac.accumulator.format.grid
    aligned = mac.fused and mac.fused.fraction_bits != "exact"
    if aligned and mac.levels(1 << 40) and mac.c_format.grid.min_exponent != grid.min_exponent:
        raise FormatError(
            f"c: {mac.c_format} has no circuit beside an accumulator of {mac.accumulator.format}: a zero sum would have another "
            "exponent; allowed: formats with the same smallest exponent",
            "c",
        )
    if mac.fused and mac.fused.exact_terms == 1 and mac.scales and mac.scales.applied == "group":
        raise FormatError("scales: `applied: group` has no circuit without exact_terms; allowed: product", "scales")


def _terms(mac: Mac, given: int | None) -> int:
    if mac.fused:
        return mac.fused.terms or given or TREE_TERMS
    if isinstance(mac.order, Chunked) and mac.tree:
        return mac.order.chunked
    return given or TREE_TERMS if mac.tree else 1


def _state(mac: Mac) -> Format:
    """The format of the port that both C and the outermost sum come in by."""
    inner, given = mac.outermost.format, mac.c_format
    if mac.c.enters == "last" or given == inner or _within(given, inner):
        return inner
    if _within(inner, given):
        return given
    raise FormatError(f"c: {given} has no circuit: it neither holds {inner} nor is held by it; allowed: {inner}", "c")


def _within(narrow: Format, wide: Format) -> bool:
    if not (isinstance(narrow, Float) and isinstance(wide, Float)):
        return False
    grid = wide.grid
    return narrow.grid.fits(grid.mantissa_bits + 1, grid.smallest_exponent, 2000) and narrow.max <= wide.max


def _sum(name: str, first: Format, second: Format, place: Rounded, scaled: bool, mac: Mac) -> Circuit:
    """c + a, or c + a scale, rounded."""
    random = place.rounding.random_bits if place.rounding.is_stochastic else 0
    inputs = [Port("a", second.bits), Port("c", first.bits)]
    inputs += [Port("scale", place.format.bits)] if scaled else []
    inputs += [Port("random", random)] if random else []

    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        c = unpacked(w, given["c"], first, mac.flush_inputs)
        a = unpacked(w, given["a"], second)
        if scaled:
            a = product(w, a, unpacked(w, given["scale"], place.format))
        return {"d": _added(w, c, a, place, mac.flush_results, given.get("random"))}

    return Circuit(name, tuple(inputs), (Port("d", place.format.bits),), build)


def _scale(name: str, mac: Mac) -> Circuit:
    """The product of two scales, rounded to the outer sum's format."""
    if mac.scales is None:
        raise ValueError("a unit without scales")
    fmt, to = mac.scales.format, Target(mac.outermost.format, Rounded(format=mac.outermost.format).projection)

    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        both = product(w, unpacked(w, given["scale_a"], fmt), unpacked(w, given["scale_b"], fmt))
        return {"d": rounded(w, both, to)[0]}

    return Circuit(name, (Port("scale_a", fmt.bits), Port("scale_b", fmt.bits)), (Port("d", to.format.bits),), build)


def _added(w: Wires, x: Exact, y: Exact, place: Rounded, flush: bool, random: Value | None) -> Value:
    down = place.rounding.mode == "toward_negative"
    total = added(w, x, y, place.format, guard_bits(place.rounding), down)
    return rounded(w, total, target(place, flush), random)[0]


class _Builder:
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
        c = unpacked(w, given["c"], self.state, mac.flush_inputs) if self.with_c else None
        random = given.get("random")
        if mac.fused:
            return {"d": self._fused(w, a, b, c, given, random)}
        products = [self._product(w, x, y, n, given) for n, (x, y) in enumerate(zip(a, b, strict=True))]
        if mac.tree:
            return {"d": self._tree(w, products, c, random)}
        if c is None:
            raise ValueError("a sequential step without a running sum")
        return {"d": _added(w, c, products[0], mac.accumulator, mac.flush_results, random)}

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
                code = _added(w, x, y, place, flush, word)
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
        total = fused(w, c, terms, how, self.state.grid.min_exponent)
        return rounded(w, total, target(mac.accumulator, mac.flush_results, not how.negative_zero), random)[0]

    def _terms(self, w: Wires, a: list[Exact], b: list[Exact], given: Mapping[str, Value]) -> list[Term]:
        found = []
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            value = self._product(w, x, y, n, given)
            scales = 2 * self.scale_format.grid.mantissa_bits if self.scales else 0
            point = len(x.magnitude) - 1 + len(y.magnitude) - 1 + scales
            found.append(Term(value, point, w.let(~(x.nonzero & y.nonzero))))
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
