"""`hwsim compare`: studies, or single datapaths of them, side by side; datapaths by what they declare."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from hwsim.budgets.dots import NATIVE
from hwsim.budgets.lockstep import Divergence, first_difference
from hwsim.catalogue import Catalogue
from hwsim.datapaths import datapath
from hwsim.errors import ConfigError, not_allowed
from hwsim.models import batches, initial_model

from . import tasks
from .choices import TORCH_OPTIMIZERS
from .files import StudyFile
from .plan import expand
from .report.loading import load_report
from .report.statistics import CONFIDENCE, Difference, difference
from .report.summary import Report, Series
from .schema import TrainingRun, machine

STUDY_FILE = "study.json"


def compare(names: Sequence[str]) -> list[Difference]:
    """The first of several results with each of the others.

    A name is a results folder, or FOLDER:PART for a part of it: a datapath, a setting as reports write it (`lr 0.1`), or both
    (`fp32, lr 0.1`). Whole folders are compared datapath by datapath where both have one with the same settings, parts where
    they have the rest in common, and two single series whatever they are called.

    Raises:
        ConfigError: fewer than two names, nothing in common, or a part that a folder does not have.
        StudyError: a folder without results.
    """
    _check_several(names)
    (first, own, part), *others = [_found(name) for name in names]
    rows: list[Difference] = []
    for report, series, other in others:
        if first.metric != report.metric:
            raise ConfigError(f"compare: got the metrics {first.metric} and {report.metric}; allowed: studies of one metric")
        for a, b in itertools.product(own, series):
            chosen = (part, other) if part and other else ("", "")
            if len(own) == len(series) == 1 or _rest(a, chosen[0]) == _rest(b, chosen[1]):
                left, right = (f"{one.folder.name}: {run.name}" for one, run in ((first, a), (report, b)))
                rows.append(difference(left, right, first.metric, a.final(first.metric), b.final(first.metric)))
    if not rows:
        raise ConfigError(
            f"compare: {first.folder} has no datapath in common with the others; allowed: FOLDER:DATAPATH or FOLDER:SETTING to "
            "name them"
        )
    return rows


def compare_datapaths(names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """For the first of several datapaths and each other: one line for each leaf in which their declarations differ.

    Raises:
        ConfigError: fewer than two names.
    """
    _check_several(names)
    machines = {name: machine(datapath(name)) for name in names}
    first, *others = names
    return [(first, name, _leaves(machines[first], machines[name], "")) for name in others]


def are_datapaths(names: Sequence[str]) -> bool:
    """Whether all names are shipped datapaths or datapath files, and none a folder."""
    known = Catalogue().names("datapaths")
    return all(not Path(name).is_dir() and (name in known or name.endswith((".yaml", ".yml"))) for name in names)


def as_rows(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """The differences as data; what is no number is None."""
    rows = [asdict(row) for row in found]
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in rows
    ]


def as_table(found: Sequence[Difference]) -> Table:
    """The differences for the terminal."""
    table = Table("a", "b", f"{found[0].metric}: b - a", f"{CONFIDENCE:.0%} interval", "p", "seeds")
    for row in found:
        interval = "-" if math.isnan(row.low) else f"{row.low:+.4g} .. {row.high:+.4g}"
        p = "-" if math.isnan(row.p) else f"{row.p:.2g}"
        table.add_row(escape(row.a), escape(row.b), f"{row.difference:+.4g}", interval, p, str(row.seeds))
    return table


def _check_several(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ConfigError(f"compare: got {len(names)} name; allowed: two or more")


def _labels(series: Series) -> dict[str, str]:
    """The datapath, and the other axes' values as `Series.name` writes them."""
    settings = {axis: f"{axis.rpartition('.')[2]} {value}" for axis, value in series.settings.items()}
    return {"datapath": series.datapath, **settings}


def _rest(series: Series, chosen: str) -> dict[str, str]:
    """What tells a series from the others of the chosen part."""
    return {} if chosen == series.name else {axis: label for axis, label in _labels(series).items() if label != chosen}


def _found(name: str) -> tuple[Report, list[Series], str]:
    folder, colon, chosen = name.rpartition(":")
    if not colon or (Path(name) / STUDY_FILE).exists():
        folder, chosen = name, ""
    report = load_report(Path(folder))
    if not isinstance(report, Report):
        raise ConfigError(f"compare: {folder} holds experiments; allowed: studies of trainings")
    series = [one for one in report.grid if chosen in ("", one.name, *_labels(one).values())]
    if not series:
        known = dict.fromkeys(label for one in report.grid for label in _labels(one).values())
        raise ConfigError(f"compare: {folder}: {not_allowed('datapath or setting', chosen, list(known))}")
    return report, series, chosen


def _leaves(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [line for key in keys for line in _leaves(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))]
    return [] if a == b else [f"{path}: {a} | {b}"]


def diff(names: tuple[str, str], study: StudyFile, steps: int, seed: int) -> str:
    """Two datapaths in lock step on a study's task: the first number that differs, and its dot product on emulated units.

    Raises:
        ConfigError: no such datapath, or a study of experiments.
    """
    run = next(iter(expand(study).runs.values()))
    if not isinstance(run, TrainingRun):
        raise ConfigError(f"{study.document.name}: got a study of experiments; allowed: a study of trainings")
    machines = [datapath(name, study.catalogue) for name in names]
    task, data = tasks.build(run.task), tasks.data(run.task)
    make: Any = partial(TORCH_OPTIMIZERS[run.optimizer.name], **run.optimizer.model_dump(exclude={"name"}))
    chosen = list(itertools.islice(batches(data, run.task.batch_size, seed, 0), steps))
    model = initial_model(task, seed)
    found = first_difference(model, lambda model: make(model.parameters()), task.loss, chosen, machines[0], machines[1], seed)
    if found is None:
        return f"{names[0]} and {names[1]} agree bit for bit over {len(chosen)} steps"
    return "\n\n".join([str(found), *_traces(found, names)])


def _traces(found: Divergence, names: Sequence[str]) -> Iterator[str]:
    """The differing element's dot product on each machine, where a GEMM made it."""
    if found.gemm and found.tensor == "result":
        for name, dot, value in zip(names, found.dots, (found.a, found.b), strict=True):
            yield f"{name}: {NATIVE if dot is None else dot.text(value)}"
