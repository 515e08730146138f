"""What the experiments on quantized SGD have in common: the problem, and quantizers as a study file says them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from hwsim.casts import CastField
from hwsim.config.record import Record
from hwsim.errors import ConfigError
from hwsim.training import Bound, Noise, StabilityWarning, expected_excess_risk, power_law, risk_bound

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
HINT = "a mapping with `law` (additive, multiplicative, dither) and `size`, or a cast"


def _noise(given: Any) -> Any:
    if not isinstance(given, Mapping) or "law" not in given:
        return given
    try:
        return Noise(**given)
    except TypeError:
        raise ValueError(f"got a mapping ({', '.join(given)}); allowed: law, size, sharing") from None


QuantizerField = Annotated[
    Annotated[Noise, WithJsonSchema({"type": "object", "required": ["law", "size"], "description": HINT})] | CastField,
    BeforeValidator(_noise),
]


class SgdProblem(Record):
    """Linear regression on Gaussian data of spectrum i^-exponent with optimum 1, and constant-step SGD from 0.

    Args:
        dimension: d. exponent: a. noise_variance: of the labels.
        step_size: of SGD. steps: N. batch_size: B.
    """

    dimension: Count = 200
    exponent: NonNegative = 2.0
    noise_variance: NonNegative = 1.0
    step_size: Positive = 0.1
    steps: Count = 1000
    batch_size: Count = 1

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Those of `quantized_sgd`, `expected_excess_risk` and `risk_bound`, some of them changed."""
        own = {name: getattr(self, name) for name in SgdProblem.model_fields} | changes
        spectrum = power_law(own.pop("dimension"), own.pop("exponent"))
        return {"eigenvalues": spectrum, "optimum": 1.0, **own}


def risk(arguments: Mapping[str, Any]) -> float:
    """The expected excess risk; what lies beyond stability is a result, not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        found: float = expected_excess_risk(**arguments)
        return found


def bound(arguments: Mapping[str, Any]) -> float | None:
    """The published bound; None where it does not apply, or does not cover the quantizer."""
    try:
        found: Bound = risk_bound(**arguments)
    except ConfigError:
        return None
    return found.total if found.applies else None
