"""How the risk depends on the dimension when the data are quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from hwsim.training import stability

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count, Positive, SgdProblem, bound, risk
from .words import number, ratio

LAWS = ("exact", "additive", "multiplicative")


class Parameters(SgdProblem):
    """Does the risk grow with the dimension when the data are quantized?

    Args:
        size: the variance of additive errors of the data, the relative variance of multiplicative ones.
        dimensions: d, ascending; dimension is not used.
    """

    name: Literal["dimension"]
    size: Positive = 0.01
    dimensions: Annotated[tuple[Count, ...], Field(min_length=2)] = (50, 100, 200, 400, 800, 1200, 1600, 1700, 1800, 2000)


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """The exact risk, the bound and the stability number by dimension and law."""
    found: list[Row] = []
    for d in parameters.dimensions:
        for law in LAWS:
            quantizers = {} if law == "exact" else {"data": (law, parameters.size)}
            arguments = parameters.arguments(dimension=d, quantizers=quantizers)
            number_of = stability(arguments["eigenvalues"], parameters.step_size, parameters.batch_size, quantizers)
            found.append({"d": d, "law": law, "risk": risk(arguments), "bound": bound(arguments), "stability": number_of})
    return found


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Risk and bound against the dimension, up to the limit of stability and beyond it."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(row["law"], []).append(row)
    lines = [
        [str(row["d"]), law, number(row["risk"]), number(row["bound"]), number(row["stability"])]
        for law, group in groups.items()
        for row in group
    ]
    table = Table("Excess risk by dimension", ["d", "errors", "exact recursion", "bound", "stability number"], lines)
    curves = []
    for colour, (law, group) in enumerate(groups.items()):
        bounded = [row for row in group if row["bound"] is not None]
        curves.append(Line(law, [row["d"] for row in group], [row["risk"] for row in group], "line", colour=colour))
        curves.append(
            Line(f"bound, {law}", [row["d"] for row in bounded], [row["bound"] for row in bounded], "dots", colour=colour)
        )
    numbers = [Line(law, [r["d"] for r in group], [r["stability"] for r in group]) for law, group in groups.items()]
    numbers.append(Line("limit", [row["d"] for row in groups["exact"]], [1.0] * len(groups["exact"]), "dots", colour=7))
    panels = [
        Panel("risk and bound", "dimension", "excess risk", curves, x_log=True, y_log=True),
        Panel("stability", "dimension", "stability number", numbers, x_log=True, y_log=True),
    ]
    return Section(
        _headline(groups), [table], [Plot("The exact risk with quantized data, its bound, and the stability number.", panels)]
    )


def _headline(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    added = groups["additive"]
    stable = [row for row in added if row["stability"] < 1]
    text = "With additive errors of the data "
    if len(stable) > 1:
        first, last = stable[0], stable[-1]
        text += f"the exact risk grows {ratio(last['risk'] / first['risk'])} from d = {first['d']} to {last['d']}"
        bounded = [row for row in stable if row["bound"] is not None]
        if len(bounded) > 1:
            growth = bounded[-1]["bound"] / bounded[0]["bound"]
            text += f" (its bound {ratio(growth)} up to d = {bounded[-1]['d']}, where it ceases to apply)"
    beyond = [row for row in added if row["stability"] >= 1]
    if beyond:
        last = beyond[-1]
        text += f", and beyond the limit of stability it is {number(last['risk'])} at d = {last['d']} after {last['steps']} steps"
    scaled = groups["multiplicative"]
    change = scaled[-1]["risk"] / scaled[0]["risk"]
    return f"{text}; with multiplicative errors it changes {ratio(change)} over all dimensions."


EXPERIMENT = Experiment(Parameters, rows, section)
