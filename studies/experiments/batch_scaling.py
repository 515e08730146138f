"""How a larger batch suppresses the errors of each quantizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Annotated, Any, Literal

from pydantic import Field

from hwsim.training import COMPONENTS, Noise

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count, Positive, SgdProblem, risk
from .words import number

LAWS = ("additive", "multiplicative", "batch_common")


class Parameters(SgdProblem):
    """Which quantizers' errors does a batch of B samples divide by B?

    Args:
        size: the variance of additive errors, the relative variance of multiplicative ones.
        batches: B, ascending; batch_size is not used.
    """

    name: Literal["batch_scaling"]
    size: Positive = 0.01
    batches: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 4, 16, 64, 256)


def noise(law: str, size: float) -> Noise:
    """Errors of each element, or (`batch_common`) multiplicative ones that a batch has in common."""
    return Noise("multiplicative", size, "batch_common") if law == "batch_common" else Noise(law, size)  # type: ignore[arg-type]


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """The exact excess risk with one place quantized, and what it is more than without, for each batch size."""
    found: list[Row] = []
    for batch in parameters.batches:
        exact = risk(parameters.arguments(batch_size=batch))
        for law in LAWS:
            for place in COMPONENTS:
                quantizers = {place: noise(law, parameters.size)}
                value = risk(parameters.arguments(batch_size=batch, quantizers=quantizers))
                row = {"law": law, "place": place, "batch": batch, "risk": value, "exact": exact, "cost": value - exact}
                found.append(row)
    return found


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """The costs against B, and the power of B that they follow."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["law"], row["place"]), []).append(row)
    powers = {key: power(group) for key, group in groups.items()}
    batches = [row["batch"] for row in next(iter(groups.values()))]
    header = ["errors", "quantized", *(f"cost at B = {batch}" for batch in batches), "power of B"]
    lines = [[*key, *(number(row["cost"]) for row in group), _text(powers[key])] for key, group in groups.items()]
    table = Table(
        "What a quantizer adds to the excess risk, and the power of B that it falls with at the largest batches", header, lines
    )
    panels = [_panel(law, {place: group for (its, place), group in groups.items() if its == law}) for law in LAWS]
    return Section(
        _headline(powers), [table], [Plot("What a quantizer adds to the excess risk, against the batch size.", panels)]
    )


def power(group: Sequence[Mapping[str, Any]]) -> float | None:
    """The slope of log cost over log B between the two largest batches; None where a cost is not above 0."""
    first, last = group[-2], group[-1]
    if min(first["cost"], last["cost"]) <= 0:
        return None
    return log(last["cost"] / first["cost"]) / log(last["batch"] / first["batch"])


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _headline(powers: Mapping[tuple[str, str], float | None]) -> str:
    def named(divided: bool) -> str:
        chosen = [(key, value) for key, value in powers.items() if value is not None and (value < -0.9) == divided]
        by_law = {law: [f"{place} {value:+.2f}" for (its, place), value in chosen if its == law] for law in LAWS}
        return "; ".join(f"{law}: {', '.join(places)}" for law, places in by_law.items() if places) or "none"

    return f"A batch divides these errors by about B (power of B): {named(True)}. It does not divide these: {named(False)}."


def _panel(law: str, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panel:
    lines = [
        Line(place, [row["batch"] for row in group if row["cost"] > 0], [row["cost"] for row in group if row["cost"] > 0])
        for place, group in groups.items()
    ]
    first = next((line for line in lines if line.y), None)
    if first is not None:
        lines.append(Line("1 / B", first.x, [first.y[0] * first.x[0] / b for b in first.x], "dots"))
    return Panel(f"{law} errors", "batch size B", "cost", lines, x_log=True, y_log=True)


EXPERIMENT = Experiment(Parameters, rows, section)
