"""What the outcome of a step is compared by with the twin's, beside the loss that a row is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from .twins import Outcome, cosine, sqnr

CONFIDENCE = 0.95
Pair = tuple[Outcome, Outcome]
"""The outcome of the twin, and that of a machine of the same seed."""


@dataclass(frozen=True)
class Metric:
    """A number that compares a step with the twin's.

    Args:
        compare: (twin's, machine's) -> the number; NaN where either lacks what is compared.
        forward: whether it is of the forward pass, which a cast of the backward pass leaves alone.
    """

    compare: Callable[[Outcome, Outcome], float]
    forward: bool = False


def _vectors(name: str, compare: Callable[[Tensor, Tensor], float]) -> Callable[[Outcome, Outcome], float]:
    """A comparison of one field of two outcomes; NaN where a step was not taken."""

    def of_field(base: Outcome, outcome: Outcome) -> float:
        a, b = getattr(base, name), getattr(outcome, name)
        return nan if a is None or b is None else compare(a, b)

    return of_field


def relative_error(a: Tensor, b: Tensor) -> float:
    """|b - a| / |a|."""
    return float((b - a).norm() / a.norm())


def bias(a: Tensor, b: Tensor) -> float:
    """sum(b - a) / sum |a|."""
    return float((b - a).sum() / a.abs().sum())


METRICS = {
    "step_loss": Metric(lambda base, outcome: outcome.after - base.after),
    "accuracy": Metric(lambda base, outcome: outcome.accuracy - base.accuracy, forward=True),
    "sqnr": Metric(_vectors("outputs", sqnr), forward=True),
    "cosine": Metric(_vectors("gradients", cosine)),
    "gradient_error": Metric(_vectors("gradients", relative_error)),
    "gradient_bias": Metric(_vectors("gradients", bias)),
    "update_error": Metric(_vectors("update", relative_error)),
}
"""By the name of a row's field."""


def compared(pairs: Sequence[Pair], forward: bool) -> dict[str, Any]:
    """The fields of a row that compare steps, means over seeds and draws, and `intervals`, their confidence intervals.

    Args:
        pairs: of outcomes; where a NaN has ended one there is no number.
        forward: whether the forward pass is compared too.
    """
    means, intervals = dict[str, float](), dict[str, float]()
    for name, metric in METRICS.items():
        values = [metric.compare(base, outcome) for base, outcome in pairs] if forward or not metric.forward else []
        if values and not any(map(isnan, values)):
            means[name], _, intervals[name] = spread(values)
    return {**means, "intervals": {name: half for name, half in intervals.items() if isfinite(half)}}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, sample standard deviation (0 of one value), and half the width of the mean's confidence interval (NaN of one).

    Of values that are not all finite both are NaN.
    """
    if len(values) < 2:
        return fmean(values), 0.0, nan
    if not all(map(isfinite, values)):
        return fmean(values), nan, nan
    from scipy import stats

    deviation = stdev(values)
    return fmean(values), deviation, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
