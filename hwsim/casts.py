"""One converter in the machine: a format, a projection and a scaling."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, model_validator

from hwsim.config.record import Record
from hwsim.fields import FormatField, RoundingField, format_record
from hwsim.formats import Block, Format, Projection, Rounding
from hwsim.formats.block import element_format
from hwsim.formats.reference import check_projection
from hwsim.formats.rounding import NanRule, Overflow


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


Granularity = Literal["tensor"] | Channel | Group


class Scaling(Record):
    """How a tensor is brought into a format's range: x becomes s round(x / s), the quotient rounded once.

    Rules: `none` s = 1; `fixed` s = `value`; `absmax` s = amax / the format's largest value, rounded to the scale's own
    `format`; `power_of_two` the smallest power of two s with amax / s <= that largest value. amax is the largest finite
    |x| of a tensor, channel or group; where it is zero, s = 1. A scale that underflows its format becomes its smallest
    positive value.
    """

    rule: Literal["none", "fixed", "absmax", "power_of_two"]
    granularity: Granularity = "tensor"
    format: FormatField = format_record("fp32")
    value: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Scaling:
        if (self.value is not None) != (self.rule == "fixed"):
            raise ValueError(f"value: got {self.value}; allowed: a positive number with the rule `fixed`, and only there")
        if self.value is not None and self.value <= 0:
            raise ValueError(f"value: got {self.value}; allowed: a positive number")
        return self


def _scaling(given: Any) -> Any:
    return {"rule": given} if isinstance(given, str) else given


ScalingField = Annotated[Scaling, BeforeValidator(_scaling)]


class Cast(Record):
    """One converter: the operand port of a multiplier, the result of a unit, the write port of an optimizer state.

    `overflow` is `saturate` unless said; for what an arithmetic unit writes (a GEMM's result, the vector unit, optimizer
    states) it is `infinity` where the format has one.
    """

    format: FormatField
    rounding: RoundingField = Rounding()
    overflow: Overflow | None = None
    nan: NanRule = "error"
    flush_inputs: bool = False
    flush_outputs: bool = False
    scaling: ScalingField | None = None

    @model_validator(mode="after")
    def _possible(self) -> Cast:
        check_projection(element_format(self.format), self.projection)
        if self.scaled and isinstance(self.format, Block):
            raise ValueError(f"scaling: got one with the block format {self.format}, which finds its own scales; allowed: none")
        return self

    @property
    def projection(self) -> Projection:
        """Everything about the conversion but format and scaling."""
        return Projection(self.rounding, self.overflow or "saturate", self.nan, self.flush_inputs, self.flush_outputs)

    @property
    def scaled(self) -> bool:
        """Whether a scale is applied."""
        return self.scaling is not None and self.scaling.rule != "none"

    def keeps(self, dtype: torch.dtype) -> bool:
        """Whether the cast changes no value of a tensor of this dtype."""
        return not (self.flush_inputs or self.flush_outputs or self.scaled) and holds_all(self.format, dtype)

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
        return text


def holds_all(fmt: Format, dtype: torch.dtype) -> bool:
    """Whether the format has every value of a floating dtype, NaN, infinities and -0 included."""
    if isinstance(fmt, Block):
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


def _cast(given: Any) -> Any:
    if isinstance(given, str | Format) or (isinstance(given, dict) and "kind" in given):
        return {"format": given}
    return given


CastField = Annotated[Cast, BeforeValidator(_cast)]
ResultField = Annotated[Cast, BeforeValidator(_cast), AfterValidator(Cast.written_by_unit)]
