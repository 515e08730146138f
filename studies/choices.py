"""What a study file may choose: the task, the optimizer, checkpoints, resources, the report, the budget, the coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator

from hwsim.budgets.allocation import CANDIDATES
from hwsim.budgets.limits import Limits
from hwsim.casts import CastField
from hwsim.config.record import Record
from hwsim.costs import Cost, cost
from hwsim.fields import FormatField

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Device = Literal["cpu", "cuda"]


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
    """`torch.optim.SGD`.

    Args:
        foreach: torch's form over all tensors at once: far fewer operations to emulate, and the same numbers unless updates are
            rounded stochastically; without one torch chooses.
    """

    name: Literal["sgd"]
    lr: Positive
    momentum: NonNegative = 0.0
    dampening: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    foreach: bool | None = None

    @model_validator(mode="after")
    def _possible(self) -> Sgd:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov: got true; allowed only with a momentum above 0 and no dampening")
        return self


class Adam(Record):
    """`torch.optim.Adam`; arguments as `Sgd`."""

    name: Literal["adam"]
    lr: Positive
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False
    foreach: bool | None = None


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


class CheckpointChoice(Record):
    """How often a training says how far it has come; at the end of each epoch unless said.

    Args:
        epochs: at the end of every so many of them.
        steps: after every so many of them.
    """

    epochs: Count | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _one(self) -> CheckpointChoice:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("got epochs and steps; allowed: one of them")
        return self


class Resources(Record):
    """What a run takes; none of it changes a result.

    Args:
        cpus: cores; by default the run's threads, for each of its processes.
        gpus: by default one for each process of a run on `cuda`.
        seconds: after which a try of a run has failed.
        memory_gib: of the process that performs it, above which it has failed.
    """

    cpus: Count | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    seconds: Positive | None = None
    memory_gib: Positive | None = None


class Published(Record):
    """What others measured, to be shown beside the study's own numbers.

    Args:
        title: what the numbers are. source: where they are from, and what was trained how.
        header: of the columns. rows: as many texts a row.
    """

    title: str
    source: str
    header: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rectangular(self) -> Published:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"rows[{number}]: got {len(row)} texts; allowed: {len(self.header)}, one a column")
        return self


class CostChoice(Record):
    """A cost table, kept with the study, so that its report needs no other file.

    Args:
        name: of the table in the report. table: the figures.
    """

    name: str
    table: Annotated[Cost, Field(discriminator="kind")]


def _cost(given: Any) -> Any:
    return {"name": Path(given).stem, "table": cost(given)} if isinstance(given, str) else given


CostField = Annotated[CostChoice, BeforeValidator(_cost, json_schema_input_type=str | CostChoice)]


class ReportChoice(Record):
    """What to ask of the results.

    Args:
        metric: what the headline and the differences are about; by default the task's first metric, else the test loss.
        published: tables of what others measured, with their sources.
        budget: datapaths whose error is split over operand roles, by further runs.
        budget_epochs: a shorter training for those runs; by default the task's epochs.
        sites: datapaths whose error in one training step is split over sites, roles and causes, as `hwsim budget` does, for the
            first seed; by default those of `budget`, else those that round, four at most.
        costs: the cost tables that the error is set against, each a shipped name or a YAML file; by default all shipped ones.
        enough: points in ascending order, each by its datapath or by the value of another axis; the headline names the first from
            which on none is told apart from the last.
    """

    metric: str | None = None
    published: tuple[Published, ...] = ()
    budget: tuple[str, ...] = ()
    budget_epochs: Count | None = None
    sites: tuple[str, ...] | None = None
    costs: tuple[CostField, ...] | None = None
    enough: tuple[str, ...] = ()


class BudgetChoice(Record):
    """What `hwsim budget` asks of one step.

    Args:
        limit: what all casts of a datapath together may change at most.
        batch_size: samples; by default the task's.
        draws: how often each seed's stochastic roundings are drawn.
        samples: label draws behind the curvature of the prediction.
        steps: optimizer steps on the batch, after which its loss and the weights are compared.
        candidates: formats that `--allocate` chooses from, cheapest first.
    """

    limit: Limits = Limits()
    batch_size: Count | None = None
    draws: Count = 4
    samples: Count = 8
    steps: Count = 1
    candidates: Annotated[tuple[FormatField, ...], Field(min_length=2)] = CANDIDATES


class CoverageChoice(Record):
    """How much of every run has to be emulated.

    Args:
        fail_under: the least share of operations, and of FLOPs, that runs as the datapath declares; a study with a run below has
            failed.
        unknown_ops: what an operation that the emulator does not know becomes: an `error` that ends the run, or it may `pass`
            in native precision, which counts against the share.
    """

    fail_under: Annotated[float, Field(ge=0, le=1)] = 1.0
    unknown_ops: Literal["error", "pass"] = "error"
