"""What arithmetic costs: operands' bits, accumulators' width, and named tables that are never put on one axis."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import ceil, inf, log2
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hwsim.catalogue import CONFIGS, Catalogue
from hwsim.config import load, validate
from hwsim.config.record import Record
from hwsim.errors import ConfigError, not_allowed
from hwsim.fields import format_record
from hwsim.formats import Block, Fixed, Float, Format, Integer
from hwsim.macs import Mac
from hwsim.workload import NATIVE, MultiplyAdd, Rows, Work, bits_per_element, moved_bits, multiply_adds, stored_bits

Positive = Annotated[float, Field(gt=0)]
TERMS = 128
"""Of each sum, where nothing else is said."""


class _Cost(Record):
    description: str = ""
    node: str
    includes: str
    source: str
    unit: str

    @property
    def figures(self) -> dict[tuple[str, str], float]:
        """The single figures that the costs are computed from, by field and key."""
        return {}

    def with_figure(self, place: tuple[str, str], value: float) -> Self:
        """The table with one figure replaced."""
        field, key = place
        return self.model_copy(update={field: {**getattr(self, field), key: value}})


class Bits(_Cost):
    """Bits of the two operands of each multiply-add, as if none of them were used twice; no results, no storage."""

    kind: Literal["bits"]

    def multiply_add(self, a: Format, b: Format, terms: int, unit: Mac = NATIVE) -> float:
        """Bits of the two operands."""
        return bits_per_element(a) + bits_per_element(b)


class Table(_Cost):
    """Energy from published figures: products by both significands' bits multiplied, sums by the bits of the accumulator.

    The figures, by format, are kept exactly. Between two of them the energy is linear in what it goes by; below the first and
    above the last it is proportional to it. Figures of integers serve products of integers and integer sums, those of floats
    all others.
    """

    kind: Literal["table"]
    multiply: dict[str, Positive]
    add: dict[str, Positive]

    @model_validator(mode="after")
    def _both_kinds(self) -> Self:
        for field in ("multiply", "add"):
            names = list(getattr(self, field))
            if {significand(format_record(name))[0] > 0 for name in names} != {True, False}:
                raise ValueError(f"{field}: got {', '.join(names) or 'nothing'}; allowed: at least one integer and one float")
        return self

    @property
    def figures(self) -> dict[tuple[str, str], float]:
        """The energies of products and of sums."""
        return {(field, key): value for field in ("multiply", "add") for key, value in getattr(self, field).items()}

    def multiply_add(self, a: Format, b: Format, terms: int, unit: Mac = NATIVE) -> float:
        """Energy of a product and of its share of the sums that it enters."""
        return self.product(a, b) + sum(share * self.addition(integer, bits) for share, integer, bits in sums(unit, a, b, terms))

    def product(self, a: Format, b: Format) -> float:
        """Energy of a product."""
        (xa, pa), (xb, pb) = significand(a), significand(b)
        return _between(self._points("multiply", xa == xb == 0), pa * pb)

    def addition(self, integer: bool, bits: float) -> float:
        """Energy of an addition in so wide an accumulator."""
        return _between(self._points("add", integer), bits)

    def _points(self, field: Literal["multiply", "add"], integer: bool) -> list[tuple[float, float]]:
        found = []
        for name, energy in getattr(self, field).items():
            fmt = format_record(name)
            exponent, digits = significand(fmt)
            if (exponent == 0) == integer:
                found.append((float(digits**2 if field == "multiply" else fmt.bits), energy))
        return sorted(found)


def _between(points: list[tuple[float, float]], x: float) -> float:
    """Linear between points, proportional outside of them."""
    (first, low), (last, high) = points[0], points[-1]
    if not first < x < last:
        return low * (x / first) if x <= first else high * (x / last)
    i = next(i for i, (at, _) in enumerate(points) if x <= at)
    (left, below), (right, above) = points[i - 1], points[i]
    return below + (above - below) * (x - left) / (right - left)


class Gates(_Cost):
    """Gate counts of one lane of a unit of `lanes` lanes.

    With x exponent and y mantissa bits, integers x = 0 and all bits in y + 1: product p_a p_b full adders; floats also an adder,
    a subtractor and a comparator of x bits, an aligner of n log2(n) multiplexers and a sum of n bits, n = min(2^(x+1) + 2 y,
    the significand of the unit's sum), and a normalizer of n log2(n) multiplexers shared by the lanes. A sum that is rounded
    stochastically adds a flip-flop and a full adder for each random bit. Nothing of integers depends on their accumulator.
    """

    kind: Literal["gates"]
    lanes: Annotated[int, Field(ge=1)]
    sum_bits: Annotated[int, Field(ge=8)]
    cells: dict[Literal["full_adder", "mux2", "compare", "flip_flop"], Positive]

    @property
    def figures(self) -> dict[tuple[str, str], float]:
        """The cells."""
        return {("cells", key): value for key, value in self.cells.items()}

    def multiply_add(self, a: Format, b: Format, terms: int, unit: Mac = NATIVE) -> float:
        """Gates of one multiply-add."""
        (xa, pa), (xb, pb) = significand(a), significand(b)
        adder, mux, compare = self.cells["full_adder"], self.cells["mux2"], self.cells["compare"]
        x = max(xa, xb)
        gates = adder * pa * pb + self._random(unit)
        if x == 0:
            return gates + adder * (pa + pb)
        n = min(float(2 ** (x + 1) + pa + pb - 2), sum_significand(unit, self.sum_bits))
        return gates + adder * (2 * x + n) + compare * x + mux * n * log2(n) * (1 + 1 / self.lanes)

    def _random(self, unit: Mac) -> float:
        rounding = unit.accumulator.rounding
        if unit.is_native or not rounding.is_stochastic:
            return 0.0
        added = stochastic_unit_bits(rounding.random_bits)
        gates = self.cells["flip_flop"] * added["flip_flops"] + self.cells["full_adder"] * added["full_adders"]
        return gates / (1 if unit.fused is None else unit.fused.terms or self.lanes)


Cost = Bits | Table | Gates


class _File(Record):
    cost: Annotated[Cost, Field(discriminator="kind")]


@cache
def cost_tables() -> Mapping[str, Path]:
    """The shipped tables by name."""
    return {path.stem: path for path in sorted((CONFIGS / "costs").glob("*.yaml"))}


def cost(given: str | Path | Cost) -> Cost:
    """A cost table from a shipped name or the path of a YAML file.

    Raises:
        ConfigError: no such name, or a wrong file.
    """
    if not isinstance(given, str | Path):
        return given
    path = Path(given) if str(given).endswith((".yaml", ".yml")) else cost_tables().get(str(given))
    if path is None:
        raise ConfigError(not_allowed("cost", str(given), cost_tables()))
    document = load(path)
    return validate(document, _File, (), Catalogue()).cost


def significand(fmt: Format) -> tuple[int, int]:
    """Exponent bits and significand bits (with the hidden one) that a multiplier of a format sees; 0 exponent bits for integers.

    Raises:
        ConfigError: a format that multipliers do not take as an integer or a float.
    """
    element = fmt.element if isinstance(fmt, Block) else fmt
    if isinstance(element, Float):
        return element.exponent_bits, element.mantissa_bits + 1
    if isinstance(element, Integer | Fixed):
        return 0, element.bits
    raise ConfigError(f"cost: got {fmt}; allowed: integers, fixed point, floats, and blocks of these")


def accumulator_bits(a: Format, b: Format, terms: int) -> int:
    """The width that sums so many products exactly, sign included.

    Integers: a + b + ceil(log2 n). Floats: 2^Ea + Ma + 2^Eb + Mb + ceil(log2 n) - 1 (Aggarwal et al., arXiv 2311.12359).
    """
    (xa, pa), (xb, pb) = significand(a), significand(b)
    carry = ceil(log2(terms)) if terms > 1 else 0
    if xa == xb == 0:
        return pa + pb + carry
    return (2**xa if xa else 0) + (2**xb if xb else 0) + pa + pb - 2 + carry - 1


def sum_significand(unit: Mac, native: float) -> float:
    """Significand bits, the hidden one included, of a unit's inner sum of floats; infinity where it is exact."""
    if unit.is_native:
        return native
    if unit.fused is not None:
        return inf if unit.fused.fraction_bits == "exact" else unit.fused.fraction_bits + 1
    return significand(unit.accumulator.format)[1]


def sums(unit: Mac, a: Format, b: Format, terms: int) -> list[tuple[float, bool, int]]:
    """The additions of one product: how much of each falls to it, whether it is one of integers, and its accumulator's bits.

    A native unit has fp32 sums of floats and exact ones of integers. Sums of chunks and promoted ones add their share.
    """
    if unit.is_native:
        integer = significand(a)[0] == significand(b)[0] == 0
        return [(1.0, integer, accumulator_bits(a, b, terms) if integer else 32)]
    outer = [(level.every, level.into.format) for level in unit.levels(terms)]
    return [(1.0 / every, significand(fmt)[0] == 0, fmt.bits) for every, fmt in [(1, unit.accumulator.format), *outer]]


def stochastic_unit_bits(random_bits: int) -> dict[str, int]:
    """What a stochastic rounding adds to a unit: an LFSR and an adder of its random bits (Ben Ali et al., arXiv 2404.14010)."""
    return {"flip_flops": random_bits, "full_adders": random_bits}


def gemm_cost(table: Cost, audit: Rows, wide: str = "fp32", terms: int = TERMS) -> float:
    """The cost of every multiply-add of a run, from its audit; operands without a cast are of the `wide` format.

    Args:
        table: the costs.
        audit: rows with `gemm`, `role`, `cast`, `flops`, `phase`, `site`, `op`, and of each GEMM its operands and `result`; the
            units that they name in `mac` are those of the catalogue, `native` without a name.
        wide: what an operand without a cast is.
        terms: of each sum, for integer accumulators.
    """
    return work_cost(table, multiply_adds(audit, wide), terms)


def work_cost(table: Cost, work: Work, terms: int = TERMS) -> float:
    """The cost of so many multiply-adds."""
    return sum(count * table.multiply_add(of.a, of.b, terms, of.unit) for of, count in work.items())


__all__ = [
    "TERMS",
    "Bits",
    "Cost",
    "Gates",
    "MultiplyAdd",
    "Table",
    "Work",
    "accumulator_bits",
    "bits_per_element",
    "cost",
    "cost_tables",
    "gemm_cost",
    "moved_bits",
    "multiply_adds",
    "significand",
    "stochastic_unit_bits",
    "stored_bits",
    "sums",
    "work_cost",
]
