"""The expected excess risk of quantized SGD, by the exact recursion, and its split over causes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np

from .bounds import stability_of
from .recursion import run_recursion
from .regression import Run, StabilityWarning, describe


@dataclass(frozen=True)
class RiskSplit:
    """An expected excess risk and where it comes from.

    total = bias + variance + approximation = exact + sum of shares + interaction.

    Attributes:
        bias: what the distance of the mean weights from w_q = c w* / h adds; w_q is the best predictor from the quantized data.
        variance: what the fluctuation of the averaged weights adds.
        approximation: the risk of w_q, 1/2 sum_i lambda_i (w_q - w*)_i^2; zero for unquantized data.
        exact: the risk without any quantizer.
        shares: for each component, what it adds to `exact` when it alone is quantized.
        interaction: what is left of the total.
    """

    total: float
    bias: float
    variance: float
    approximation: float
    exact: float
    shares: Mapping[str, float]
    interaction: float


@overload
def expected_excess_risk(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    average: str | None = "all",
    tail: int | None = None,
    split: Literal[False] = False,
    storage: Any = None,
) -> float: ...


@overload
def expected_excess_risk(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    average: str | None = "all",
    tail: int | None = None,
    *,
    split: Literal[True],
    storage: Any = None,
) -> RiskSplit: ...


def expected_excess_risk(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    average: str | None = "all",
    tail: int | None = None,
    split: bool = False,
    storage: Any = None,
) -> float | RiskSplit:
    """E 1/2 (<w, x> - <w*, x>)^2 of the algorithm of `quantized_sgd`, x clean and Gaussian, in O(d) a step.

    Exact for ideal errors in all places, and for formats of the data; how a format elsewhere is counted, see `Recursion`.

    Args:
        eigenvalues, ..., storage: as for `quantized_sgd`, in the eigenbasis; no block formats, no scales found from the data,
            and no format as storage.
        split: also where the risk comes from.

    Returns:
        The risk, or a RiskSplit. Beyond stability it is what the recursion gives: huge, or infinite.

    Raises:
        ConfigError: see `describe`, and converters that the theory does not cover.

    Warns:
        StabilityWarning: the step lies beyond mean-square stability.
    """
    run = describe(eigenvalues, optimum, noise_variance, step_size, steps, batch_size, quantizers, average, tail, storage)
    number = stability_of(run)
    if number >= 1:
        warnings.warn(
            StabilityWarning(f"step_size: {step_size:g} has stability number {number:.3g}; below 1 it is stable"), stacklevel=2
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return _split(run) if split else sum(_causes(run))


def _causes(run: Run) -> tuple[float, float, float]:
    """Bias, variance and approximation error."""
    recursion = run_recursion(run)
    mean, variance = recursion.result()
    z = recursion.moments
    best = np.divide(z.c * run.optimum, z.h, out=np.zeros_like(z.h), where=z.h > 0)
    floor = (best - run.optimum) ** 2
    causes = (mean - run.optimum) ** 2 - floor, variance, floor
    bias, spread, approximation = (float(run.eigenvalues @ cause) / 2 for cause in causes)
    return bias, spread, approximation


def _split(run: Run) -> RiskSplit:
    bias, variance, approximation = _causes(run)
    exact = sum(_causes(replace(run, quantizers={}, storage=None)))
    alone = {name: replace(run, quantizers={name: q}, storage=None) for name, q in run.quantizers.items()}
    if run.storage is not None:
        alone["storage"] = replace(run, quantizers={})  # type: ignore[index]
    shares = {str(name): sum(_causes(one)) - exact for name, one in alone.items()}
    total = bias + variance + approximation
    return RiskSplit(total, bias, variance, approximation, exact, shares, total - exact - sum(shares.values()))
