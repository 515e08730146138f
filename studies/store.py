"""One folder a study, one folder a run in it, each of them there as a whole or not at all.

Files::

    study.json                    the study, its plan, and the version of hwsim
    runs/<id>/run.json            configuration, hash, status, where and with what it ran
    runs/<id>/metrics.parquet     one row an epoch, or the rows of an experiment
    runs/<id>/audit.parquet       one row for each operation that ran in a training
    runs/<id>/native.parquet      one row for each that left tensors in the model's own precision
    failures/<id>.json            why a run has no result; gone when it has one
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hwsim.errors import StudyError

from .plan import Plan

LAYOUT = 1


class StorageError(StudyError):
    """A results folder cannot be written to, or is in use."""


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

    def finished(self) -> set[str]:
        """The ids of the runs that have a result."""
        return {path.parent.name for path in self.runs.glob("[!.]*/run.json")}

    def record(self, id: str) -> dict[str, Any]:
        """What a run's `run.json` says."""
        found: dict[str, Any] = json.loads((self.runs / id / "run.json").read_text())
        return found

    def failed(self) -> dict[str, dict[str, Any]]:
        """Why runs have no result, by id."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.failures.glob("[!.]*.json"))}

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

    def claim(self, plan: Plan, text: str, version: str, *, update: bool = False) -> None:
        """Make the folder this plan's: write `study.json` unless it is there already.

        Args:
            text: the study file.
            version: of hwsim.
            update: take over a folder of another plan; runs that both have are kept.

        Raises:
            StudyError: the folder is another study's, or another version's; the differences are listed.
        """
        new = {
            "layout": LAYOUT,
            "hwsim": version,
            "hash": plan.hash,
            "study": plan.study.model_dump(mode="json"),
            "file": text,
            "places": [asdict(place) for place in plan.places],
        }
        if (self.folder / "study.json").exists() and not update:
            old = self.index()
            keys = ("layout", "hwsim", "hash")
            if any(old.get(key) != new[key] for key in keys):
                raise StudyError(self._taken(old, new))
        write_file(self.folder / "study.json", json.dumps(new, indent=1))

    def save(self, id: str, record: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Store a run's result as a whole: a folder under another name, renamed when all of it is on the disk.

        Args:
            id: of the run.
            record: `run.json`.
            tables: parquet files by name.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{id}.", dir=self.runs))
        try:
            for name, table in tables.items():
                pq.write_table(table, temporary / f"{name}.parquet")
            (temporary / "run.json").write_text(json.dumps(record, indent=1))
            for path in temporary.iterdir():
                _sync(path)
            temporary.chmod(0o755)
            _sync(temporary)
            try:
                os.rename(temporary, self.runs / id)
            except OSError:
                # Somebody else has stored the same run: the same configuration has the same result.
                if not (self.runs / id / "run.json").exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(self.runs)
        (self.failures / f"{id}.json").unlink(missing_ok=True)

    def save_failure(self, id: str, record: Mapping[str, Any]) -> None:
        """Store why a run has no result."""
        write_file(self.failures / f"{id}.json", json.dumps(record, indent=1))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running the same study at the same time.

        Raises:
            StorageError: another one does, or the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("a+")
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written to: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"{self.folder}: another process is running this study; wait for it, or give another --output"
                raise StorageError(message) from None
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what was left half-written by a killed process."""
        for path in self.runs.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def _taken(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        lines = [line for key in ("layout", "hwsim", "study") for line in differences(old.get(key), new[key], key)]
        if not lines:
            lines = ["what its formats, units or datapaths are"]
        text = "\n".join(f"  {line}" for line in lines)
        return (
            f"{self.folder}: holds another study's results; it differs in\n{text}\n"
            "allowed: another --output, or --update, which keeps the runs that both have"
        )


def differences(old: Any, new: Any, path: str) -> list[str]:
    """One line for each leaf in which two pieces of data differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [f"{path}: {json.dumps(old)} in the folder, {json.dumps(new)} now"]


def write_file(path: Path, text: str) -> None:
    """Write a file so that at any moment the old or the new one is there, as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
