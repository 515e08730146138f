"""One converter in the machine: a format, a projection and a scaling."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hwsim.config.record import Record
from hwsim.fields import FormatField, RoundingField, format_record
from hwsim.formats import Block, Format, Levels, Projection, Rounding
from hwsim.formats.block import element_format
from hwsim.formats.reference import check_projection
from hwsim.formats.rounding import NanRule, Overflow

ROTATIONS = (4, 16, 64, 256)


class Channel(Record):
    """One scale for each index of an axis."""

    channel: int


class Group(Record):
    """One scale for each run of `group` neighbours along the contracted axis."""

    group: int

    @model_validator(mode="after")
    def _positive(self) -> Group:
        if self.group < 1:
            raise ValueError(f"group: got {self.group}; allowed: a whole number of elements from 1 on")
        return self


class Tile(Record):
    """One scale for each tile of [rows, columns]: columns along the contracted axis, rows along the other one of the last two."""

    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


Granularity = Literal["tensor"] | Channel | Group | Tile
Rule = Literal["none", "fixed", "absmax", "power_of_two", "mse", "delayed", "learned", "pact", "dorefa"]
KEPT_RULES = ("delayed", "learned", "pact")
WHOLE_RULES = ("delayed", "pact", "dorefa")
WIRE_RULES = ("none", "fixed", "absmax", "power_of_two")


class Scaling(Record):
    """How a tensor is brought into a format's range: x becomes s round(x / s), the quotient rounded once.

    With max the format's largest value and amax the largest finite |x| of a tensor, channel, group or tile, at least `minimum`:

    - `none`: s = 1; `fixed`: s = `value`;
    - `absmax`: s = amax / max, rounded to the scale's own `format`;
    - `power_of_two`: the smallest power of two s with amax / s <= max;
    - `mse`: of the candidates amax (i/16) / max, i = 8..24, rounded as in `absmax`, the one with the smallest sum of
      (x - s round(x / s))^2 over finite x, elements rounded to nearest even and saturated, in float64; the first of equal wins;
    - `delayed`: s = 2^margin amax / max of the amaxes of the `window` steps before; 1 before the first, kept where the window
      has seen zeros only (TransformerEngine, DelayedScaling);
    - `learned`: s is a parameter of the run, from 2 mean |x| / sqrt(max) on (LSQ, arXiv 1902.08153);
    - `pact`: s = alpha / max, alpha a parameter of the run, from `value` (6 unless said) on (PACT, arXiv 1805.06085);
    - `dorefa`: x becomes round(max tanh(x) / max |tanh(x)|) / max (DoReFa-Net, arXiv 1606.06160, equation 9).

    Where amax is zero, s = 1. A scale that underflows its format becomes its smallest positive value.
    """

    rule: Rule
    granularity: Granularity = "tensor"
    format: FormatField = format_record("fp32")
    value: float | None = None
    minimum: Annotated[float, Field(ge=0)] = 0.0
    window: Annotated[int, Field(ge=1)] = 1024
    margin: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Scaling:
        if (self.value is not None) != (self.rule == "fixed") and not (self.value is not None and self.rule == "pact"):
            raise ValueError(f"value: got {self.value}; allowed: a positive number with the rule `fixed` (or `pact`)")
        if self.value is not None and self.value <= 0:
            raise ValueError(f"value: got {self.value}; allowed: a positive number")
        if self.rule in WHOLE_RULES and self.granularity != "tensor":
            raise ValueError(f"granularity: got {self.granularity} with the rule `{self.rule}`; allowed: tensor")
        if self.rule == "learned" and not isinstance(self.granularity, str | Channel):
            raise ValueError(f"granularity: got {self.granularity} with the rule `learned`; allowed: tensor, {{channel: AXIS}}")
        if self.rule != "delayed" and {"window", "margin"} & self.model_fields_set and (self.window, self.margin) != (1024, 0):
            raise ValueError(f"window: got one with the rule `{self.rule}`; allowed: window and margin with the rule `delayed`")
        return self

    @property
    def kept(self) -> bool:
        """Whether the scale is state of a run."""
        return self.rule in KEPT_RULES

    @property
    def trains(self) -> bool:
        """Whether the scale is a parameter of a run."""
        return self.rule in ("learned", "pact")


def _scaling(given: Any) -> Any:
    return {"rule": given} if isinstance(given, str) else given


ScalingField = Annotated[Scaling, BeforeValidator(_scaling)]


class Cast(Record):
    """One converter: the operand port of a multiplier, the result of a unit, the write port of an optimizer state.

    Args:
        overflow: `saturate` unless said; for what an arithmetic unit writes (a GEMM's result, the vector unit, optimizer states)
            `infinity` where the format has one.
        transform: `hadamard_N`, N a power of 4: both operands of the GEMM are rotated along the contracted axis before their
            casts (hwsim.hadamard).
        requantize: what an operand is in the second GEMM that reads it: cast again from full precision, with scales along
            the axis that this GEMM contracts; or, if false, the copy that was made for the first one (an `input` or
            `weight` for `output`, a `grad_output` for `grad_input`).
        gradient: what goes back through the cast: the whole gradient (`pass`), or none where the operand was clipped (`clip`,
            as the rules `learned` and `pact` always do).
    """

    format: FormatField
    rounding: RoundingField = Rounding()
    overflow: Overflow | None = None
    nan: NanRule = "error"
    flush_inputs: bool = False
    flush_outputs: bool = False
    scaling: ScalingField | None = None
    transform: str | None = None
    requantize: bool = True
    gradient: Literal["pass", "clip"] = "pass"

    @model_validator(mode="after")
    def _possible(self) -> Cast:
        self._check_transform()
        check_projection(element_format(self.format), self.projection)
        if self.scaled and isinstance(self.format, Block):
            raise ValueError(f"scaling: got one with the block format {self.format}, which finds its own scales; allowed: none")
        return self

    def _check_transform(self) -> None:
        if self.transform is not None and self.rotation not in ROTATIONS:
            allowed = ", ".join(f"hadamard_{n}" for n in ROTATIONS)
            raise ValueError(f"transform: got {self.transform!r}; allowed: {allowed}")

    @property
    def rotation(self) -> int:
        """N of `hadamard_N`, or 0 without a transform."""
        match = re.fullmatch(r"hadamard_(\d+)", self.transform or "")
        return int(match[1]) if match else 0

    @property
    def blocked(self) -> bool:
        """Whether values share scales in runs along an axis."""
        return isinstance(self.format, Block) or (self.scaling is not None and isinstance(self.scaling.granularity, Group | Tile))

    @property
    def kept(self) -> bool:
        """Whether the scale is state of a run."""
        return self.scaling is not None and self.scaling.kept

    @property
    def estimates(self) -> bool:
        """Whether the gradient that goes back through the cast is not the one that comes."""
        return self.gradient == "clip" or (self.scaling is not None and self.scaling.rule in ("learned", "pact", "dorefa"))

    @property
    def projection(self) -> Projection:
        """Everything about the conversion but format and scaling."""
        return Projection(self.rounding, self.overflow or "saturate", self.nan, self.flush_inputs, self.flush_outputs)

    @property
    def scaled(self) -> bool:
        """Whether a scale is applied."""
        return self.scaling is not None and self.scaling.rule != "none"

    def keeps(self, dtype: torch.dtype) -> bool:
        """Whether the cast changes no value of a tensor of this dtype.

        An infinity that saturates is changed, unless it becomes a largest value that is an infinity in this dtype.
        """
        if self.flush_inputs or self.flush_outputs or self.scaled or not holds_all(self.format, dtype):
            return False
        return self.projection.overflow == "infinity" or self.format.max > torch.finfo(dtype).max

    def written_by_unit(self) -> Cast:
        """The same cast with the overflow of an arithmetic unit's output where none was declared; elements of blocks saturate."""
        if self.overflow is not None or isinstance(self.format, Block) or not self.format.has_infinity:
            return self
        return self.model_copy(update={"overflow": "infinity"})

    def __str__(self) -> str:
        text = str(self.format)
        if self.rounding != Rounding():
            text += f" {self.rounding}"
        if self.scaling is not None and self.scaled:
            granularity = self.scaling.granularity
            where = (
                granularity if isinstance(granularity, str) else " ".join(f"{k} {v}" for k, v in granularity.model_dump().items())
            )
            text += f" {self.scaling.rule} per {where}"
        return f"{text} {self.transform}" if self.transform else text


def holds_all(fmt: Format, dtype: torch.dtype) -> bool:
    """Whether the format has every value of a floating dtype, NaN, infinities and -0 included."""
    if isinstance(fmt, Block) or isinstance(fmt.lattice, Levels):
        return False
    info = torch.finfo(dtype)
    grid = fmt.grid
    return (
        fmt.has_nan
        and fmt.has_infinity
        and fmt.has_negative_zero
        and fmt.max >= info.max
        and fmt.min <= info.min
        and fmt.smallest_subnormal <= info.smallest_normal * info.eps
        and 2.0**-grid.mantissa_bits <= info.eps
    )


def cast_mapping(given: Any) -> Any:
    """The YAML of a cast as a mapping: a format alone is a cast without anything else."""
    if isinstance(given, str | Format) or (isinstance(given, dict) and "kind" in given):
        return {"format": given}
    return given


def no_operand(cast: Cast) -> Cast:
    """Refuse what acts on the operands of GEMMs alone."""
    if cast.transform is not None:
        raise ValueError(f"transform: got {cast.transform!r}; allowed: on the operands of GEMMs")
    if not cast.requantize or cast.gradient != "pass":
        given = "`requantize: false`" if not cast.requantize else f"`gradient: {cast.gradient}`"
        raise ValueError(f"got {given}; allowed: on the operands of GEMMs")
    if cast.scaling is not None and cast.scaling.trains:
        raise ValueError(f"scaling: got the rule `{cast.scaling.rule}`; allowed: on the operands of GEMMs, which train its scale")
    return cast


def _on_wire(cast: Cast) -> Cast:
    """Refuse scales that ranks cannot have in common."""
    if cast.scaling is None or (cast.scaling.rule in WIRE_RULES and cast.scaling.granularity == "tensor"):
        return cast
    raise ValueError(f"scaling: got {cast}; allowed on the wire: one scale a tensor, by the rules {', '.join(WIRE_RULES)}")


CastField = Annotated[Cast, BeforeValidator(cast_mapping)]
ResultField = Annotated[Cast, BeforeValidator(cast_mapping), AfterValidator(no_operand), AfterValidator(Cast.written_by_unit)]
WireField = Annotated[Cast, BeforeValidator(cast_mapping), AfterValidator(no_operand), AfterValidator(_on_wire)]
