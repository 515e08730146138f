"""Where the metrics of a run go beside its results, while it runs: TensorBoard, MLflow, Weights & Biases, or a plug-in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from hwsim.errors import StudyError

from .extras import needed
from .schema import TrainingRun

ENTRY_POINTS = "hwsim.sinks"
Row = Mapping[str, Any]


class Sink(Protocol):
    """Takes the metrics of one run. A sink's constructor is called with the run and the study's folder."""

    def row(self, row: Row) -> None:
        """An epoch has ended: `epoch`, `step` and its metrics. A run that goes on from a checkpoint goes on with its rows."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class TensorBoard:
    """Scalars in `tensorboard/ID` of the study's folder."""

    def __init__(self, run: TrainingRun, folder: Path) -> None:
        needed("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard" / run.id))
        self.writer.add_text("run", _name(run))

    def row(self, row: Row) -> None:
        """See `Sink.row`."""
        for name, value in _metrics(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """See `Sink.close`."""
        self.writer.close()


class MLflow:
    """A run of the tracking server of MLFLOW_TRACKING_URI, or of a store in the study's folder."""

    def __init__(self, run: TrainingRun, folder: Path) -> None:
        tracking = needed("mlflow", "mlflow").tracking
        self.client = tracking.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"file:{folder.resolve()}/mlruns")
        found = self.client.get_experiment_by_name(folder.name)
        experiment = self.client.create_experiment(folder.name) if found is None else found.experiment_id
        self.run = self.client.create_run(experiment, run_name=_name(run), tags={"hwsim.run": run.id})

    def row(self, row: Row) -> None:
        """See `Sink.row`."""
        for name, value in _metrics(row).items():
            self.client.log_metric(self.run.info.run_id, name, value, step=row["step"])

    def close(self) -> None:
        """See `Sink.close`."""
        self.client.set_terminated(self.run.info.run_id)


class WeightsAndBiases:
    """A run of Weights & Biases, kept in the study's folder; it is sent only where WANDB_MODE=online says so."""

    def __init__(self, run: TrainingRun, folder: Path) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        settings = {"dir": str(folder), "project": folder.name, "id": run.id, "name": _name(run), "mode": mode}
        self.run = needed("wandb", "wandb").init(**settings, reinit="create_new", config=run.model_dump(mode="json"))

    def row(self, row: Row) -> None:
        """See `Sink.row`."""
        self.run.log(_metrics(row), step=row["step"])

    def close(self) -> None:
        """See `Sink.close`."""
        self.run.finish()


@cache
def sinks() -> Mapping[str, Callable[[TrainingRun, Path], Sink]]:
    """The sinks by name: the built-in ones, then those of the entry-point group `hwsim.sinks`.

    Raises:
        StudyError: a plug-in takes a name that exists.
    """
    found: dict[str, Callable[[TrainingRun, Path], Sink]] = {
        "tensorboard": TensorBoard,
        "mlflow": MLflow,
        "wandb": WeightsAndBiases,
    }
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in found:
            raise StudyError(f"sink: {entry.name!r} of {entry.value} exists already; allowed: a new name")
        found[entry.name] = entry.load()
    return MappingProxyType(found)


@contextmanager
def sunk(names: Sequence[str], run: TrainingRun, folder: Path) -> Iterator[Callable[[Row], None]]:
    """Hand each row of a run's metrics to the sinks of these names."""
    with ExitStack() as stack:
        opened = []
        for name in names:
            sink = sinks()[name](run, folder)
            stack.callback(sink.close)
            opened.append(sink)

        def tell(row: Row) -> None:
            for sink in opened:
                sink.row(row)

        yield tell


def _name(run: TrainingRun) -> str:
    return f"{run.datapath.name or 'datapath'} seed {run.seed} ({run.id})"


def _metrics(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in ("epoch", "step")}
