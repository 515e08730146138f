"""Limits on what a datapath may cost, and whether a budget keeps them."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hwsim.config.record import Record

from .table import Budget


class Limit(Record):
    """A largest change: a number, or in YAML `0.5 %` for a share of the full-precision twin's value."""

    value: Annotated[float, Field(gt=0)]
    relative: bool = False

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"


def _limit(given: Any) -> Any:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return {"value": float(given)}
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*%\s*", given) if isinstance(given, str) else None
    return {"value": float(match[1]) / 100, "relative": True} if match else given


LimitField = Annotated[Limit, BeforeValidator(_limit)]


class Limits(Record):
    """What all casts and accumulators of a datapath together may change.

    Args:
        loss: of the batch; a fall of the loss is no failure.
        step_loss: of the same batch after the step.
        accuracy: of the batch, how much of it may be lost; a rise is no failure, and targets that are no class numbers fail.
        logits: |z' - z| / |z| of the model's scores, that is 10^(-SQNR / 20): a share, or `2 %`.
        gradient: |g' - g| / |g| of the whole gradient, itself relative: a share, or `2 %`.
    """

    loss: LimitField | None = None
    step_loss: LimitField | None = None
    accuracy: LimitField | None = None
    logits: LimitField | None = None
    gradient: LimitField | None = None


class Verdict(Record):
    """One limit and what was found."""

    name: str
    limit: Limit
    found: float
    passed: bool

    def __str__(self) -> str:
        word = "pass" if self.passed else "FAIL"
        return f"{word}: {self.name} changes by {self.found:+.3g}, limit {self.limit}"


def verdicts(budget: Budget, limits: Limits) -> tuple[Verdict, ...]:
    """Every limit, judged by what was measured with all casts at once. What is not finite fails."""
    whole = budget.part("all")
    # Casts of the backward pass alone leave the batch's own loss where it is.
    loss = whole.measured if whole.judged_by == "loss" or not isfinite(whole.measured) else 0.0
    found = {
        "loss": (loss, loss, budget.loss),
        "step_loss": (whole.step_loss, whole.step_loss, budget.after),
        "accuracy": (whole.accuracy, -whole.accuracy, budget.accuracy),
        "logits": (noise := 10 ** (-whole.sqnr / 20), noise, 1.0),
        "gradient": (whole.gradient_error, whole.gradient_error, 1.0),
    }
    result = []
    for name, (change, worse, base) in found.items():
        limit: Limit | None = getattr(limits, name)
        if limit is not None:
            allowed = limit.value * (abs(base) if limit.relative else 1.0)
            result.append(Verdict.model_construct(name=name, limit=limit, found=change, passed=worse <= allowed))
    return tuple(result)
