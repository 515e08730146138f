"""One run: a task trained on an emulated datapath."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import apply
from hwsim.emulator import Machine, emulate
from hwsim.formats import Draw
from hwsim.formats.errors import NanError
from hwsim.models import Data, Task, batches, initial_model, predict, score

from . import tasks
from .schema import TORCH_OPTIMIZERS, TrainingRun
from .weights import Trainee, trainee


@dataclass
class Outcome:
    """What a run gave.

    Args:
        status: `done`, or `diverged`: a loss, a weight or an output on the test set is not finite, or a NaN met a format that has
            none; a result too.
        steps: how many optimizer steps were taken.
        reason: why it diverged, in which step.
        origin: the first operation that gave NaN or infinity in that step.
        metrics: one row an epoch: `epoch` and `step` at its end, `train_loss` (the mean over the epoch's samples while they
            were trained on), `test_loss`, and the task's metrics on the test set.
        audit: the emulator's rows.
        native: the tensors that stayed in the model's own precision, and why.
        coverage: shares of operations and of FLOPs that ran as the datapath declares.
        checksum: of the data.
    """

    status: Literal["done", "diverged"] = "done"
    steps: int = 0
    reason: str = ""
    origin: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    native: list[dict[str, Any]] = field(default_factory=list)
    coverage: dict[str, float] = field(default_factory=dict)
    checksum: str = ""


class Diverged(Exception):
    """The loss, a weight or an output is no finite number."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch leaves for the score: the step at its end, training loss, outputs on the test set, quantization rate."""

    step: int
    train_loss: float
    outputs: Tensor
    rate: Mapping[str, float]


def train(run: TrainingRun) -> Outcome:
    """Train a run's task.

    Weights, data order and stochastic rounding are functions of the run's seed alone. Evaluation runs the model on the same
    datapath; the score of its outputs is computed in float64, outside of it.
    """
    task, data = tasks.build(run.task), tasks.data(run.task)
    outcome, epochs = Outcome(checksum=data.checksum), list[Epoch]()
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = initial_model(task, run.seed)
        make = partial(TORCH_OPTIMIZERS[run.optimizer.name], **run.optimizer.model_dump(exclude={"name"}))
        steps = run.task.epochs * -(-len(data.train_inputs) // run.task.batch_size)
        trained = trainee(model, run.quantizer, make, steps)
        unknown = run.unknown_ops or "error"
        with emulate(model, run.datapath, trained.optimizer, run.seed, unknown, watch=True) as machine:
            try:
                _loop(run, task, data, model, trained, machine, outcome, epochs)
            except (Diverged, NanError) as error:
                _diverged(outcome, machine, error)
    _score(task, data, epochs, outcome)
    _account(machine, outcome)
    return outcome


def _loop(
    run: TrainingRun,
    task: Task,
    data: Data,
    model: nn.Module,
    trained: Trainee,
    machine: Machine,
    outcome: Outcome,
    epochs: list[Epoch],
) -> None:
    optimizer = trained.optimizer
    for epoch in range(run.task.epochs):
        total = 0.0
        for inputs, targets in batches(data, run.task.batch_size, run.seed, epoch):
            optimizer.zero_grad()
            loss = task.loss(model(inputs), _labels(run, targets, outcome.steps))
            value = loss.item()
            if not math.isfinite(value):
                raise Diverged(f"the loss is {value} in step {outcome.steps}")
            machine.scale(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _check_weights(model, outcome.steps)
            outcome.steps += 1
            total += value * len(inputs)
        with _as_tested(trained):
            outputs = predict(model, data.test_inputs, run.task.batch_size)
        with _disable_current_modes():
            rate = {} if trained.rate is None else {"quantization_rate": trained.rate()}
        epochs.append(Epoch(outcome.steps, total / len(data.train_inputs), outputs, rate))
        if not _is_finite(outputs):
            raise Diverged(f"an output on the test set is not finite after step {outcome.steps - 1}")


def _diverged(outcome: Outcome, machine: Machine, error: Exception) -> None:
    origin, outcome.status = machine.not_finite(), "diverged"
    step = f"in step {outcome.steps}: " if isinstance(error, NanError) else ""
    outcome.reason = f"{step}{error}" + (f"; {origin}" if origin is not None else "")
    outcome.origin = asdict(origin) if origin is not None else None


def _check_weights(model: nn.Module, step: int) -> None:
    wrong = next((name for name, p in model.named_parameters() if not _is_finite(p)), None)
    if wrong is not None:
        raise Diverged(f"the parameter {wrong} is not finite after step {step}")


def _is_finite(x: Tensor) -> bool:
    with _disable_current_modes():
        return bool(torch.isfinite(x).all())


@contextmanager
def _as_tested(trained: Trainee) -> Iterator[None]:
    """The model as it is tested; changing it and back is no work of the machine's."""
    with ExitStack() as stack:
        with _disable_current_modes():
            testing = stack.enter_context(trained.testing())
        yield testing
        with _disable_current_modes():
            stack.close()


def _labels(run: TrainingRun, targets: Tensor, step: int) -> Tensor:
    return targets if run.task.labels is None else apply(run.task.labels, targets, Draw(run.seed, "labels", step))


def _score(task: Task, data: Data, epochs: list[Epoch], outcome: Outcome) -> None:
    for number, epoch in enumerate(epochs):
        scores = score(task, epoch.outputs, data.test_targets)
        test_loss = scores.pop("loss")
        row = {
            "epoch": number,
            "step": epoch.step,
            "train_loss": epoch.train_loss,
            "test_loss": test_loss,
            **scores,
            **epoch.rate,
        }
        outcome.metrics.append(row)
        if not math.isfinite(test_loss) and outcome.status == "done":
            outcome.status, outcome.reason = "diverged", f"the test loss is {test_loss} after step {epoch.step - 1}"


def _account(machine: Machine, outcome: Outcome) -> None:
    outcome.audit = [asdict(row) for row in machine.audit()]
    outcome.native = [asdict(row) for row in machine.unemulated()]
    outcome.coverage = machine.coverage()
