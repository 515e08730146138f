"""The records of a study: what its file may say, and the complete runs it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SerializeAsAny

from hwsim.config import content_hash
from hwsim.config.canonical import Plain
from hwsim.config.record import Record
from hwsim.datapaths import Datapath

from .choices import (
    BudgetChoice,
    CheckpointChoice,
    Count,
    CoverageChoice,
    Device,
    OptimizerChoice,
    ReportChoice,
    Resources,
    TaskChoice,
)
from .weights import QuantizerChoice

MAX_SEED = 2**63
ID_DIGITS = 12
LATER: dict[str, Any] = {"quantizer": None, "processes": 1, "device": "cpu", "unknown_ops": None, "foreach": None}
LABELS = ("name", "description", "source")

Axes = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class Setting(Record):
    """One point of the grid, less its datapath and seed."""

    task: TaskChoice
    optimizer: OptimizerChoice
    quantizer: QuantizerChoice | None = None
    threads: Count = 1
    processes: Count = 1
    device: Device = "cpu"


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
        said = _said({key: getattr(self, key) for key in names})
        optimizer = _said({key: getattr(self.optimizer, key) for key in type(self.optimizer).model_fields})
        return content_hash({**said, "optimizer": optimizer, "datapath": machine(self.datapath)})

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


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in LATER or value != LATER[key]}


def machine(datapath: Datapath) -> dict[str, Any]:
    """A datapath as data, without the names, descriptions and sources that are for readers only."""
    data = datapath.model_dump(mode="json")
    layers = (data, *data["overrides"].values())
    for layer in (*layers, *(layer["products"] for layer in layers if layer["products"])):
        for gemm in layer["gemm"].values():
            gemm["mac"] = _unlabelled(gemm["mac"])
    for layer in (*layers, data["first"], data["last"]):
        if layer and layer["products"] is None:
            del layer["products"]
    for name, default in (("accumulate", None), ("round_states", "each_write")):
        if data["optimizer"][name] == default:
            del data["optimizer"][name]
    return Plain(_unlabelled(data))


def _unlabelled(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in LABELS}
