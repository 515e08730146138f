"""One run: a task trained on an emulated datapath."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
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
from .checkpoints import Checkpoint, Checkpoints, Position, Training
from .choices import TORCH_OPTIMIZERS
from .generators import seeded
from .ranks import ALONE, Ranks
from .schema import TrainingRun
from .weights import Trainee, trainee

NONE = Checkpoints()


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


Row = dict[str, Any]
Tell = Callable[[Row], object]


def train(run: TrainingRun, checkpoints: Checkpoints = NONE, tell: Tell = lambda row: None, ranks: Ranks = ALONE) -> Outcome:
    """Train a run's task.

    Weights, data order and stochastic rounding are functions of the run's seed alone. Evaluation runs the model on the same
    datapath; the score of its outputs is computed in float64, outside of it.

    Args:
        run: what is trained.
        checkpoints: where the run goes on from, and says how far it has come.
        tell: is shown each row of metrics when its epoch ends.
        ranks: the processes that share each batch.
    """
    task, data = tasks.build(run.task), tasks.data(run.task)
    outcome = Outcome(checksum=data.checksum)
    with seeded(run.seed):
        model = initial_model(task, run.seed).to(run.device)
        make = partial(TORCH_OPTIMIZERS[run.optimizer.name], **run.optimizer.model_dump(exclude={"name"}))
        trained = trainee(model, run.quantizer, make, run.task.epochs * _steps(run, data))
        unknown = run.unknown_ops or "error"
        with emulate(model, run.datapath, trained.optimizer, run.seed, unknown, rank=ranks.rank, watch=True) as machine:
            work = _Work(run, task, data.to(run.device), Training(model, trained, machine), outcome, checkpoints, tell, ranks)
            try:
                work.go()
            except (Diverged, NanError) as error:
                _diverged(outcome, machine, error)
    _account(machine, outcome)
    return outcome


def _steps(run: TrainingRun, data: Data) -> int:
    return -(-len(data.train_inputs) // run.task.batch_size)


@dataclass(frozen=True)
class _Work:
    """A training and all that it needs."""

    run: TrainingRun
    task: Task
    data: Data
    training: Training
    outcome: Outcome
    checkpoints: Checkpoints
    tell: Tell
    ranks: Ranks

    def go(self) -> None:
        """Train from the checkpoint, or from the start, to the end."""
        at = self._resumed()
        with _disable_current_modes():
            forward = self.ranks.model(self.training.model, self.training.machine, self.run.datapath)
        while at.epoch < self.run.task.epochs:
            self._epoch(at, forward)
            self._test(at)
            at.epoch, at.batch, at.total = at.epoch + 1, 0, 0.0

    def _resumed(self) -> Position:
        with _disable_current_modes():
            saved = self.checkpoints.load()
        if saved is None:
            return Position()
        self.training.load(saved.states[self.ranks.rank])
        self.outcome.metrics[:], self.outcome.steps = saved.metrics, saved.position.steps
        self.outcome.status, self.outcome.reason = saved.ending  # type: ignore[assignment]
        return saved.position

    def _epoch(self, at: Position, forward: Callable[[Tensor], Tensor]) -> None:
        run, optimizer, machine = self.run, self.training.trained.optimizer, self.training.machine
        count = _steps(run, self.data)
        for inputs, targets in islice(self._batches(at.epoch), at.batch, None):
            share = self.ranks.share(len(inputs))
            optimizer.zero_grad()
            loss = self.task.loss(forward(inputs[share]), _labels(run, targets, at.steps)[share])
            value = self.ranks.mean(loss.item(), len(inputs))
            if not math.isfinite(value):
                raise Diverged(f"the loss is {value} in step {at.steps}")
            machine.scale(self.ranks.weighted(loss, len(inputs))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _check_weights(self.training.model, at.steps)
            at.batch, at.steps, at.total = at.batch + 1, at.steps + 1, at.total + value * len(inputs)
            self.outcome.steps = at.steps
            ends = at.batch == count
            if self.checkpoints.due(at, ends) and not (ends and at.epoch + 1 == run.task.epochs):
                self._save(at)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches; drawing them is no work of the machine's."""
        with _disable_current_modes():
            drawn = batches(self.data, self.run.task.batch_size, self.run.seed, epoch)
        while True:
            with _disable_current_modes():
                batch = next(drawn, None)
            if batch is None:
                return
            yield batch

    def _save(self, at: Position) -> None:
        outcome, states = self.outcome, self.ranks.gathered(self.training.state())
        with _disable_current_modes():
            if states:
                self.checkpoints.save(Checkpoint(at, outcome.metrics, (outcome.status, outcome.reason), states))

    def _test(self, at: Position) -> None:
        trained, outcome = self.training.trained, self.outcome
        with _as_tested(trained):
            outputs = predict(self.training.model, self.data.test_inputs, self.run.task.batch_size)
        with _disable_current_modes():
            rate = {} if trained.rate is None else {"quantization_rate": trained.rate()}
            scores = score(self.task, outputs, self.data.test_targets)
        test_loss, train_loss = scores.pop("loss"), at.total / len(self.data.train_inputs)
        row = {"epoch": at.epoch, "step": at.steps, "train_loss": train_loss, "test_loss": test_loss, **scores, **rate}
        outcome.metrics.append(row)
        self.tell(row)
        if not _is_finite(outputs):
            raise Diverged(f"an output on the test set is not finite after step {at.steps - 1}")
        if not math.isfinite(test_loss) and outcome.status == "done":
            outcome.status, outcome.reason = "diverged", f"the test loss is {test_loss} after step {at.steps - 1}"


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


def _account(machine: Machine, outcome: Outcome) -> None:
    outcome.audit = [asdict(row) for row in machine.audit()]
    outcome.native = [asdict(row) for row in machine.unemulated()]
    outcome.coverage = machine.coverage()
