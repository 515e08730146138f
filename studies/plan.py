"""From a study to the complete runs that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch

from hwsim.budgets.machines import alone, roles, twin, without
from hwsim.config import content_hash, validate
from hwsim.config.record import Record
from hwsim.config.wording import Path
from hwsim.config.wording import given as words
from hwsim.datapaths import Datapath, datapath
from hwsim.errors import ConfigError
from hwsim.layering import GEMMS
from hwsim.models import TaskError, initial_model

from . import tasks
from .choices import CheckpointChoice, ReportChoice, TaskChoice
from .experiments import experiment_setting, experiments
from .files import StudyFile, with_place
from .grid import Point, applied, label, points
from .needs import Needs
from .questions import check_questions
from .schema import AnyStudy, ExperimentRun, ExperimentStudy, Run, Setting, Study, TrainingRun
from .trust import check_trust


@dataclass(frozen=True)
class Place:
    """Where a run stands in its study.

    Args:
        id: of the run.
        datapath: what the study calls the machine; empty for an experiment.
        seed: of the run.
        settings: the other axes' values.
        part: empty for a point of the grid; in a budget `none`, `all`, `only ROLE` or `all but ROLE` of that datapath.
    """

    id: str
    datapath: str
    seed: int
    settings: Mapping[str, Any]
    part: str = ""


@dataclass(frozen=True)
class Plan:
    """Every run of a study once, by id, the places that they take, and the machines of its grid."""

    study: AnyStudy
    runs: Mapping[str, Run]
    places: tuple[Place, ...]
    machines: Mapping[str, Datapath] = field(default_factory=dict)

    @property
    def checkpoint(self) -> CheckpointChoice:
        """How often its trainings say how far they have come."""
        return self.study.checkpoint if isinstance(self.study, Study) else CheckpointChoice()

    @property
    def needs(self) -> Needs:
        """What the largest of its runs takes."""
        asked = self.study.resources
        processes = [run.processes if isinstance(run, TrainingRun) else 1 for run in self.runs.values()]
        threads = [run.threads * of for run, of in zip(self.runs.values(), processes, strict=True)]
        gpus = [run.processes for run in self.runs.values() if isinstance(run, TrainingRun) and run.device == "cuda"]
        most = max(gpus, default=0) if asked.gpus is None else asked.gpus
        return Needs(asked.cpus or max(threads), most, asked.seconds, asked.memory_gib)

    @property
    def hash(self) -> str:
        """Of the runs and their places: two plans of one hash have the same results."""
        return content_hash({"runs": sorted(run.hash for run in self.runs.values()), "places": list(self.places)})


def expand(file: StudyFile) -> Plan:
    """The runs of a study: its points with each seed, then those of its budgets.

    Raises:
        ConfigError: a point that cannot run, two points that are the same run, or a baseline, metric or budget that is none
            of the study's.
    """
    study, document = file.study, file.document
    grid = _experiments(file, study) if isinstance(study, ExperimentStudy) else _trainings(file, study)
    runs: dict[str, Run] = {}
    places: list[Place] = []
    first: dict[str, str] = {}
    for resolved in grid:
        for place, run in resolved.runs(study.seeds):
            if run.id in runs:
                message = f"{first[run.id]} and {resolved.point} are the same run; allowed: points that differ"
                where = resolved.point.place(("study", study.whole_axes[0]))
                raise ConfigError(document.problem(where, message))
            runs[run.id], first[run.id] = run, str(resolved.point)
            places.append(place)
    for part in (part for resolved in grid for part in resolved.budget()):
        for place, run in part.runs(study.seeds):
            runs.setdefault(run.id, run)
            places.append(place)
    return Plan(study, runs, tuple(places), {one.label: one.machine for one in grid if isinstance(one, _Training)})


class _Resolved(Protocol):
    """A point with its records."""

    @property
    def point(self) -> Point: ...

    def runs(self, seeds: tuple[int, ...]) -> Iterator[tuple[Place, Run]]:
        """One run for each seed."""
        ...

    def budget(self) -> Iterator[_Resolved]:
        """What the study asks for beside the point itself."""
        ...


@dataclass(frozen=True)
class _Experiment:
    """A point of an experiment."""

    point: Point
    parameters: Record
    threads: int

    def runs(self, seeds: tuple[int, ...]) -> Iterator[tuple[Place, Run]]:
        """One run for each seed."""
        for seed in seeds:
            run = ExperimentRun(experiment=self.parameters, seed=seed, threads=self.threads)
            yield Place(run.id, "", seed, {axis: label(value) for axis, value in self.point.values.items()}), run

    def budget(self) -> Iterator[_Resolved]:
        """Nothing: an experiment splits its errors itself."""
        yield from ()


def _experiments(file: StudyFile, study: ExperimentStudy) -> list[_Resolved]:
    document = file.document
    base = {key: document.data["study"][key] for key in ("experiment", "threads") if key in document.data["study"]}
    found: list[_Resolved] = []
    for point in points(study, document):
        given = applied(base, point, list(point.values), document)
        setting = validate(given, experiment_setting(), ("study",), file.catalogue)
        check = experiments()[setting.experiment.name].check
        if check is not None:
            with_place(document, ("study", "experiment"), partial(check, setting.experiment))
        found.append(_Experiment(point, setting.experiment, setting.threads))
    return found


def _trainings(file: StudyFile, study: Study) -> list[_Resolved]:
    builder = _Builder(file, study)
    grid = [builder.resolved(point) for point in points(study, file.document)]
    check_questions(study, file.document, grid)
    return [*grid]


@dataclass(frozen=True)
class _Training:
    """A point of a training study."""

    point: Point
    setting: Setting
    machine: Datapath
    name: str
    report: ReportChoice
    passing: bool = False
    part: str = ""

    @property
    def label(self) -> str:
        """The machine's name, with the axes that change a part of it."""
        parts = [f"{axis.name} {label(self.point.values[axis.name])}" for axis in self.point.axes if axis.keys[0] == "datapath"]
        return ", ".join([self.name, *(part for part in parts if not part.startswith("datapath "))])

    def runs(self, seeds: tuple[int, ...]) -> Iterator[tuple[Place, Run]]:
        """One run for each seed."""
        others = {axis: label(value) for axis, value in self.point.values.items() if axis != "datapath"}
        common = {key: getattr(self.setting, key) for key in Setting.model_fields}
        common["unknown_ops"] = "pass" if self.passing else None
        for seed in seeds:
            run = TrainingRun(**common, datapath=self.machine, seed=seed)
            yield Place(run.id, self.name, seed, others, self.part), run

    def budget(self) -> Iterator[_Resolved]:
        """The machines that round in some of the roles, where the study asks for a budget of this one."""
        if self.name not in self.report.budget:
            return
        task = self.setting.task.model_copy(update={"epochs": self.report.budget_epochs or self.setting.task.epochs})
        base = replace(self, setting=self.setting.model_copy(update={"task": task}))
        yield replace(base, machine=twin(self.machine), part="none")
        yield replace(base, part="all")
        for role in roles(self.machine):
            yield replace(base, machine=alone(self.machine, role), part=f"only {role}")
            yield replace(base, machine=without(self.machine, role), part=f"all but {role}")


class _Builder:
    """Turns points into records, each distinct datapath and task once."""

    def __init__(self, file: StudyFile, study: Study) -> None:
        self.study, self.document, self.catalogue, self.trust = study, file.document, file.catalogue, file.trust
        self.base = {key: file.document.data["study"][key] for key in Setting.model_fields if key in file.document.data["study"]}
        self.machines: dict[str, Datapath] = {}
        self.tasks: dict[str, TaskChoice] = {}

    def resolved(self, point: Point) -> _Training:
        """The records of a point.

        Raises:
            ConfigError: one of them cannot be; the line is that of the axis' value, or of the base run.
        """
        names = [axis.name for axis in point.axes if axis.keys[0] != "datapath"]
        given = applied(self.base, point, names, self.document)
        setting = validate(given, Setting, ("study",), self.catalogue)
        machine = self._machine(point)
        complete = setting.model_copy(update={"task": self._task(setting.task, point)})
        self._check_fit(complete, machine, point)
        passing = self.study.coverage is not None and self.study.coverage.unknown_ops == "pass"
        return _Training(point, complete, machine, machine.name, self.study.report, passing)

    def _check_fit(self, setting: Setting, machine: Datapath, point: Point) -> None:
        """Refuse overrides that match no layer, more processes than samples, and a device that is not there."""
        if setting.device == "cuda" and not torch.cuda.is_available():
            message = "got 'cuda', which torch does not find here; allowed: cpu"
            raise ConfigError(self.document.problem(point.place(("study", "device")), message))
        if setting.processes > 1:
            last = len(tasks.data(setting.task).train_inputs) % setting.task.batch_size or setting.task.batch_size
            if last < setting.processes:
                message = f"got {setting.processes}; allowed: at most the {last} samples of the smallest batch of an epoch"
                raise ConfigError(self.document.problem(point.place(("study", "processes")), message))
        if machine.overrides:
            layers = [path for path, _ in initial_model(tasks.build(setting.task), 0).named_modules() if path]
            name = self._declared_at(point)
            with_place(self.document, name, lambda: machine.check_layers(layers))

    def _declared_at(self, point: Point) -> Path:
        """Where the file has a point's machine: its declaration, or what the study says."""
        given = point.values.get("datapath", self.study.datapath)
        own = isinstance(given, str) and given in self.catalogue.own("datapaths")
        return ("datapaths", given) if own else point.place(("study", "datapath"))

    def _task(self, choice: TaskChoice, point: Point) -> TaskChoice:
        key = content_hash(choice)
        if key not in self.tasks:
            try:
                check_trust(choice.options, self.trust)
                self.tasks[key] = tasks.completed(choice)
            except TaskError as error:
                field = tuple(error.field.split(".")) if error.field else ()
                message = str(error).removeprefix(f"{error.field}: ")
                raise ConfigError(self.document.problem(point.place(("study", "task", *field)), message)) from error
        return self.tasks[key]

    def _machine(self, point: Point) -> Datapath:
        axes = {axis.name: point.values[axis.name] for axis in point.axes if axis.keys[0] == "datapath"}
        key = content_hash(axes)
        if key not in self.machines:
            self.machines[key] = self._new_machine(point, [name for name in axes if name != "datapath"])
        return self.machines[key]

    def _new_machine(self, point: Point, parts: list[str]) -> Datapath:
        place, given = point.place(("study", "datapath")), point.values.get("datapath", self.study.datapath)
        name = given.get("name", "") if isinstance(given, Mapping) else given
        if not name:
            raise ConfigError(self.document.problem(place, "name: missing; allowed: a name for the tables"))
        if isinstance(given, str) and not parts:
            return with_place(self.document, place, lambda: datapath(given, self.catalogue))
        if isinstance(given, str):
            given = with_place(self.document, place, lambda: self.catalogue.find("datapaths", given)).data
        if not isinstance(given, Mapping):
            message = f"got {words(given)}; allowed: a datapath's name, or a mapping with a name"
            raise ConfigError(self.document.problem(place, message))
        document = applied({"datapath": {**given, "name": name}}, point, parts, self.document)
        return validate(document, Datapath, ("study", "datapath"), self.catalogue, synonyms=dict.fromkeys(GEMMS, "all"))
