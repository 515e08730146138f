"""Metrics go to the trackers that are asked for, epoch by epoch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_cases import plan_of
from typer.testing import CliRunner

from hwsim.errors import StudyError
from hwsim.studies import sinks as module
from hwsim.studies.cli import app
from hwsim.studies.schema import TrainingRun
from hwsim.studies.sinks import MLflow, TensorBoard, WeightsAndBiases, sinks, sunk

ROWS = [{"epoch": epoch, "step": 6 * (epoch + 1), "train_loss": 2.0 - epoch, "accuracy": 0.5} for epoch in range(2)]

# Files that trackers leave open, and deprecations among them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def run() -> TrainingRun:
    return next(iter(plan_of().runs.values()))


def tell(sink: Any) -> None:
    for row in ROWS:
        sink.row(row)
    sink.close()


@pytest.mark.large
def test_tensorboard_gets_a_scalar_a_metric(run: TrainingRun, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(TensorBoard(run, tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard" / run.id)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(6, 2.0), (12, 1.0)]


@pytest.mark.large
def test_mlflow_gets_a_run_with_its_metrics(run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow").tracking
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    sink = MLflow(run, tmp_path)
    tell(sink)
    client = tracking.MlflowClient(f"file:{tmp_path}/mlruns")
    history = client.get_metric_history(sink.run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(6, 2.0), (12, 1.0)]
    assert client.get_run(sink.run.info.run_id).info.status == "FINISHED"


@pytest.mark.large
def test_weights_and_biases_keeps_a_run_in_the_folder(run: TrainingRun, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tell(WeightsAndBiases(run, tmp_path))
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run.id}/run-{run.id}.wandb"))


def test_every_sink_is_shown_each_row_and_closed_whatever_happens(
    run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Noting:
        def __init__(self, run: TrainingRun, folder: Path) -> None:
            seen.append((run.id, folder))

        def row(self, row: Any) -> None:
            seen.append(row["step"])

        def close(self) -> None:
            seen.append("closed")

    def failing() -> None:
        with sunk(["noting"], run, tmp_path) as tell:
            tell(ROWS[0])
            raise RuntimeError("the run fails")

    monkeypatch.setattr(module, "sinks", lambda: {"noting": Noting})
    with pytest.raises(RuntimeError, match="the run fails"):
        failing()
    assert seen == [(run.id, tmp_path), 6, "closed"]


def test_a_plug_in_takes_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sinks.cache_clear()
    monkeypatch.setattr(module, "entry_points", lambda group: [SimpleNamespace(name="mlflow", value="other:Sink", load=dict)])
    with pytest.raises(StudyError, match="sink: 'mlflow' of other:Sink exists already; allowed: a new name"):
        sinks()
    sinks.cache_clear()


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    refused = CliRunner().invoke(app, ["run", "quickstart", "--log", "tensorbord"])
    assert refused.exit_code == 2
    assert "--log: got 'tensorbord'; allowed: mlflow, tensorboard, wandb; did you mean 'tensorboard'?" in refused.stderr
