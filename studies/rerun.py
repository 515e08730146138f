"""A stored run, performed again and compared bit for bit."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hwsim.errors import StudyError

from .experiments import experiments
from .provenance import surroundings
from .schema import ExperimentRun, Run, TrainingRun
from .store import Store, differences
from .trust import check_trust
from .worker import perform

SAME = ("status", "steps", "reason", "coverage", "data_checksum")
NAMED = ("cast", "mac")
"""Columns in words: a study's own names for formats and units are labels, no part of a run, and not stored with it."""


@dataclass(frozen=True)
class Rerun:
    """What came of it.

    Args:
        id: of the run.
        differences: of its results, a line each; none where every bit is the same.
        surroundings: in what this machine and its packages differ from those of the first time.
    """

    id: str
    differences: tuple[str, ...]
    surroundings: tuple[str, ...]


def stored_run(record: Mapping[str, Any]) -> Run:
    """The run that a `run.json` is of.

    Raises:
        StudyError: it is no run of this version of hwsim.
    """
    given = record["run"]
    try:
        if "experiment" not in given:
            run: Run = TrainingRun.model_validate_json(json.dumps(given))
        else:
            parameters = experiments()[given["experiment"]["name"]].parameters
            experiment = parameters.model_validate_json(json.dumps(given["experiment"]))
            run = ExperimentRun(experiment=experiment, seed=given["seed"], threads=given["threads"])
    except (ValueError, KeyError) as error:
        raise StudyError(f"{record['id']}: no run that hwsim knows: {error}") from error
    if run.hash != record["hash"]:
        raise StudyError(
            f"{run.id}: the configuration has the hash {run.hash[:12]} in this version; allowed: {record['hash'][:12]}"
        )
    return run


def rerun(folder: Path, trust: tuple[str, ...] = ()) -> Rerun:
    """Perform a stored run again in a place of its own, and compare what comes of it.

    Args:
        folder: of the run, `STUDY/runs/ID`; it is only read.
        trust: modules whose functions the run may name.

    Raises:
        StudyError: the folder holds no run, or one that cannot be performed; the reason is given.
        TaskError: the run names code that nobody allowed.
    """
    if not (folder / "run.json").is_file():
        raise StudyError(f"{folder}: holds no run; allowed: a folder RESULTS/runs/ID that `hwsim run` wrote")
    record = json.loads((folder / "run.json").read_text())
    run = stored_run(record)
    if isinstance(run, TrainingRun):
        check_trust(run.task.options, trust)
    with tempfile.TemporaryDirectory(prefix="hwsim-rerun-") as name:
        again = Store(Path(name))
        finished = perform(run, again.folder)
        if finished.status == "failed":
            raise StudyError(f"{run.id}: failed this time: {finished.error}")
        found = again.record(run.id)
        lines = [line for key in SAME for line in differences(record.get(key), found.get(key), key)]
        for path in sorted((again.runs / run.id).glob("*.parquet")):
            lines += _table_differences(path.stem, folder / path.name, path)
    here = {name: record.get(name) for name in surroundings()}
    around = [line for key, value in surroundings().items() for line in differences(here[key], value, key)]
    return Rerun(run.id, tuple(lines), tuple(line.replace(" in the folder", " then") for line in around))


def _table_differences(name: str, stored: Path, found: Path) -> Iterator[str]:
    a, b = (pq.read_table(path).to_pylist() if path.exists() else [] for path in (stored, found))
    if len(a) != len(b):
        yield f"{name}: {len(a)} rows in the folder, {len(b)} now"
    for number, (old, new) in enumerate(zip(a, b, strict=False)):
        for column in (column for column in dict.fromkeys((*old, *new)) if column not in NAMED):
            x, y = old.get(column), new.get(column)
            if _bits(x) != _bits(y):
                yield f"{name}: row {number}, {column}: {x!r} in the folder, {y!r} now"


def _bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value
