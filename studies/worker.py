"""What a worker does with one run: perform it and store what came of it."""

from __future__ import annotations

import math
import os
import platform
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numba
import pyarrow as pa
import torch

from .checkpoints import Checkpoints
from .claims import Claimed
from .experiments import Row, experiments
from .limits import limited, peak_gib
from .logs import Say, logged
from .provenance import surroundings
from .schema import ExperimentRun, Run, TrainingRun
from .sinks import sunk
from .store import Store, last_row
from .terms import Terms
from .together import train_together
from .train import Outcome, train

AUDIT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("phase", pa.string()),
        ("op", pa.string()),
        ("site", pa.string()),
        ("role", pa.string()),
        ("cast", pa.string()),
        ("count", pa.int64()),
        ("flops", pa.int64()),
        ("gemm", pa.string()),
        ("mac", pa.string()),
        ("elements", pa.int64()),
    ]
)
NATIVE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("phase", pa.string()),
        ("op", pa.string()),
        ("site", pa.string()),
        ("role", pa.string()),
        ("reason", pa.string()),
        ("count", pa.int64()),
        ("flops", pa.int64()),
    ]
)


Status = Literal["done", "diverged", "failed", "elsewhere"]
TERMS = Terms()


@dataclass(frozen=True)
class Finished:
    """One run that came to an end.

    Args:
        id: of the run.
        status: `done` and `diverged` are results; `failed` has none and is tried again by the next call; `elsewhere` is
            another process' to perform.
        seconds: how long it took.
        error: why it failed, or who has it.
    """

    id: str
    status: Status
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class _Result:
    """What a run came to: its part of `run.json`, and its tables."""

    status: Status
    record: Mapping[str, Any]
    tables: Mapping[str, pa.Table]


def perform(run: Run, folder: Path, terms: Terms = TERMS) -> Finished:
    """Perform one run and store its result; a failure is stored as one, and returned.

    A run that another process performs, or has performed, is `elsewhere`. Threads are set to the run's own number, so that its
    result is the same on every executor.
    """
    store = Store(folder)
    try:
        with store.claimed(run.id):
            return Finished(run.id, "elsewhere") if store.has(run.id) else _performed(run, store, terms)
    except Claimed as other:
        return Finished(run.id, "elsewhere", error=str(other))
    except OSError as error:
        return Finished(run.id, "failed", error=f"{type(error).__name__}: {error}")


def _performed(run: Run, store: Store, terms: Terms) -> Finished:
    started, clock = datetime.now(UTC), time.perf_counter()
    with logged(store.log(run.id)) as say:
        say(f"starts as process {os.getpid()} on {platform.node()}")
        try:
            with limited(terms.resources):
                result = _result(run, store, terms, say)
            seconds = time.perf_counter() - clock
            record = {**_identity(run), **result.record, "last": _said(last_row(result.tables["metrics"]))}
            times = {"seconds": seconds, "started": started.isoformat(), "memory_gib": peak_gib()}
            store.save(run.id, {**record, **times, **terms.origin, **surroundings()}, result.tables)
        # Whatever a run dies of is that run's failure: the rest of the study goes on.
        except Exception as error:
            text, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
            say(f"failed\n{trace}")
            failure = {"id": run.id, "error": text, "traceback": trace, "run": run.model_dump(mode="json")}
            return _failed(store, run.id, {**failure, **terms.origin, **surroundings()}, time.perf_counter() - clock)
        say(result.status)
    return Finished(run.id, result.status, seconds)


def _failed(store: Store, id: str, failure: Mapping[str, Any], seconds: float) -> Finished:
    try:
        store.save_failure(id, failure)
    except OSError as error:
        return Finished(id, "failed", seconds, f"{failure['error']} (and it could not be stored: {error.strerror})")
    return Finished(id, "failed", seconds, failure["error"])


def _said(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A row as JSON can say it; None where a number of it is not finite."""
    return row if all(math.isfinite(value) for value in row.values() if isinstance(value, float)) else None


def _identity(run: Run) -> dict[str, Any]:
    return {"id": run.id, "hash": run.hash, "threads": run.threads, "run": run.model_dump(mode="json")}


def _result(run: Run, store: Store, terms: Terms, say: Say) -> _Result:
    torch.set_num_threads(run.threads)
    numba.set_num_threads(min(run.threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    return _measured(run) if isinstance(run, ExperimentRun) else _trained(run, store, terms, say)


def _trained(run: TrainingRun, store: Store, terms: Terms, say: Say) -> _Result:
    checkpoints = Checkpoints(store.checkpoint(run.id), run.hash, terms.checkpoint)
    with sunk(terms.sinks, run, store.folder) as tell:

        def told(row: Mapping[str, Any]) -> None:
            say(", ".join(f"{name} {value:.6g}" for name, value in row.items()))
            tell(row)

        outcome = train(run, checkpoints, told) if run.processes == 1 else train_together(run, checkpoints, told)
    record = {
        "status": outcome.status,
        "steps": outcome.steps,
        "reason": outcome.reason,
        "origin": outcome.origin,
        "coverage": outcome.coverage,
        "data_checksum": outcome.checksum,
    }
    native = pa.Table.from_pylist([{"id": run.id, **row} for row in outcome.native], schema=NATIVE_SCHEMA)
    tables = {"metrics": metrics_table(run, outcome), "audit": audit_table(run, outcome), "native": native}
    return _Result(outcome.status, record, tables)


def _measured(run: ExperimentRun) -> _Result:
    name: str = run.experiment.name  # type: ignore[attr-defined]
    found = experiments()[name].rows(run.experiment, run.seed)
    return _Result("done", {"status": "done"}, {"metrics": rows_table(run, found)})


def rows_table(run: ExperimentRun, rows: list[Row]) -> pa.Table:
    """The rows of an experiment with their number, in the columns that any of them has."""
    columns = dict.fromkeys(name for row in rows for name in row)
    arrays = {name: pa.array([row.get(name) for row in rows]) for name in columns}
    # A column of nothing but None says nothing about its type; numbers are the likeliest in the other runs.
    typed = {name: array.cast(pa.float64()) if pa.types.is_null(array.type) else array for name, array in arrays.items()}
    return pa.table({"id": pa.array([run.id] * len(rows), pa.string()), "row": pa.array(range(len(rows)), pa.int64()), **typed})


def metrics_table(run: TrainingRun, outcome: Outcome) -> pa.Table:
    """One row an epoch; a run that ended before has the columns all the same."""
    columns = dict.fromkeys(("train_loss", "test_loss", *(name for row in outcome.metrics for name in row)))
    floats = [(name, pa.float64()) for name in columns if name not in ("epoch", "step")]
    schema = pa.schema([("id", pa.string()), ("epoch", pa.int64()), ("step", pa.int64()), *floats])
    return pa.Table.from_pylist([{"id": run.id, **row} for row in outcome.metrics], schema=schema)


def audit_table(run: TrainingRun, outcome: Outcome) -> pa.Table:
    """The emulator's audit, one row for each operation."""
    return pa.Table.from_pylist([{"id": run.id, **row} for row in outcome.audit], schema=AUDIT_SCHEMA)
