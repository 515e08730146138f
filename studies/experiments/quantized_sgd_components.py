"""What each of the five quantizers of SGD costs, alone and together: simulated, predicted exactly, and bounded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal

from hwsim.budgets import Budget
from hwsim.budgets.regression import regression_budget
from hwsim.training import COMPONENTS, Noise, StabilityWarning, quantized_sgd

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count, QuantizerField, SgdProblem, bound, risk
from .words import number, percent

TARGETS = ("none", *COMPONENTS, "all five")


class Parameters(SgdProblem):
    """What does each of the five quantizers of SGD cost, alone and together, and does the theory say so?

    Args:
        quantizer: what stands in each of the places.
        replicas: independent runs a simulation.
    """

    name: Literal["quantized_sgd_components"]
    quantizer: QuantizerField = Noise("additive", 0.01)
    replicas: Count = 1000


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """One row for each place: the mean of the simulation with its standard error, the recursion and the bound."""
    found: list[Row] = []
    for target in TARGETS:
        places = {"none": (), "all five": COMPONENTS}.get(target, (target,))
        arguments = parameters.arguments(quantizers=dict.fromkeys(places, parameters.quantizer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
            runs = quantized_sgd(**arguments, replicas=parameters.replicas, seed=seed)
        simulated = {"simulated": runs.mean, "standard_error": runs.standard_error}
        found.append({"target": target, **simulated, "predicted": risk(arguments), "bound": bound(arguments)})
    return found


def budget(name: str, parameters: Parameters, seed: int) -> Budget:
    """What each place adds to the risk, simulated beside the exact split."""
    places: dict[str, Any] = dict.fromkeys(COMPONENTS, parameters.quantizer)
    return regression_budget(name, parameters.arguments(), places, replicas=parameters.replicas, seed=seed)


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """The places side by side, for each quantizer."""
    groups: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault((str(row["quantizer"]), row["batch_size"]), {})[row["target"]] = row
    lines = []
    for (quantizer, batch), members in groups.items():
        exact = members["none"]["predicted"]
        for target, row in members.items():
            extra = percent(row["predicted"] / exact - 1)
            numbers = [f"{number(row['simulated'])} ± {number(row['standard_error'])}", number(row["predicted"]), _z(row)]
            lines.append([quantizer, str(batch), target, *numbers, extra, number(row["bound"])])
    header = ["quantizer", "batch", "quantized", "simulated", "predicted", "in errors", "more than exact", "bound"]
    table = Table(
        "Excess risk of the averaged weights: simulation with its standard error, exact recursion, bound", header, lines
    )
    panels = [_panel(f"{quantizer}, batch {batch}", members) for (quantizer, batch), members in groups.items()]
    return Section(_headline(groups), [table], [Plot("Excess risk with each place quantized alone, and all.", panels)])


def deviation(row: Mapping[str, Any]) -> float | None:
    """The simulation's distance from the prediction in its standard errors."""
    error = row["standard_error"]
    return (row["simulated"] - row["predicted"]) / error if error > 0 and isfinite(row["simulated"]) else None


def _z(row: Mapping[str, Any]) -> str:
    found = deviation(row)
    return "-" if found is None else f"{found:+.1f}"


def _headline(groups: Mapping[tuple[str, int], Mapping[str, Mapping[str, Any]]]) -> str:
    texts = []
    for (quantizer, batch), members in groups.items():
        exact = members["none"]["predicted"]
        alone = {target: row["predicted"] / exact - 1 for target, row in members.items() if target in COMPONENTS}
        most = max(alone, key=lambda target: alone[target])
        whole = members["all five"]["predicted"] / exact - 1 if "all five" in members else sum(alone.values())
        texts.append(
            f"{quantizer} (batch {batch}) costs {percent(whole)} in all five places, most by {most} ({percent(alone[most])})"
        )
    off = [abs(z) for members in groups.values() for row in members.values() if (z := deviation(row)) is not None]
    within = sum(z < 3 for z in off)
    return f"{'; '.join(texts)}. {within} of {len(off)} simulations lie within 3 standard errors of the exact recursion."


def _panel(title: str, members: Mapping[str, Mapping[str, Any]]) -> Panel:
    places = [TARGETS.index(target) for target in members]
    simulated, predicted, bounds = ([row[column] for row in members.values()] for column in ("simulated", "predicted", "bound"))
    errors = [3 * row["standard_error"] for row in members.values()]
    bounded = [(place, value) for place, value in zip(places, bounds, strict=True) if value is not None]
    lines = [
        Line("simulated, 3 standard errors", places, simulated, "points", errors),
        Line("exact recursion", places, predicted, "dashes"),
        Line("bound", [place for place, _ in bounded], [value for _, value in bounded], "dots"),
    ]
    return Panel(title, "quantized", "excess risk", lines, y_log=True, places=TARGETS)


EXPERIMENT = Experiment(Parameters, rows, section, budget=budget)
