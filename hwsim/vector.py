"""The vector unit: the cast on what it writes, and the steps inside its softmax, losses and norms."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SerializerFunctionWrapHandler, model_serializer, model_validator

from hwsim.casts import Cast, ResultField, cast_mapping, no_operand
from hwsim.config.record import Record
from hwsim.formats import Block
from hwsim.macs import Mac
from hwsim.macs.orders import OrderField
from hwsim.macs.record import Rounded


def _deterministic(cast: Cast) -> Cast:
    """Refuse what a step between two registers of the unit cannot have."""
    if isinstance(cast.format, Block) or cast.scaling is not None:
        raise ValueError(f"got {cast}; allowed inside the vector unit: formats without scales")
    if cast.rounding.is_stochastic:
        raise ValueError(f"rounding: got {cast.rounding}; allowed inside the vector unit: deterministic roundings")
    return cast


StepField = Annotated[ResultField, AfterValidator(_deterministic)]


class Sum(Rounded):
    """How the unit adds: the accumulator's format, and the order, as in a MAC unit (`native` is what an absent sum is)."""

    order: OrderField = "sequential"

    @model_validator(mode="after")
    def _adds(self) -> Sum:
        if self.order == "native":
            raise ValueError(
                "order: got 'native'; allowed: sequential, pairwise, {chunked: N}, {fused: ...} (no `sum` is native)"
            )
        if self.rounding.is_stochastic:
            raise ValueError(f"rounding: got {self.rounding}; allowed inside the vector unit: deterministic roundings")
        _ = self.unit
        return self

    @property
    def unit(self) -> Mac:
        """The unit whose dot products with ones are these sums."""
        own = {key: getattr(self, key) for key in ("format", "rounding", "overflow", "nan")}
        return Mac(accumulator=Rounded(**own), order=self.order)

    def __str__(self) -> str:
        order = self.order if isinstance(self.order, str) else " ".join(f"{k} {v}" for k, v in self.order.model_dump().items())
        return f"{self.format} {order}"


def _sum(given: Any) -> Any:
    return given if isinstance(given, dict | Sum) and "kind" not in dict(given) else {"format": given}


SumField = Annotated[Sum, BeforeValidator(_sum)]


class Steps(Record):
    """What the steps inside softmax, log-softmax, cross entropy and batch, layer, group and RMS norm are rounded to.

    An absent step is rounded to float32 (float64 in a model of that), as is every product, quotient and difference between steps.

    Args:
        exp: the exponentials of a softmax, of a log-softmax's backward pass.
        log: the logarithm of a log-softmax's sum.
        sum: every sum over elements, of operations that are sums or means among them; the order is torch's own where absent.
        mean: a sum divided by its number of elements: a norm's means, a loss's mean.
        variance: a norm's mean square, of deviations or (RMS) of the elements themselves; a `mean` of what was just squared.
        rsqrt: 1 / sqrt(variance + eps); an operation `rsqrt`.

    An RMS norm that is written out in operations (torch's own on the CPU, Llama's) takes the same steps, but for what lies
    between its operations, which the unit writes in its own format.
    """

    exp: StepField | None = None
    log: StepField | None = None
    sum: SumField | None = None
    mean: StepField | None = None
    variance: StepField | None = None
    rsqrt: StepField | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {step}" for name in type(self).model_fields if (step := getattr(self, name)) is not None)


class VectorUnit(Cast):
    """The cast on every result of an operation that is no GEMM, and the unit's inner steps: torch's own unless declared."""

    steps: Steps | None = None

    # A unit without declared steps is written as it was before there were any: stored runs keep their ids.
    @model_serializer(mode="wrap")
    def _without_absent_steps(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return data if self.steps is not None else {key: value for key, value in data.items() if key != "steps"}

    def __str__(self) -> str:
        return super().__str__() if self.steps is None else f"{super().__str__()} ({self.steps})"


def _unit(given: Any) -> Any:
    return dict(given) if isinstance(given, Cast) and not isinstance(given, VectorUnit) else cast_mapping(given)


VectorField = Annotated[VectorUnit, BeforeValidator(_unit), AfterValidator(no_operand), AfterValidator(Cast.written_by_unit)]
