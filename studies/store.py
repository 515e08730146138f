"""One folder a study, one folder a run in it, each of them there as a whole or not at all.

Files::

    study.json                    the study, its plan, its machines, and the version of hwsim
    runs/<id>/run.json            configuration, hash, status, where and with what it ran
    runs/<id>/metrics.parquet     one row an epoch, or the rows of an experiment
    runs/<id>/audit.parquet       one row for each operation that ran in a training
    runs/<id>/native.parquet      one row for each that left tensors in the model's own precision
    failures/<id>.json            why a run has no result; gone when it has one
    logs/<id>.log                 what was printed while it ran
    checkpoints/<id>.pt           how far a run has come; gone when it has a result
    claims/<id>                   there while a process performs the run
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hwsim.errors import StudyError

from .claims import Claimed, claim, is_claimed
from .disk import write_file, write_folder
from .plan import Plan
from .schema import machine

LAYOUT = 2


class StorageError(StudyError):
    """A results folder cannot be written to."""


class Store:
    """The results folder of one study.

    Args:
        folder: created with the first thing that is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def runs(self) -> Path:
        """Where the finished runs are."""
        return self.folder / "runs"

    @property
    def failures(self) -> Path:
        """Where it is said why runs have no result."""
        return self.folder / "failures"

    def log(self, id: str) -> Path:
        """Where it is said what a run printed."""
        return self.folder / "logs" / f"{id}.log"

    def checkpoint(self, id: str) -> Path:
        """How far a run has come."""
        return self.folder / "checkpoints" / f"{id}.pt"

    def finished(self) -> set[str]:
        """The ids of the runs that have a result."""
        return {path.parent.name for path in self.runs.glob("[!.]*/run.json")}

    def has(self, id: str) -> bool:
        """Whether a run has a result."""
        return (self.runs / id / "run.json").exists()

    def record(self, id: str) -> dict[str, Any]:
        """What a run's `run.json` says."""
        found: dict[str, Any] = json.loads((self.runs / id / "run.json").read_text())
        return found

    def failed(self) -> dict[str, dict[str, Any]]:
        """Why runs have no result, by id."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.failures.glob("[!.]*.json"))}

    def running(self) -> set[str]:
        """The ids of the runs that a process performs now."""
        return {path.name for path in (self.folder / "claims").glob("*") if is_claimed(path)}

    def index(self) -> dict[str, Any]:
        """What `study.json` says.

        Raises:
            StudyError: the folder holds no study.
        """
        path = self.folder / "study.json"
        if not path.is_file():
            raise StudyError(f"{self.folder}: holds no study; allowed: a folder that `hwsim run` wrote")
        index: dict[str, Any] = json.loads(path.read_text())
        return index

    def open(self, plan: Plan, text: str, version: str, *, update: bool = False) -> None:
        """Make the folder this plan's: write `study.json`, and clear what killed processes left half-written.

        Args:
            text: the study file.
            version: of hwsim.
            update: take over a folder of another plan; runs that both have are kept.

        Raises:
            StudyError: the folder is another study's, or another version's; the differences are listed.
            StorageError: it cannot be written to.
        """
        new = {
            "layout": LAYOUT,
            "hwsim": version,
            "hash": plan.hash,
            "study": plan.study.model_dump(mode="json"),
            "machines": {name: machine(datapath) for name, datapath in plan.machines.items()},
            "file": text,
            "places": [asdict(place) for place in plan.places],
        }
        try:
            with self._alone():
                if (self.folder / "study.json").exists() and not update:
                    old = self.index()
                    if any(old.get(key) != new[key] for key in ("layout", "hwsim", "hash")):
                        raise StudyError(self._taken(old, new))
                write_file(self.folder / "study.json", json.dumps(new, indent=1))
                self._sweep()
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written to: {error.strerror}") from error

    @contextmanager
    def claimed(self, id: str) -> Iterator[None]:
        """Keep other processes from performing a run at the same time.

        Raises:
            Claimed: one does.
        """
        with claim(self.folder / "claims" / id):
            yield

    def save(self, id: str, record: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Store a run's result as a whole; where somebody else has stored it, the same configuration has the same result.

        Args:
            id: of the run.
            record: `run.json`.
            tables: parquet files by name.

        Raises:
            OSError: it cannot be stored; nothing of it is.
        """
        write_folder(self.runs / id, partial(_write_result, record=record, tables=tables))
        (self.failures / f"{id}.json").unlink(missing_ok=True)
        self.checkpoint(id).unlink(missing_ok=True)

    def save_failure(self, id: str, record: Mapping[str, Any]) -> None:
        """Store why a run has no result."""
        write_file(self.failures / f"{id}.json", json.dumps(record, indent=1))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what was left half-written, unless a living process is at it, and what a result has made out of date."""
        for folder in (self.runs, self.failures, self.folder / "checkpoints"):
            for path in folder.glob(".*"):
                try:
                    with self.claimed(path.name.split(".")[1]):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                except Claimed:
                    continue
        for path in (*self.failures.glob("[!.]*.json"), *(self.folder / "checkpoints").glob("[!.]*.pt")):
            if self.has(path.stem):
                path.unlink(missing_ok=True)
        for path in (self.folder / "claims").glob("*"):
            if not is_claimed(path):
                path.unlink(missing_ok=True)

    def _taken(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        keys = ("layout", "hwsim", "study", "machines")
        lines = [line for key in keys for line in differences(old.get(key), new[key], key)]
        text = "\n".join(f"  {line}" for line in lines or ["the runs that it stands for"])
        return (
            f"{self.folder}: holds another study's results; it differs in\n{text}\n"
            "allowed: another --output, or --update, which keeps the runs that both have"
        )


def _write_result(folder: Path, record: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "run.json").write_text(json.dumps(record, indent=1))


def last_row(metrics: pa.Table) -> dict[str, Any]:
    """The last row of a table of one run, less the run's id; nothing of an empty one."""
    rows: list[dict[str, Any]] = metrics.slice(max(0, len(metrics) - 1)).to_pylist()
    return {name: value for row in rows for name, value in row.items() if name != "id"}


def differences(old: Any, new: Any, path: str) -> list[str]:
    """One line for each leaf in which two pieces of data differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [f"{path}: {_told(old)} in the folder, {_told(new)} now"]


def _told(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
