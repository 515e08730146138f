"""A training that goes on from a checkpoint is the uninterrupted one, bit for bit, whatever state it has."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_cases import Edit, plan_of
from torch import Tensor, nn

from hwsim.studies.checkpoints import Checkpoint, Checkpoints, Position
from hwsim.studies.choices import CheckpointChoice
from hwsim.studies.schema import TrainingRun
from hwsim.studies.train import Outcome, train

EVERY_STEP = CheckpointChoice(steps=1)
TASK, SGD = "name: digits_mlp, epochs: 1, batch_size: 256, width: 4", "name: sgd, lr: 0.1"
NOISY: Edit = (TASK, "model: test_checkpoints:noisy_model, data: test_checkpoints:few_images, epochs: 2, batch_size: 16")
MOMENTUM, ADAM = (SGD, "name: sgd, lr: 0.1, momentum: 0.9"), (SGD, "name: adam, lr: 0.01")


class Noisy(nn.Module):
    """Draws from each generator that there is, keeps running statistics, and one of them where no state_dict sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
        self.head = nn.Linear(4 * 36, 10)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """A few logits, noisy in training."""
        if self.training:
            self.seen += 1
            x = x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))  # noqa: NPY002
        return self.head(self.layers(x)) * (1 + self.seen / 1000)


def noisy_model() -> nn.Module:
    """A user's model."""
    return Noisy()


def few_images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A user's data: 64 noisy images of 8 x 8."""
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    y = torch.arange(64) % 10
    return x, y, x[:16], y[:16]


def quantizer(text: str) -> Edit:
    return ("  baseline: fp32\n", f"  quantizer: {text}\n  baseline: fp32\n")


def machine(text: str) -> Edit:
    return ("grid: {datapath: [fp32, mine]}", f"grid: {{datapath: [fp32, {text}]}}")


PARQ = "{method: parq, levels: {rule: lsbq, bits: 2}, period: 2}"
CASES: Mapping[str, tuple[Edit, ...]] = {
    "all generators, statistics and a stochastic vector unit": (
        NOISY,
        MOMENTUM,
        machine("{name: x, vector: {format: bf16, rounding: stochastic}}"),
    ),
    "delayed scales, Adam": (NOISY, ADAM, machine("fp8_delayed")),
    "scales that train": (NOISY, MOMENTUM, machine("w4a4_lsq")),
    "states in 8 bits": (NOISY, ADAM, machine("adam8bit")),
    "loss scaling": (NOISY, MOMENTUM, machine("fp16")),
    "stochastic weights": (
        NOISY,
        MOMENTUM,
        machine("{name: x, vector: bf16, optimizer: {weight: {format: bf16, rounding: stochastic}}}"),
    ),
    "latent weights of PARQ on stochastic sums": (
        NOISY,
        MOMENTUM,
        quantizer(PARQ),
        machine("{name: x, gemm: {all: {result: {format: fp8_e5m2, rounding: stochastic}}}}"),
    ),
    "latent weights of PARQ on a stochastic vector unit, Adam": (
        NOISY,
        ADAM,
        quantizer(PARQ),
        machine("{name: x, vector: {format: bf16, rounding: stochastic}}"),
    ),
    "learned step sizes": (NOISY, MOMENTUM, quantizer("{method: lsq, levels: int4}"), machine("bf16")),
    "rounded for tests only": (NOISY, MOMENTUM, quantizer("{method: post_training, levels: int4}"), machine("bf16")),
    "blocks with a rotation": (NOISY, MOMENTUM, machine("nvfp4")),
}


class Stopped(Exception):
    """The process is gone."""


@dataclass(frozen=True)
class Recording(Checkpoints):
    """Keeps every state, and stops the run after one of them."""

    seen: dict[int, Checkpoint] = field(default_factory=dict)
    stop: int = -1

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        # Within `train` the emulator's mode is off here, so that reading the file is no work of the machine's.
        self.seen[checkpoint.position.steps] = torch.load(self.path, weights_only=True)  # type: ignore[arg-type]
        if checkpoint.position.steps == self.stop:
            raise Stopped


def run_of(edits: tuple[Edit, ...]) -> TrainingRun:
    plan = plan_of(*edits)
    place = next(place for place in plan.places if place.seed == 1 and place.datapath not in ("fp32", "mine"))
    return plan.runs[place.id]


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def interrupted(run: TrainingRun, path: Path, stop: int, after: Callable[[], object] = lambda: None) -> tuple[Outcome, Recording]:
    with pytest.raises(Stopped):
        train(run, Recording(path, run.hash, EVERY_STEP, stop=stop))
    after()
    again = Recording(path, run.hash, EVERY_STEP)
    return train(run, again), again


QUICK = ("all generators, statistics and a stochastic vector unit", "latent weights of PARQ on a stochastic vector unit, Adam")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.large], id=name) for name in CASES]
)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    run = run_of(CASES[name])
    whole = Recording(tmp_path / "whole.pt", run.hash, EVERY_STEP)
    expected = train(run, whole)
    assert sorted(whole.seen) == list(range(1, 8))
    for stop in (2, 4):
        outcome, rest = interrupted(run, tmp_path / f"{stop}.pt", stop)
        assert sorted(rest.seen) == list(range(stop + 1, 8))
        for step, state in rest.seen.items():
            assert same(state, whole.seen[step]), step
        assert outcome == expected


@pytest.mark.parametrize(
    ("choice", "steps"),
    [({}, [2, 4]), ({"epochs": 2}, [4]), ({"steps": 3}, [3]), ({"steps": 2}, [2, 4])],
)
def test_checkpoints_are_taken_as_often_as_declared_and_none_at_the_end(
    choice: dict[str, int], steps: list[int], tmp_path: Path
) -> None:
    run = run_of((("epochs: 1, batch_size: 256", "epochs: 3, batch_size: 1000"), ("fp32, mine", "fp32, bf16")))
    seen = Recording(tmp_path / "run.pt", run.hash, CheckpointChoice(**choice))
    train(run, seen)
    assert sorted(seen.seen) == steps


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "no checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "no checkpoint"),
        (lambda path: torch.save({"position": Position()}, path), "no checkpoint"),
        (lambda path: torch.save({"for": {"run": "another"}}, path), "of another run or other versions"),
    ],
    ids=["empty", "cut", "an object", "of another run"],
)
def test_a_file_that_is_no_checkpoint_of_this_run_is_told_of_and_starts_it_anew(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    run, path = run_of((("[fp32, mine]", "[fp32, bf16]"),)), tmp_path / "run.pt"
    kept = Checkpoints(path, run.hash)
    kept.save(Checkpoint(Position(0, 1, 1, 2.0), [], ("done", ""), [{"model": torch.ones(1000)}]))
    assert kept.load() is not None
    spoil(path)
    with pytest.warns(UserWarning, match=message):
        assert kept.load() is None


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path / "run.pt", "a")
    kept.save(Checkpoint(Position(steps=1), [], ("done", ""), []))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        kept.save(Checkpoint(Position(steps=2), [], ("done", ""), []))
    found = kept.load()
    assert found is not None
    assert found.position.steps == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
