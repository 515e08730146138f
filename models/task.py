"""A task: a model, its data, its loss and its metrics, and how they are drawn, ordered and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor, nn

from .errors import TaskError
from .samples import Samples

Measure = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> a scalar tensor: a loss or a metric."""


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a test set; the first dimension of each tensor counts the samples. Inputs may be `Samples` in files.

    Raises:
        TaskError: a field is no tensor, a set is empty, or inputs and targets differ in number.
    """

    train_inputs: Tensor | Samples
    train_targets: Tensor
    test_inputs: Tensor | Samples
    test_targets: Tensor

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Samples) and field.name.endswith("inputs") and len(value):
                continue
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 0:
                given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise TaskError(f"data: {field.name}: got {given}; allowed: a tensor of at least one sample", field.name)
        for part in ("train", "test"):
            inputs, targets = len(getattr(self, f"{part}_inputs")), len(getattr(self, f"{part}_targets"))
            if inputs != targets:
                raise TaskError(f"data: {part}: got {inputs} inputs and {targets} targets; allowed: as many of each", part)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hexadecimal) over name, type, shape and bytes of the four tensors in order: the provenance of the data.

        For `Samples` it is over their name and fingerprint.
        """
        digest = hashlib.sha256()
        for field in fields(self):
            tensor: Tensor | Samples = getattr(self, field.name)
            if isinstance(tensor, Samples):
                digest.update(f"{field.name} {len(tensor)}\n".encode() + tensor.fingerprint)
                continue
            digest.update(f"{field.name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            for chunk in torch.split(tensor, 4096):
                digest.update(chunk.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Data:
        """The same data on `device`."""
        return Data(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Task:
    """What is trained, and how the result is judged.

    Args:
        make_model: a new model; its weights come from torch's global generator (see `initial_model`).
        load_data: the data; a pure function of the task's options.
        loss: what training minimises, the mean over the samples of the batch.
        metrics: further measures of the outputs; none is called `loss`.
        source: where the data come from, and their licence.
        name: how a study calls it; the registry fills it in, and
        description: one sentence, from the builder's docstring.
    """

    make_model: Callable[[], nn.Module]
    load_data: Callable[[], Data]
    loss: Measure
    metrics: Mapping[str, Measure]
    source: str
    name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise TaskError("metrics: got the name 'loss'; allowed: any other name", "metrics")


def initial_model(task: Task, seed: int) -> nn.Module:
    """`torch.manual_seed(seed); task.make_model()`, with torch's global generators as they were before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return task.make_model()


def batches(data: Data, batch_size: int, seed: int, epoch: int, *, drop_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of the training set in an order that depends on (seed, epoch) and on nothing else.

    Args:
        data: the samples.
        batch_size: samples a batch, at least 1.
        seed: of the run.
        epoch: counted from 0.
        drop_last: leave out a last batch that is short; it is kept by default.

    Raises:
        TaskError: `batch_size` below 1, or above the number of samples where short batches are dropped.
    """
    count = len(data.train_inputs)
    most = count if drop_last else None
    if batch_size < 1 or (most is not None and batch_size > most):
        allowed = "at least 1" if most is None else f"1 to {most}, the number of training samples"
        raise TaskError(f"batch_size: got {batch_size}; allowed: {allowed}", "batch_size")
    return _batches(data, batch_size, _order(count, seed, epoch), drop_last)


def _batches(data: Data, batch_size: int, order: Tensor, drop_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in torch.split(order.to(data.train_targets.device), batch_size):
        if len(chosen) == batch_size or not drop_last:
            yield data.train_inputs[chosen], data.train_targets[chosen]


def _order(count: int, seed: int, epoch: int) -> Tensor:
    # torch's CPU generator keeps only 32 bits of its seed: hashing keeps (0, 1), (1, 0) and (2^32, 1) apart.
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.randperm(count, generator=generator)


def predict(model: nn.Module, inputs: Tensor | Samples, batch_size: int) -> Tensor:
    """The model's outputs for all inputs, in their order, in evaluation mode and without gradients."""
    with _evaluating(model), torch.no_grad():
        return torch.cat([model(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)])


def score(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """`loss` and every metric over all outputs at once.

    Outputs and floating-point targets are widened to float64 first: the yardstick is exact where the model is not.
    NaN and infinity in the outputs reach the loss as they are.
    """
    outputs = outputs.detach().double()
    targets = targets.double() if targets.is_floating_point() else targets
    measures = {"loss": task.loss, **task.metrics}
    return {name: float(measure(outputs, targets)) for name, measure in measures.items()}


def evaluate(model: nn.Module, task: Task, data: Data, batch_size: int) -> dict[str, float]:
    """`score` of what the model predicts on the test set, `batch_size` samples at a time."""
    return score(task, predict(model, data.test_inputs, batch_size), data.test_targets)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Mode by mode: `model.train()` afterwards would wake a submodule that its owner had put into evaluation mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
