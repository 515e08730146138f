"""A Mac as circuits: the innermost step, the outer sums, and what scales them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Value

from hwsim.errors import FormatError
from hwsim.formats import Float, Format
from hwsim.macs.orders import Chunked
from hwsim.macs.record import Mac, Rounded

from .circuit import Circuit, Port
from .converters import identifier
from .reals import product, unpacked
from .rounding import Target, rounded
from .steps import Step, sum_code
from .wires import Wires

TREE_TERMS = 4


@dataclass(frozen=True)
class Unit:
    """A dot-product unit as circuits.

    Attributes:
        step: takes the innermost sum on by one group of terms: `a`, `b` (and `scale_a`, `scale_b`) and the sum so far, `c`, give
            `d`. Of a tree it is the whole tree.
        outer: for each outer sum, innermost first: the sum so far, `c`, and a partial sum, `a` (times `scale`), give `d`.
        port: what C's port does to `x` where it flushes, or None: the running sum, which comes back, does not pass it.
        scale: the product of two scales where partial sums are scaled, or None.
        last: where C enters last, its addition, else None.
        operands: the formats of `a` and `b`. terms: how many of them the step takes.
        state: the format of the step's `c`. total: that of the outermost sum's.
    """

    step: Circuit
    outer: tuple[Circuit, ...]
    port: Circuit | None
    scale: Circuit | None
    last: Circuit | None
    operands: tuple[Format, Format]
    terms: int
    state: Format
    total: Format

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        """All of them, the step first, each once."""
        found = {c.name: c for c in (self.step, *self.outer, self.port, self.scale, self.last) if c is not None}
        return tuple(found.values())


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
    build = Step(mac, given, size, state)
    step = Circuit(name, build.inputs, (Port("d", mac.accumulator.format.bits),), build)
    places, circuits = [mac.accumulator, *(level.into for level in outer)], []
    for n, level in enumerate(outer):
        first = total if n == len(outer) - 1 else level.into.format
        circuits.append(_sum(f"{name}_outer{n + 1}", first, places[n].format, level.into, level.scaled, mac))
    last = None
    if mac.c.enters == "last":
        last = _sum(f"{name}_c", mac.outermost.format, mac.c_format, mac.outermost, False, mac)
    scale = _scale(f"{name}_scale", mac) if any(level.scaled for level in outer) else None
    port = _port(f"{name}_port", mac) if mac.flush_inputs != "none" else None
    return Unit(step, tuple(circuits), port, scale, last, given, size, state, total)


def check_lowers(mac: Mac) -> None:
    """Refuse a unit that has no circuit.

    Raises:
        FormatError: it names the field.
    """
    if mac.is_native:
        raise FormatError(
            "order: native has no circuit: its order is not defined; allowed: sequential, fma, pairwise, ...", "order"
        )
    floats = mac.operands is not None and any(isinstance(fmt, Float) for fmt in (*mac.operands.input, *mac.operands.weight))
    if mac.accumulator.projection.overflow == "wrap" and floats:
        raise FormatError("accumulator: `overflow: wrap` has no circuit with float operands; allowed: saturate", "accumulator")
    grid = mac.accumulator.format.grid
    if mac.fused and mac.fused.late:
        raise FormatError("late: a sum that the running sum joins late has no circuit; allowed: without `late`", "late")
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
        c, a = unpacked(w, given["c"], first), unpacked(w, given["a"], second)
        if scaled:
            a = product(w, a, unpacked(w, given["scale"], place.format))
        return {"d": sum_code(w, c, a, place, mac.flush_results, given.get("random"))}

    return Circuit(name, tuple(inputs), (Port("d", place.format.bits),), build)


def _port(name: str, mac: Mac) -> Circuit:
    """C as it enters a unit that flushes."""
    to = Target(mac.c_format, Rounded(format=mac.c_format).projection)

    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        return {"d": rounded(w, unpacked(w, given["x"], to.format, mac.flush_inputs), to)[0]}

    return Circuit(name, (Port("x", to.format.bits),), (Port("d", to.format.bits),), build)


def _scale(name: str, mac: Mac) -> Circuit:
    """The product of two scales, rounded to the outer sum's format."""
    if mac.scales is None:
        raise ValueError("a unit without scales")
    fmt, to = mac.scales.format, Target(mac.outermost.format, Rounded(format=mac.outermost.format).projection)

    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        both = product(w, unpacked(w, given["scale_a"], fmt), unpacked(w, given["scale_b"], fmt))
        return {"d": rounded(w, both, to)[0]}

    return Circuit(name, (Port("scale_a", fmt.bits), Port("scale_b", fmt.bits)), (Port("d", to.format.bits),), build)
