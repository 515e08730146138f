"""The records of a study: what its file may say, and the complete runs it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from hwsim.budgets.allocation import CANDIDATES
from hwsim.budgets.limits import Limits
from hwsim.casts import CastField
from hwsim.config import content_hash
from hwsim.config.record import Record
from hwsim.datapaths import Datapath
from hwsim.fields import FormatField

from .weights import QuantizerChoice

MAX_SEED = 2**63
ID_DIGITS = 12
LATER: dict[str, Any] = {"quantizer": None, "processes": 1, "device": "cpu", "unknown_ops": None}
LABELS = ("name", "description", "source")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Device = Literal["cpu", "cuda"]
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
    quantizer: QuantizerChoice | None = None
    threads: Count = 1
    processes: Count = 1
    device: Device = "cpu"


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


class ReportChoice(Record):
    """What to ask of the results.

    Args:
        metric: what the headline and the differences are about; by default the task's first metric, else the test loss.
        published: tables of what others measured, with their sources.
        budget: datapaths whose error is split over operand roles, by further runs.
        budget_epochs: a shorter training for those runs; by default the task's epochs.
        sites: datapaths whose error in one training step is split over sites, roles and causes, as `hwsim budget` does, for the
            first seed; by default those of `budget`, else those that round, four at most.
    """

    metric: str | None = None
    published: tuple[Published, ...] = ()
    budget: tuple[str, ...] = ()
    budget_epochs: Count | None = None
    sites: tuple[str, ...] | None = None


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


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise ValueError(f"got {twice} twice; allowed: each seed once")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=MAX_SEED)]


class StudyBase(Record):
    """What every study says, whatever its runs are.

    Args:
        name: of the study and its results folder.
        threads: of each run.
        grid: dotted paths of the study, each with a list of values; all combinations are run.
        zip: axes of equal length that go in step with one another.
        exclude: points that are not run: mappings from axes to one value or to a list of them.
        seeds: every point is run with each.
        resources: what a run takes.
    """

    whole_axes: ClassVar[tuple[str, ...]]
    """Keys that an axis replaces."""
    parts: ClassVar[tuple[str, ...]]
    """Keys that an axis reaches into."""
    example_axes: ClassVar[str]

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    description: str = ""
    threads: int = 1
    grid: Axes = Field(default_factory=dict)
    zip: Axes = Field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)] = (0, 1, 2)
    resources: Resources = Resources()


class Study(StudyBase):
    """A base training run, the axes that vary, and what is asked of the results.

    Args:
        task, optimizer, quantizer: the base run; checked together with the axes' values.
        datapath: the base run's machine, a name or a mapping, where no axis says otherwise.
        processes: that share each batch of a run, on gloo (nccl on GPUs).
        device: where runs train.
        checkpoint: how often a run says how far it has come.
        baseline: the datapath that differences are taken to.
        seeds: of weights, data order and stochastic rounding.
        report: what to ask of the results.
        budget: what `hwsim budget` asks of one step.
        coverage: how much of every run has to be emulated; without it, all operations have to be known.
    """

    whole_axes = ("datapath", "threads", "processes", "quantizer")
    parts = ("task", "optimizer", "quantizer", "datapath")
    example_axes = "optimizer.lr, task.batch_size, datapath.vector"

    task: dict[str, Any]
    optimizer: dict[str, Any]
    quantizer: dict[str, Any] | None = None
    datapath: str | dict[str, Any] = "fp32"
    processes: int = 1
    device: str = "cpu"
    checkpoint: CheckpointChoice = CheckpointChoice()
    baseline: str | None = None
    report: ReportChoice = ReportChoice()
    budget: BudgetChoice = BudgetChoice()
    coverage: CoverageChoice | None = None


class ExperimentStudy(StudyBase):
    """A base experiment and the axes that vary.

    Args:
        experiment: `name`, one of `hwsim list experiments`, and its parameters.
        seeds: of the experiment's random numbers.
    """

    whole_axes = ("threads",)
    parts = ("experiment",)
    example_axes = "experiment.batch_size"

    experiment: dict[str, Any]


AnyStudy = Study | ExperimentStudy


class TrainingRun(Record):
    """One complete training. Its hash leaves out what is for readers only: names, descriptions and sources."""

    task: TaskChoice
    optimizer: OptimizerChoice
    quantizer: QuantizerChoice | None = None
    datapath: Datapath
    seed: Seed
    threads: Count = 1
    processes: Count = 1
    device: Device = "cpu"
    unknown_ops: Literal["pass"] | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical configuration."""
        # What is as it always was has no part in the hash, so that an option that is added later leaves old runs their ids.
        names = ("task", "optimizer", "quantizer", "seed", "threads", "processes", "device", "unknown_ops")
        own = {key: getattr(self, key) for key in names}
        said = {key: value for key, value in own.items() if value != LATER.get(key)}
        return content_hash({**said, "datapath": machine(self.datapath)})

    @property
    def id(self) -> str:
        """The first digits of the hash: the name of the run's folder."""
        return self.hash[:ID_DIGITS]


class ExperimentRun(Record):
    """One complete experiment: its parameters, which say its name, and a seed."""

    experiment: SerializeAsAny[Record]
    seed: Seed
    threads: Count = 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical configuration."""
        return content_hash({"experiment": self.experiment, "seed": self.seed, "threads": self.threads})

    @property
    def id(self) -> str:
        """The first digits of the hash: the name of the run's folder."""
        return self.hash[:ID_DIGITS]


Run = TrainingRun | ExperimentRun


def machine(datapath: Datapath) -> dict[str, Any]:
    """A datapath as data, without the names, descriptions and sources that are for readers only."""
    data = datapath.model_dump(mode="json")
    for layer in (data, *data["overrides"].values()):
        for gemm in layer["gemm"].values():
            gemm["mac"] = _unlabelled(gemm["mac"])
    return _unlabelled(data)


def _unlabelled(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in LABELS}
