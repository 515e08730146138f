"""From stored results to what is compared."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwsim.budgets import Budget as StepBudget

from ..conditions import Shortfall, shortfalls
from ..results import audits, natives, results
from ..store import Store
from .budgets import Budget, budgets
from .enough import enough_headline
from .sites import load_step_budgets, site_headline
from .statistics import Spread, Unit, paired

NOT_METRICS = ("id", "datapath", "seed", "settings", "part", "status", "steps", "seconds", "started", "host", "epoch", "step")


@dataclass(frozen=True)
class Series:
    """The runs of one point of the grid (or of one part of a budget), over its seeds.

    Args:
        datapath: what the study calls the machine.
        settings: the other axes' values.
        part: empty for the grid.
        rows: the rows of `results`, by seed, in the order of epochs.
    """

    datapath: str
    settings: Mapping[str, Any]
    part: str
    rows: Mapping[int, tuple[Mapping[str, Any], ...]]

    @property
    def name(self) -> str:
        """The datapath, and the other axes' values."""
        others = [f"{axis.rpartition('.')[2]} {value}" for axis, value in self.settings.items()]
        return ", ".join([self.datapath, *dict.fromkeys(others)])

    def goes_by(self, name: str) -> bool:
        """Whether it is called so: by its datapath, or by the value of another axis."""
        return name == self.datapath or name in map(str, self.settings.values())

    @property
    def diverged(self) -> int:
        """How many seeds diverged."""
        return sum(rows[0]["status"] == "diverged" for rows in self.rows.values())

    @property
    def seconds(self) -> Spread:
        """The time that a run took."""
        return Spread.of(rows[0]["seconds"] for rows in self.rows.values())

    def final(self, metric: str) -> dict[int, float]:
        """The metric after the last epoch, by seed; a diverged run has none."""
        ended = {seed: rows[-1] for seed, rows in self.rows.items() if rows[0]["status"] == "done"}
        return {seed: row[metric] for seed, row in ended.items() if row.get(metric) is not None}

    def curve(self, metric: str) -> dict[int, Spread]:
        """The metric over the seeds, by epoch."""
        found: dict[int, list[float]] = defaultdict(list)
        for rows in self.rows.values():
            for row in rows:
                if row["epoch"] is not None and row.get(metric) is not None:
                    found[row["epoch"]].append(row[metric])
        return {epoch: Spread.of(values) for epoch, values in sorted(found.items())}


@dataclass(frozen=True)
class Comparison:
    """One line of the comparison table.

    Args:
        series: the runs.
        value: the metric over the seeds that finished.
        difference: to the baseline of the same settings, seed by seed; None for the baseline itself, or without one.
        loss: the test loss.
    """

    series: Series
    value: Spread
    difference: Spread | None
    loss: Spread


@dataclass(frozen=True)
class Report:
    """Everything that the page and the tables show.

    Args:
        folder: of the results.
        index: what `study.json` says.
        series: of the grid and the budgets, in the order of the study.
        records: of each datapath, the `run.json` of one run.
        audit: one row for each datapath, phase, role and cast.
        native: one row for each datapath, phase and role in which tensors stayed in the model's own precision, and why.
        diverged: the `run.json` of each run that diverged.
        shortfalls: the runs that were emulated less than the study demands.
        missing: how many of the study's runs have no result.
        failures: why, by the id of the run.
        steps: the budgets of one training step, by datapath.
    """

    folder: Path
    index: Mapping[str, Any]
    series: tuple[Series, ...]
    records: Mapping[str, Mapping[str, Any]]
    audit: tuple[Mapping[str, Any], ...]
    native: tuple[Mapping[str, Any], ...]
    diverged: tuple[Mapping[str, Any], ...]
    shortfalls: tuple[Shortfall, ...]
    missing: int
    failures: Mapping[str, Mapping[str, Any]]
    steps: tuple[StepBudget, ...] = ()

    @property
    def study(self) -> Mapping[str, Any]:
        """The study's own settings."""
        found: Mapping[str, Any] = self.index["study"]
        return found

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics, the task's own first."""
        names = dict.fromkeys(name for series in self.series for rows in series.rows.values() for name in rows[0])
        found = [name for name in names if name not in NOT_METRICS]
        return tuple(sorted(found, key=lambda name: name in ("train_loss", "test_loss")))

    @property
    def metric(self) -> str:
        """What the headline is about."""
        chosen: str | None = self.study["report"]["metric"]
        own = [name for name in self.metrics if name != "train_loss"]
        return chosen or next(iter(own), "test_loss")

    @property
    def unit(self) -> Unit:
        """How that metric is written."""
        return Unit.of(self.metric, (row.value for row in self.comparisons))

    @cached_property
    def grid(self) -> tuple[Series, ...]:
        """The series of the grid, in the order of the study."""
        return tuple(series for series in self.series if not series.part)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparison table."""
        bases = {_key(series.settings): series for series in self.grid if series.datapath == self.study["baseline"]}
        return tuple(self._compared(series, bases.get(_key(series.settings))) for series in self.grid)

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """The error budgets that the study asks for."""
        return budgets(self.series, tuple(dict.fromkeys((self.metric, "test_loss"))))

    @property
    def headline(self) -> str:
        """The answer in a sentence or two."""
        budgets = [budget.headline for budget in self.budgets if budget.metric == self.metric]
        texts = *self._compared_in_words(), self._enough(), *budgets, site_headline(self.steps)
        return " ".join(text for text in texts if text)

    def _enough(self) -> str:
        names = self.study["report"].get("enough", ())
        points = {name: series for name in names for series in self.grid if series.goes_by(name)}
        return enough_headline(names, {name: series.final(self.metric) for name, series in points.items()}, self.unit)

    def _compared(self, series: Series, base: Series | None) -> Comparison:
        final = series.final(self.metric)
        difference = None
        if base is not None and base is not series:
            difference = Spread.of(paired(final, base.final(self.metric)).values())
        return Comparison(series, Spread.of(final.values()), difference, Spread.of(series.final("test_loss").values()))

    def _compared_in_words(self) -> Iterable[str]:
        unit, rows = self.unit, [row for row in self.comparisons if row.value.count]
        changes = [(row.series.name, row.difference) for row in rows if row.difference and row.difference.count]
        changes.sort(key=lambda change: abs(change[1].mean))
        if changes:
            base = next(row for row in rows if row.series.datapath == self.study["baseline"])
            yield f"{base.series.name} reaches {self.metric} {unit.value(base.value)} on {self.task}."
            (near, least), (far, most) = changes[0], changes[-1]
            yield f"Closest to it is {near} ({unit.change(least)})" + (
                f", furthest {far} ({unit.change(most)})." if far != near else "."
            )
        elif rows:
            low, high = (pick(rows, key=lambda row: row.value.mean) for pick in (min, max))
            yield f"On {self.task}, {self.metric} is {unit.value(high.value)} with {high.series.name}"
            yield f"and {unit.value(low.value)} with {low.series.name}." if low is not high else "."
        diverged = sum(series.diverged for series in self.grid)
        if diverged:
            names = ", ".join(series.name for series in self.grid if series.diverged)
            yield f"{diverged} of {sum(len(series.rows) for series in self.grid)} runs diverged ({names})."

    @property
    def task(self) -> str:
        """The task's name, or those of the grid."""
        names = dict.fromkeys(record["run"]["task"]["name"] for record in self.records.values())
        return ", ".join(names)


def load_trainings(folder: Path) -> Report:
    """Read the results of a study of training runs.

    Raises:
        StudyError: the folder holds no study, or no finished run.
    """
    store = Store(folder)
    index, table, finished = store.index(), results(folder), store.finished()
    rows: dict[tuple[str, str, str], dict[int, list[dict[str, Any]]]] = {}
    for place in index["places"]:
        rows.setdefault((place["part"], place["datapath"], _key(place["settings"])), {})
    for row in table.to_pylist():
        rows[row["part"], row["datapath"], _key(json.loads(row["settings"]))].setdefault(row["seed"], []).append(row)
    series = tuple(
        Series(datapath, json.loads(settings), part, {seed: tuple(found) for seed, found in seeds.items()})
        for (part, datapath, settings), seeds in rows.items()
        if seeds
    )
    first: dict[str, str] = {}
    for place in index["places"]:
        if place["id"] in finished and not place["part"]:
            first.setdefault(place["datapath"], place["id"])
    records = {datapath: store.record(id) for datapath, id in first.items()}
    missing = {place["id"] for place in index["places"]} - finished
    failures = {id: failure for id, failure in store.failed().items() if id in missing}
    wild = {row["id"]: None for row in table.to_pylist() if row["status"] == "diverged"}
    return Report(
        folder,
        index,
        series,
        records,
        audit=tuple(audits(folder).to_pylist()),
        native=tuple(natives(folder).to_pylist()),
        diverged=tuple(store.record(id) for id in wild),
        shortfalls=tuple(shortfalls(store, index)),
        missing=len(missing),
        failures=failures,
        steps=load_step_budgets(folder, index),
    )


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
