"""What it costs to keep the weights in few bits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from hwsim.casts import Cast, CastField
from hwsim.config import Document, validate
from hwsim.config.record import Record
from hwsim.training import StabilityWarning, quantized_sgd

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count, NonNegative, SgdProblem, risk
from .words import number, percent


class _Casts(Record):
    casts: tuple[CastField, ...]


def _default_casts() -> tuple[Any, ...]:
    given = [{"format": fmt, "rounding": r} for fmt in ("bf16", "fp8_e4m3fn") for r in ("nearest_even", "stochastic")]
    return validate(Document({"casts": given}, ""), _Casts).casts


class Parameters(SgdProblem):
    """What does it cost to round the stored weights in every step?

    Args:
        variances: of an ideal unbiased rounding of each weight, a step; predicted exactly.
        lengths: numbers of steps at which they are compared; steps is not used.
        formats: real storage formats, simulated for `simulated` steps.
        replicas: independent runs a simulation.
    """

    name: Literal["storage_rounding"]
    variances: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.0, 1e-6, 1e-5, 1e-4)
    lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (250, 500, 1000, 2000, 4000)
    formats: tuple[CastField, ...] = Field(default_factory=_default_casts)
    simulated: Count = 1000
    replicas: Count = 64


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """The exact risk by variance and length, then the simulated risk of each format."""
    found: list[Row] = []
    for steps in parameters.lengths:
        for variance in parameters.variances:
            arguments = parameters.arguments(steps=steps)
            value = risk(arguments | {"storage": ("additive", variance)})
            found.append({"storage": f"variance {variance:g}", "steps": steps, "risk": value, "exact": risk(arguments)})
    steps = parameters.simulated
    exact = _simulated(parameters, steps, None, seed)
    for cast in parameters.formats:
        stored = _simulated(parameters, steps, cast, seed)
        cost = stored - exact
        numbers = {
            "risk": float(stored.mean()),
            "exact": float(exact.mean()),
            "standard_error": float(cost.std()) / len(cost) ** 0.5,
        }
        found.append({"storage": str(cast), "steps": steps, **numbers})
    return found


def _simulated(parameters: Parameters, steps: int, cast: Cast | None, seed: int) -> torch.Tensor:
    """The excess risk of each replica; the same seed has the same data, so that differences have small errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        arguments = parameters.arguments(steps=steps)
        return quantized_sgd(**arguments, storage=cast, replicas=parameters.replicas, seed=seed).excess_risk


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Risk against length for ideal errors, and the formats beside them."""
    # Runs that differ in their formats alone have the same ideal errors.
    ideal = [*{(row["storage"], row["steps"]): row for row in found if row.get("standard_error") is None}.values()]
    real = [row for row in found if row.get("standard_error") is not None]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in ideal:
        groups.setdefault(row["storage"], []).append(row)
    lines = [[row["storage"], str(row["steps"]), number(row["risk"]), _cost(row)] for row in (*ideal, *real)]
    header = ["storage", "steps", "excess risk", "more than with exact weights"]
    table = Table("Excess risk with rounded weights: ideal errors by the exact recursion, formats by simulation", header, lines)
    curves = [Line(name, [row["steps"] for row in group], [row["risk"] for row in group]) for name, group in groups.items()]
    curves += [Line(row["storage"], [row["steps"]], [row["risk"]], "points", [3 * row["standard_error"]]) for row in real]
    panel = Panel("", "steps", "excess risk", curves, x_log=True, y_log=True)
    return Section(_headline(ideal, real), [table], [Plot("Excess risk of the averaged weights.", [panel])])


def _cost(row: Mapping[str, Any]) -> str:
    error = row.get("standard_error")
    return percent(row["risk"] / row["exact"] - 1) + ("" if error is None else f" ± {percent(error / row['exact'])}")


def _headline(ideal: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]]) -> str:
    longest = max(row["steps"] for row in ideal)
    last = [row for row in ideal if row["steps"] == longest]
    costs = ", ".join(f"{row['storage']} costs {_cost(row)}" for row in last if row["risk"] > row["exact"])
    exact = number(last[0]["exact"])
    text = f"After {longest} steps (risk {exact} with exact weights) rounding the stored weights with {costs or 'no variance'}"
    formats = ", ".join(f"{row['storage']} {_cost(row)}" for row in real)
    return f"{text}; real formats cost after {real[0]['steps']} steps: {formats}." if real else f"{text}."


EXPERIMENT = Experiment(Parameters, rows, section)
