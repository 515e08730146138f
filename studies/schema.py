"""The records of a study: what its file may say, and the complete runs it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from hwsim.casts import CastField
from hwsim.config import content_hash
from hwsim.config.record import Record
from hwsim.datapaths import Datapath

MAX_SEED = 2**63
ID_DIGITS = 12
LABELS = ("name", "description", "source")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Axes = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class TaskChoice(Record):
    """What is trained, for how long; every other key is an option of the task.

    Args:
        name: a task of `hwsim list tasks`, or any name for a task of the user's own functions (options `model` and `data`).
        epochs: passes over the training set.
        batch_size: samples a step; the last, short batch of an epoch is kept.
        labels: the cast that each step's real-valued training targets go through; the test set's stay as they are.
        options: the task's own options, complete in a Run.
    """

    name: str = "user"
    epochs: Count
    batch_size: Count
    labels: CastField | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "options" in given:
            return given
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        return {**own, "options": {key: value for key, value in given.items() if key not in own}}


class Sgd(Record):
    """`torch.optim.SGD`."""

    name: Literal["sgd"]
    lr: Positive
    momentum: NonNegative = 0.0
    dampening: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Sgd:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov: got true; allowed only with a momentum above 0 and no dampening")
        return self


class Adam(Record):
    """`torch.optim.Adam`."""

    name: Literal["adam"]
    lr: Positive
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False


class AdamW(Adam):
    """`torch.optim.AdamW`."""

    name: Literal["adamw"]  # type: ignore[assignment]
    weight_decay: NonNegative = 0.01


OptimizerChoice = Annotated[Sgd | Adam | AdamW, Field(discriminator="name")]
TORCH_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Setting(Record):
    """One point of the grid, less its datapath and seed."""

    task: TaskChoice
    optimizer: OptimizerChoice
    threads: Count = 1


class ReportChoice(Record):
    """What to ask of the results.

    Args:
        metric: what the headline and the differences are about; by default the task's first metric, else the test loss.
        budget: datapaths whose error is split over operand roles, by further runs.
        budget_epochs: a shorter training for those runs; by default the task's epochs.
    """

    metric: str | None = None
    budget: tuple[str, ...] = ()
    budget_epochs: Count | None = None


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise ValueError(f"got {twice} twice; allowed: each seed once")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=MAX_SEED)]


class Study(Record):
    """A base run, the axes that vary, and what is asked of the results.

    Args:
        name: of the study and its results folder.
        task, optimizer, threads: the base run; checked together with the axes' values.
        datapath: the base run's machine, a name or a mapping, where no axis says otherwise.
        baseline: the datapath that differences are taken to.
        grid: dotted paths of the study, each with a list of values; all combinations are run.
        zip: axes of equal length that go in step with one another.
        exclude: points that are not run: mappings from axes to one value or to a list of them.
        seeds: of weights, data order and stochastic rounding; every point is run with each.
        report: what to ask of the results.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    description: str = ""
    task: dict[str, Any]
    optimizer: dict[str, Any]
    datapath: str | dict[str, Any] = "fp32"
    threads: int = 1
    baseline: str | None = None
    grid: Axes = Field(default_factory=dict)
    zip: Axes = Field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)] = (0, 1, 2)
    report: ReportChoice = ReportChoice()


class Run(Record):
    """One complete configuration. Its hash leaves out what is for readers only: names, descriptions and sources."""

    task: TaskChoice
    optimizer: OptimizerChoice
    datapath: Datapath
    seed: Seed
    threads: Count = 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical configuration."""
        return content_hash(
            {
                "task": self.task,
                "optimizer": self.optimizer,
                "datapath": machine(self.datapath),
                "seed": self.seed,
                "threads": self.threads,
            }
        )

    @property
    def id(self) -> str:
        """The first digits of the hash: the name of the run's folder."""
        return self.hash[:ID_DIGITS]


def machine(datapath: Datapath) -> dict[str, Any]:
    """A datapath as data, without the names, descriptions and sources that are for readers only."""
    data = datapath.model_dump(mode="json")
    for layer in (data, *data["overrides"].values()):
        for gemm in layer["gemm"].values():
            gemm["mac"] = _unlabelled(gemm["mac"])
    return _unlabelled(data)


def _unlabelled(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in LABELS}
