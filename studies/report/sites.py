"""The budgets of one training step, site by site: where they are kept, and what the report shows of them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hwsim.budgets import Budget, Facts, Row
from hwsim.budgets.causes import CAUSES
from hwsim.budgets.measured import ACCUMULATION
from hwsim.budgets.places import Place
from hwsim.budgets.table import JUDGED, TOTAL
from hwsim.config import content_hash

from .drawing import COLOURS, INK, Drawing

FILE = "budgets.json"
EFFECTS = {True: JUDGED["loss"], False: JUDGED["step_loss"]}
COLUMNS = ("datapath", "site", "GEMM", "role", "cast", "change alone", "noise", "predicted", "mostly")
FACTS = ("clipped (%)", "to zero (%)", "codes used (%)", "largest / rms")
BARS = 20
"""Layers at most in one plot."""
HISTOGRAMS = 4
"""Of how many casts of a datapath the exponents are shown."""


def budgets_hash(plan: str, study: Mapping[str, Any]) -> str:
    """What tells the step budgets of two studies apart: the hash of the plan, and what the study (as data) asks for."""
    # What the report prices has no part in them.
    report = {key: value for key, value in study["report"].items() if key != "costs"}
    return content_hash({"plan": plan, "budget": study["budget"], "report": report})


def load_step_budgets(folder: Path, index: Mapping[str, Any]) -> tuple[Budget, ...]:
    """The budgets that were kept beside the runs of the same study; none where there are no such."""
    path = folder / FILE
    if not path.is_file():
        return ()
    kept = json.loads(path.read_text())
    same = kept["hash"] == budgets_hash(index["hash"], index["study"])
    return tuple(Budget.of(one) for one in kept["budgets"]) if same else ()


def is_forward(row: Row) -> bool:
    """Whether a row's change is that of the batch's own loss."""
    return _place(row).forward


def port_of(row: Row) -> str:
    """The name by which a row's facts are found."""
    return _place(row).port


def _place(row: Row) -> Place:
    return Place(row.site, row.gemm, row.role, row.cast)


def causes_of(budget: Budget) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of causes by site, GEMM and role."""
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in budget.rows:
        if row.cause != TOTAL:
            found[row.site, row.gemm, row.role].append(row)
    return found


def mostly(causes: Sequence[Row]) -> str:
    """The cause of the largest change; empty where none changes anything."""
    most = max(causes, key=lambda row: abs(row.measured), default=None)
    return most.cause if most is not None and most.measured else ""


def site_headline(budgets: Sequence[Budget]) -> str:
    """Which of several datapaths costs most in a step, and which of its casts."""
    budgets = [one for one in budgets if one.places and math.isfinite(one.part("all").measured)]
    if not budgets:
        return ""
    worst = max(budgets, key=lambda one: abs(one.part("all").measured))
    top = worst.places[0]
    cause = mostly(causes_of(worst)[top.site, top.gemm, top.role])
    reason = f", mostly by {cause}" if cause else ""
    whole = worst.part("all")
    what, base = ("the loss", worst.loss) if whole.judged_by == "loss" else ("the loss after the step", worst.after)
    return (
        f"In one training step {worst.datapath} changes {what} by {whole.measured:+.3g} (from {base:.3g}); "
        f"alone, {top.name} changes {EFFECTS[is_forward(top)]} most ({top.measured:+.3g}{reason})."
    )


def site_records(budgets: Sequence[Budget]) -> list[dict[str, Any]]:
    """One mapping for each cast and accumulator: numbers as numbers, None where there is none; the largest change first."""
    found = []
    for budget in budgets:
        causes = causes_of(budget)
        for row in budget.places:
            own = causes[row.site, row.gemm, row.role]
            numbers = (row.measured, row.noise, row.predicted)
            record = dict(
                zip(COLUMNS, (row.datapath, row.site, row.gemm, row.role, row.cast, *numbers, mostly(own)), strict=True)
            )
            record |= dict.fromkeys(FACTS) | _facts(budget.facts.get(port_of(row)))
            found.append({key: None if isinstance(v, float) and math.isnan(v) else v for key, v in record.items()})
    return sorted(found, key=lambda record: -abs(record["change alone"] or 0.0))


def _facts(facts: Facts | None) -> dict[str, float]:
    if facts is None:
        return {}
    shares = (facts.clipped, facts.underflowed, facts.codes_used)
    return dict(zip(FACTS, (*(100 * share for share in shares), facts.crest), strict=True))


def site_rows(budgets: Sequence[Budget], most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of sites, as text."""
    records = site_records(budgets)[:most]
    return [*COLUMNS, *FACTS], [[_text(key, value) for key, value in record.items()] for record in records]


def _text(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if column in FACTS else f"{value:.2e}" if column == "noise" else f"{value:+.2e}"
    return str(value)


def layer_bars(budget: Budget) -> Drawing:
    """What the casts of each layer change alone, stacked by cause: the batch's loss on the left, the loss after the step on
    the right."""
    stacks = {forward: _stacks(budget, forward) for forward in EFFECTS}
    kept = {forward: layers for forward, layers in stacks.items() if layers}
    height = 1.4 + 0.26 * max((len(layers) for layers in kept.values()), default=1)
    caption = (
        f"{budget.datapath}: each cast alone, summed over the casts of a layer and split by cause; what raises the loss goes to "
        f"the right. {budget.headline}"
    )
    return Drawing(f"causes by layer, {budget.datapath}", (9.5, height), partial(_bars, stacks=kept), caption)


def _stacks(budget: Budget, forward: bool) -> dict[str, dict[str, float]]:
    """By layer, in the order of the largest sum of magnitudes, the sum of each cause."""
    layers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for rows in causes_of(budget).values():
        for row in rows:
            if is_forward(row) is forward and math.isfinite(row.measured):
                layers[_place(row).layer][row.cause] += row.measured
    ranked = sorted(layers, key=lambda layer: -sum(map(abs, layers[layer].values())))
    return {layer: layers[layer] for layer in ranked[:BARS]}


def _bars(figure: Figure, stacks: Mapping[bool, Mapping[str, Mapping[str, float]]]) -> None:
    for number, (forward, layers) in enumerate(stacks.items(), 1):
        axes = figure.add_subplot(1, len(stacks), number)
        for y, parts in enumerate(layers.values()):
            ends = {True: 0.0, False: 0.0}
            for i, cause in enumerate((*CAUSES, ACCUMULATION)):
                value = parts.get(cause, 0.0)
                if value:
                    axes.barh(y, value, left=ends[value > 0], color=COLOURS[i], height=0.7)
                    ends[value > 0] += value
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(layers)), list(layers))
        axes.invert_yaxis()
        axes.set_ylabel("layer")
        axes.set_xlabel(f"change of {EFFECTS[forward]}")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    present = [
        cause for cause in (*CAUSES, ACCUMULATION) if any(parts.get(cause) for s in stacks.values() for parts in s.values())
    ]
    handles = [axes.barh(0, 0, color=COLOURS[(*CAUSES, ACCUMULATION).index(cause)], label=cause) for cause in present]
    if handles:
        figure.legend(handles=handles, labels=present, loc="outside upper center", ncols=len(present), frameon=False)


def histograms(budget: Budget) -> Drawing | None:
    """The exponents at the casts that change most, against the range of their format; None without any facts."""
    rows = [row for row in budget.places if port_of(row) in budget.facts][:HISTOGRAMS]
    if not rows:
        return None
    caption = (
        "Binary exponents of what enters the casts that change most; the format reaches from the first to the last shaded one."
    )
    draw = partial(_histograms, rows=rows, facts=[budget.facts[port_of(row)] for row in rows])
    return Drawing(f"exponents, {budget.datapath}", (2.5 * len(rows), 2.3), draw, caption)


def _histograms(figure: Figure, rows: Sequence[Row], facts: Sequence[Facts]) -> None:
    for number, (row, fact) in enumerate(zip(rows, facts, strict=True), 1):
        axes = figure.add_subplot(1, len(rows), number)
        low, high = fact.range
        if fact.exponents:
            first, last = min(fact.exponents), max(fact.exponents)
            shares = [fact.exponents.get(exponent, 0) / fact.elements for exponent in range(first, last + 1)]
            axes.stairs(shares, [exponent - 0.5 for exponent in range(first, last + 2)], fill=True, color=COLOURS[0])
            axes.set_xlim(min(first, max(low, first - 6)) - 1, max(last, min(high, last + 6)) + 1)
        axes.axvspan(low - 0.5, high + 0.5, color=COLOURS[2], alpha=0.2, linewidth=0)
        axes.set_title(f"{row.site} {row.gemm}\n{row.role}: {row.cast.split(' ')[0]}", fontsize=8)
        axes.set_xlabel("exponent")
        axes.set_yticks([])
