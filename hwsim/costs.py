"""What arithmetic costs: bits moved, accumulator width, and two named tables that are never put on one axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from math import ceil, log2
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter

from hwsim.catalogue import CONFIGS, Catalogue
from hwsim.config import load, validate
from hwsim.config.record import Record
from hwsim.errors import ConfigError, not_allowed
from hwsim.fields import format_record
from hwsim.formats import Block, Fixed, Float, Format, Integer

Positive = Annotated[float, Field(gt=0)]


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
    """Bits of operands; nothing about arithmetic."""

    kind: Literal["bits"]

    def multiply_add(self, a: Format, b: Format, terms: int) -> float:
        """Bits of the two operands."""
        return bits_per_element(a) + bits_per_element(b)


class Table(_Cost):
    """Energy from published figures: products by the bits of both significands, sums by the bits of the accumulator.

    E = m p_a p_b + s w, with m and s those of integers where both operands are, w the bits of the exact accumulator of integers
    and 32 for floats.
    """

    kind: Literal["table"]
    multiply: dict[Literal["integer", "float"], Positive]
    add: dict[Literal["integer", "float"], Positive]
    move: dict[str, Positive] = Field(default_factory=dict)

    @property
    def figures(self) -> dict[tuple[str, str], float]:
        """The energies of products and of sums."""
        return {(field, key): value for field in ("multiply", "add") for key, value in getattr(self, field).items()}

    def multiply_add(self, a: Format, b: Format, terms: int) -> float:
        """Energy of a product and the sum it enters."""
        kind: Literal["integer", "float"] = "integer" if significand(a)[0] == significand(b)[0] == 0 else "float"
        width = accumulator_bits(a, b, terms) if kind == "integer" else 32
        return self.multiply[kind] * significand(a)[1] * significand(b)[1] + self.add[kind] * width


class Gates(_Cost):
    """Gate counts of one lane of a unit of `lanes` lanes.

    With x exponent and y mantissa bits, integers x = 0 and all bits in y + 1: product p_a p_b full adders; floats also an adder,
    a subtractor and a comparator of x bits, an aligner of n log2(n) multiplexers and a sum of n bits, n = min(2^(x+1) + 2 y,
    sum_bits), and a normalizer of n log2(n) multiplexers shared by the lanes.
    """

    kind: Literal["gates"]
    lanes: Annotated[int, Field(ge=1)]
    sum_bits: Annotated[int, Field(ge=8)]
    cells: dict[Literal["full_adder", "mux2", "compare", "flip_flop"], Positive]

    @property
    def figures(self) -> dict[tuple[str, str], float]:
        """The cells."""
        return {("cells", key): value for key, value in self.cells.items()}

    def multiply_add(self, a: Format, b: Format, terms: int) -> float:
        """Gates of one multiply-add."""
        (xa, pa), (xb, pb) = significand(a), significand(b)
        adder, mux, compare = self.cells["full_adder"], self.cells["mux2"], self.cells["compare"]
        x = max(xa, xb)
        gates = adder * pa * pb
        if x == 0:
            return gates + adder * (pa + pb)
        n = min(float(2 ** (x + 1) + pa + pb - 2), self.sum_bits)
        return gates + adder * (2 * x + n) + compare * x + mux * n * log2(n) * (1 + 1 / self.lanes)


Cost = Bits | Table | Gates
_COST: TypeAdapter[Cost] = TypeAdapter(Annotated[Cost, Field(discriminator="kind")])


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


def bits_per_element(fmt: Format) -> float:
    """Stored bits of one element, with its share of its block's scale: MXFP4 4.25, NVFP4 4.5."""
    return fmt.bits_per_element if isinstance(fmt, Block) else float(fmt.bits)


def accumulator_bits(a: Format, b: Format, terms: int) -> int:
    """The width that sums so many products exactly, sign included.

    Integers: a + b + ceil(log2 n). Floats: 2^Ea + Ma + 2^Eb + Mb + ceil(log2 n) - 1 (Aggarwal et al., arXiv 2311.12359).
    """
    (xa, pa), (xb, pb) = significand(a), significand(b)
    carry = ceil(log2(terms)) if terms > 1 else 0
    if xa == xb == 0:
        return pa + pb + carry
    return (2**xa if xa else 0) + (2**xb if xb else 0) + pa + pb - 2 + carry - 1


def stochastic_unit_bits(random_bits: int) -> dict[str, int]:
    """What a stochastic rounding adds to a unit: an LFSR and an adder of its random bits (Ben Ali et al., arXiv 2404.14010)."""
    return {"flip_flops": random_bits, "full_adders": random_bits}


Work = Mapping[tuple[Format, Format], float]
"""How many multiply-adds a run makes of each pair of operand formats."""


def gemm_cost(table: Cost, audit: Iterable[Mapping[str, Any]], wide: str = "fp32", terms: int = 128) -> float:
    """The cost of every multiply-add of a run, from its audit; operands without a cast are of the `wide` format.

    Args:
        table: the costs.
        audit: rows with `gemm`, `role`, `cast`, `flops`, `phase`, `site`, `op`, and of each GEMM its operands and `result`.
        wide: what an operand without a cast is.
        terms: of each sum, for integer accumulators.
    """
    return work_cost(table, multiply_adds(audit, wide), terms)


def work_cost(table: Cost, work: Work, terms: int = 128) -> float:
    """The cost of so many multiply-adds."""
    return sum(count * table.multiply_add(a, b, terms) for (a, b), count in work.items())


def multiply_adds(audit: Iterable[Mapping[str, Any]], wide: str = "fp32", catalogue: Catalogue | None = None) -> Work:
    """The multiply-adds of a run by the formats of their operands, from its audit (see `gemm_cost`).

    Args:
        audit, wide: as for `gemm_cost`.
        catalogue: of the formats that the run's own file declares.

    Raises:
        FormatError: a format of the audit has no name that is known.
    """
    gemms: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in audit:
        if row["gemm"]:
            key = (row["phase"], row["op"], row["site"], row["gemm"])
            gemms.setdefault(key, {"flops": 0, "operands": []})
            if row["role"] == "result":
                gemms[key]["flops"] += row["flops"]
            else:
                gemms[key]["operands"].append(_format_of(row["cast"], wide, catalogue))
    work: dict[tuple[Format, Format], float] = defaultdict(float)
    for gemm in gemms.values():
        a, *rest = gemm["operands"] or [format_record(wide)]
        work[a, rest[0] if rest else a] += gemm["flops"] / 2
    return work


def _format_of(cast: str, wide: str, catalogue: Catalogue | None) -> Format:
    return format_record(wide if cast == "none" else cast.split(" ")[0], catalogue)
