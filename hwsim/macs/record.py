"""One dot-product unit as a frozen record: what it rounds, where, and in which order it adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from hwsim.config.record import Record
from hwsim.errors import FormatError
from hwsim.fields import FormatField, RoundingField
from hwsim.formats import Fixed, Float, Format, Integer, Rounding
from hwsim.formats.base import round_log2
from hwsim.formats.reference import check_projection
from hwsim.formats.rounding import NanRule, Overflow, Projection

from .orders import Alignment, Chunked, Count, Fused, OrderField

ROUNDS = "a signed float with at least one mantissa bit, fixed point or integer"


def _rounds(fmt: Format) -> bool:
    """Whether sums can be rounded to the format."""
    return isinstance(fmt, Float | Fixed | Integer) and fmt.signed and fmt.grid.mantissa_bits >= 1


class Rounded(Record):
    """A place in the unit where an exact real becomes a value of a format.

    Args:
        overflow: as in Projection, or `always_infinity`: infinity under directed roundings too, as tensor cores do.
            `infinity` where the format has one, `saturate` elsewhere, unless said.
        nan: what a NaN becomes in a format without one.
    """

    format: FormatField
    rounding: RoundingField = Rounding()
    overflow: Overflow | Literal["always_infinity"] | None = None
    nan: NanRule = "error"

    @model_validator(mode="after")
    def _possible(self) -> Rounded:
        check_projection(self.format, self.projection)
        if not _rounds(self.format):
            raise FormatError(f"format: got {self.format}; allowed: {ROUNDS}", "format")
        return self

    @property
    def projection(self) -> Projection:
        """The format's rounding and edges; `always_infinity` reads `infinity` here."""
        default: Overflow = "infinity" if self.format.has_infinity else "saturate"
        overflow = "infinity" if self.overflow == "always_infinity" else self.overflow or default
        return Projection(self.rounding, overflow, self.nan)


class Promote(Rounded):
    """Every `every` terms the partial sum is added to an outer sum of format `format` (in YAML `into`) and starts again at +0."""

    every: Count

    @model_validator(mode="before")
    @classmethod
    def _into(cls, given: Any) -> Any:
        if isinstance(given, dict) and "into" in given and "format" not in given:
            return {("format" if key == "into" else key): value for key, value in given.items()}
        return given


class CInput(Record):
    """Where C enters, and what it is rounded to (nearest even) on its way in.

    `first`: the accumulator, or the outermost sum, starts at C; in a tree C is the leftmost leaf. `group`: the same, said of
    fused groups, of which the running sum is a term. `last`: C is added to the finished sum, with one more rounding.
    The format is that of the sum C joins, unless said. In it C overflows to infinity where there is one, else to the largest
    value; a NaN becomes what the sum's rule says. Where K = 0, C alone is rounded to the result's format.
    """

    enters: Literal["first", "group", "last"] = "first"
    format: FormatField | None = None


class Scales(Record):
    """Where the scales of block operands act.

    Args:
        block: how many terms share a scale.
        format: the scales' format.
        applied: `product`: to every product, exactly (their exponents take part in an alignment); `group`: to each exact sum
            of `exact_terms` products; `promotion`: to the partial sum, as round(outer + partial round(scale scale)).
    """

    block: Count
    format: FormatField
    applied: Literal["product", "group", "promotion"] = "product"


class Operands(Record):
    """The formats that A (`input`) and B (`weight`) may have: for a plain tensor the first that has all its values."""

    input: tuple[FormatField, ...]
    weight: tuple[FormatField, ...]


def _operands(given: Any) -> Any:
    if isinstance(given, dict) and set(given) == {"format"}:
        given = given["format"]
    if isinstance(given, dict) and "kind" not in given:
        return {port: _listed(value) for port, value in given.items()}
    if isinstance(given, Operands) or given is None:
        return given
    return {"input": _listed(given), "weight": _listed(given)}


def _listed(given: Any) -> Any:
    return tuple(given) if isinstance(given, list | tuple) else (given,)


@dataclass(frozen=True)
class Level:
    """One outer sum: after every `every` terms what is inside is added to it, rounded by `into`, and starts again at +0."""

    every: int
    into: Rounded
    scaled: bool = False


class Mac(Record):
    """One dot-product unit: d = c + sum over k of a_k b_k, with every rounding and the order of the sum declared.

    Args:
        product: `exact`, or what every product is rounded to.
        accumulator: what every sum is rounded to; fp32 for `native`.
        order: `sequential` (of exact products the same as `fma`), `pairwise` (neighbours level by level, an odd one moves up),
            `chunked(n)`, `{fused: ...}`, or `native`: torch's own matmul, whose order is not defined.
        c: where C enters.
        promote: the outer sum of partial sums.
        split_k: K is cut in so many runs of ceil(K / split_k) terms; their sums, each from +0, are added in order.
        scales: what a unit for block formats does with their scales.
        flush_inputs: subnormal operands and C become zero: `signed` keeps their sign, `positive` makes +0.
        flush_results: products and sums that are subnormal after rounding become a zero of the same sign.
        operands: the operands' formats; any when absent.
        source: where the rules come from.

    Raises:
        pydantic.ValidationError: the unit cannot exist; `mac` gives the same as ConfigError.
    """

    name: str = ""
    product: Literal["exact"] | Rounded = "exact"
    accumulator: Rounded = Rounded(format=Float(8, 23, name="fp32"))
    order: OrderField
    c: Annotated[CInput, BeforeValidator(lambda given: {"enters": given} if isinstance(given, str) else given)] = CInput()
    promote: Promote | None = None
    split_k: Count = 1
    scales: Scales | None = None
    flush_inputs: Literal["none", "signed", "positive"] = "none"
    flush_results: bool = False
    operands: Annotated[Operands | None, BeforeValidator(_operands)] = None
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _native_needs_no_accumulator(cls, given: Any) -> Any:
        if isinstance(given, dict) and "accumulator" not in given and given.get("order") != "native":
            raise ValueError(
                "accumulator: missing; allowed: {format: ..., rounding: ..., overflow: ...} (only `order: native` has none)"
            )
        return given

    @model_validator(mode="after")
    def _possible(self) -> Mac:
        self._check_native()
        self._check_formats()
        self._check_product()
        self._check_promotion()
        self._check_scales()
        self._check_fused()
        self._check_range()
        return self

    @property
    def is_native(self) -> bool:
        """Whether the sum is torch's own, with no defined order."""
        return self.order == "native"

    @property
    def fused(self) -> Alignment | None:
        """The alignment of a fused unit."""
        return self.order.fused if isinstance(self.order, Fused) else None

    @property
    def tree(self) -> bool:
        """Whether the innermost sum is a tree."""
        return self.order == "pairwise" or (isinstance(self.order, Chunked) and self.order.inner == "pairwise")

    @property
    def outermost(self) -> Rounded:
        """What the result is rounded to."""
        return self.promote or self.accumulator

    @property
    def c_format(self) -> Format:
        """What C is rounded to on its way in."""
        return self.c.format or self.outermost.format

    def levels(self, terms: int) -> tuple[Level, ...]:
        """The outer sums for a given K, innermost first."""
        found = []
        if isinstance(self.order, Chunked):
            found.append(Level(self.order.chunked, self.accumulator))
        if self.promote:
            found.append(Level(self.promote.every, self.promote, self.scales is not None and self.scales.applied == "promotion"))
        if self.split_k > 1:
            found.append(Level(max(1, -(-terms // self.split_k)), self.outermost))
        return tuple(found)

    def _check_native(self) -> None:
        extra = self.promote is not None or self.split_k > 1 or self.scales is not None or self.product != "exact"
        if self.is_native and (extra or self.flush_results or self.flush_inputs != "none" or self.c != CInput()):
            raise ValueError(
                "order: got 'native', which promises no rounding or order; allowed: sequential, fma, pairwise, chunked, fused"
            )

    def _check_formats(self) -> None:
        given = [("scales.format", "scales", self.scales.format)] if self.scales else []
        if self.operands and not self.is_native:
            given += [("operands.input", "operands", fmt) for fmt in self.operands.input]
            given += [("operands.weight", "operands", fmt) for fmt in self.operands.weight]
        for where, field, fmt in given:
            if not isinstance(fmt, Float | Fixed | Integer):
                raise FormatError(f"{where}: got {fmt}; allowed: floats, fixed point and integers", field)
        if self.c.format is not None and not _rounds(self.c.format):
            raise FormatError(f"c.format: got {self.c.format}; allowed: {ROUNDS}", "c")

    def _check_product(self) -> None:
        if self.product != "exact" and not self.product.format.has_nan and self.product.nan == "error" != self.accumulator.nan:
            raise ValueError(f"product: {self.product.format} has no NaN; allowed: `nan: max` or `nan: zero` there too")
        if self.product != "exact" and (self.order == "fma" or self.fused):
            raise ValueError(
                f"product: rounded to {self.product.format}; allowed: exact, where the sum and the product are fused"
            )

    def _check_promotion(self) -> None:
        if self.promote and not _holds(self.promote.format, self.accumulator.format):
            raise FormatError(
                f"into: {self.promote.format} does not hold every value of the accumulator's {self.accumulator.format}; "
                "allowed: a format at least as wide",
                "promote",
            )
        if self.scales and self.scales.applied == "promotion" and not self.promote:
            raise ValueError("scales: got `applied: promotion`; allowed only where `promote` is given")

    def _check_scales(self) -> None:
        if self.scales is None:
            return
        scales, exact_terms, every = self.scales, self.fused.exact_terms if self.fused else 1, self.promote and self.promote.every
        if scales.applied == "group" and (exact_terms == 1 or scales.block % exact_terms):
            raise ValueError(
                "scales: got `applied: group`; allowed only where the order is fused with exact_terms > 1, a divisor of the block"
            )
        if scales.applied == "product" and exact_terms > 1:
            raise ValueError("scales: got `applied: product` with exact_terms > 1; allowed: group, promotion")
        if every and scales.applied == "promotion" and scales.block % every:
            given = f"got {every}, whose partial sums have terms of several scales"
            raise FormatError(f"every: {given}; allowed: a divisor of the block of {scales.block} terms", "promote")
        if every and scales.applied == "group" and every % exact_terms:
            given = f"got {every}, which cuts through exact sums of scaled terms"
            raise FormatError(f"every: {given}; allowed: a multiple of the {exact_terms} exact_terms", "promote")

    def _check_fused(self) -> None:
        if self.c.enters == "group" and not self.fused:
            raise ValueError("c: got 'group'; allowed: first, last (a group takes C in only where the order is fused)")
        if self.fused and not isinstance(self.accumulator.format, Float):
            raise ValueError(f"accumulator: got {self.accumulator.format}; allowed: a float, where the order is fused")
        if self.tree and self.c.enters == "first" and self.c.format and not _holds(self.accumulator.format, self.c.format):
            raise ValueError(f"c: {self.c.format} is wider than the accumulator; allowed in fused orders")

    def _check_range(self) -> None:
        limit = self.accumulator.format
        if self.operands is None or self.product != "exact" or isinstance(limit, Float):
            return
        for a in self.operands.input:
            for b in self.operands.weight:
                corners = [x * y for x in (a.min, a.max) for y in (b.min, b.max)]
                if not limit.min <= min(corners) <= max(corners) <= limit.max:
                    raise FormatError(
                        f"accumulator: {limit} does not hold the product of {a} and {b}; allowed: a wider one", "accumulator"
                    )


def _holds(wide: Format, narrow: Format) -> bool:
    """Whether every finite value of one format is a value of another."""
    grid = wide.grid
    if wide.min > narrow.min or wide.max < narrow.max:
        return False
    return narrow.grid.fits(grid.mantissa_bits + 1, grid.smallest_exponent, round_log2(max(wide.max, -wide.min)))
