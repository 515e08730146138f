"""The results of an experiment and what is reported of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..experiments import Section, experiments
from ..results import experiment_results
from ..store import Store


@dataclass(frozen=True)
class ExperimentReport:
    """Everything that the page and the tables show of an experiment.

    Args:
        folder: of the results.
        index: what `study.json` says.
        rows: of all runs in the order of the study; each has the run's parameters, its seed and its own columns.
        record: the `run.json` of one run.
        missing: how many of the study's runs have no result.
        failures: why, by the id of the run.
    """

    folder: Path
    index: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    record: Mapping[str, Any]
    missing: int
    failures: Mapping[str, Mapping[str, Any]]

    @property
    def study(self) -> Mapping[str, Any]:
        """The study's own settings."""
        found: Mapping[str, Any] = self.index["study"]
        return found

    @cached_property
    def section(self) -> Section:
        """The experiment's own report."""
        return experiments()[self.study["experiment"]["name"]].section(self.rows)

    @property
    def headline(self) -> str:
        """The answer."""
        return self.section.headline


def load_experiment(folder: Path) -> ExperimentReport:
    """Read the results of an experiment.

    Raises:
        StudyError: the folder holds no study, or no finished run.
    """
    store = Store(folder)
    index, table, finished = store.index(), experiment_results(folder).to_pylist(), store.finished()
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        by_run.setdefault(row.pop("id"), []).append(row)
    experiment = experiments()[index["study"]["experiment"]["name"]]
    places = [place for place in index["places"] if place["id"] in finished]
    records = {place["id"]: store.record(place["id"]) for place in places}
    rows = []
    for place in places:
        parameters = experiment.parameters.model_validate(records[place["id"]]["run"]["experiment"])
        given = {name: getattr(parameters, name) for name in experiment.parameters.model_fields}
        rows += [{**given, "seed": place["seed"], **row} for row in by_run.get(place["id"], [])]
    missing = {place["id"] for place in index["places"]} - finished
    failures = {id: failure for id, failure in store.failed().items() if id in missing}
    return ExperimentReport(folder, index, tuple(rows), next(iter(records.values())), len(missing), failures)
