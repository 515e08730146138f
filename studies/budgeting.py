"""`hwsim budget`: of a training step in a model that was trained in full precision as a study says, or of an experiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from hwsim.budgets import Budget, budget
from hwsim.budgets.allocation import Allocation, allocate
from hwsim.budgets.limits import Verdict, verdicts
from hwsim.budgets.machines import roles
from hwsim.budgets.table import finite, merged
from hwsim.budgets.twins import Twin
from hwsim.config import content_hash
from hwsim.errors import ConfigError, HwsimError, not_allowed
from hwsim.models import Task, batches, initial_model

from . import tasks
from .choices import TORCH_OPTIMIZERS
from .disk import write_file
from .experiments import experiments
from .files import StudyFile
from .plan import expand
from .report.sites import FILE, budgets_hash
from .schema import ExperimentRun, ExperimentStudy, Study, TrainingRun

DEFAULT_SITES = 4
"""Of how many datapaths at most a report has a step budget unless the study says of which."""


@dataclass(frozen=True)
class Trained:
    """A model at the end of a run's training without any rounding, its optimizer, and the next batch."""

    task: Task
    model: nn.Module
    optimizer: Optimizer
    batch: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StudyBudget:
    """The budget of one datapath of a study over its seeds, and how it stands to the study's limits."""

    budget: Budget
    verdicts: tuple[Verdict, ...]


def study_budgets(
    file: StudyFile, names: Sequence[str] = (), *, causes: bool = True, seeds: int | None = None, groups: bool = True
) -> list[StudyBudget]:
    """The budgets of a study's datapaths, each at the first point of the grid that has it, over the study's seeds.

    Of an experiment that splits its errors itself, those of all points of the grid.

    Args:
        file: a study of trainings, or of an experiment with a budget.
        names: of datapaths; by default those of `report.budget`, else all that round. Of an experiment's points.
        causes: whether each cast is split by cause.
        seeds: how many of the study's seeds; by default all.
        groups: whether roles, GEMMs and layers are measured together too.

    Raises:
        ConfigError: an experiment without a budget, or a datapath that the study does not have or that rounds nowhere.
    """
    if isinstance(file.study, ExperimentStudy):
        return _experiment_budgets(file, names, seeds)
    study = _training_study(file)
    found = []
    known: dict[str, Trained] = {}
    for runs in _runs(file, names):
        budgets = []
        for run in runs[:seeds]:
            # What is trained without rounding is the same for every datapath.
            key = content_hash({"task": run.task, "optimizer": run.optimizer, "seed": run.seed})
            trained = known[key] = known.get(key) or trained_in_full(run, study.budget.batch_size)
            budgets.append(
                budget(
                    trained.model,
                    trained.task.loss,
                    trained.batch,
                    run.datapath,
                    optimizer=trained.optimizer,
                    seeds=[run.seed],
                    draws=study.budget.draws,
                    samples=study.budget.samples,
                    causes=causes,
                    steps=study.budget.steps,
                    groups=groups,
                )
            )
        together = merged(budgets)
        found.append(StudyBudget(together, verdicts(together, study.budget.limit)))
    return found


def _experiment_budgets(file: StudyFile, names: Sequence[str], seeds: int | None) -> list[StudyBudget]:
    """One budget for each point of an experiment's grid, called after its values."""
    plan = expand(file)
    points: dict[str, list[ExperimentRun]] = {}
    for place in plan.places:
        run = plan.runs[place.id]
        if isinstance(run, ExperimentRun):
            points.setdefault(", ".join(map(str, place.settings.values())) or plan.study.name, []).append(run)
    for name in names:
        if name not in points:
            raise ConfigError(f"budget: {not_allowed('datapath', name, points)} (the points of this study)")
    chosen = {name: points[name][:seeds] for name in names or points}
    budgets = {name: [_split(file, name, run) for run in runs] for name, runs in chosen.items()}
    return [StudyBudget(merged(found), ()) for found in budgets.values()]


def _split(file: StudyFile, name: str, run: ExperimentRun) -> Budget:
    """The budget that an experiment makes of its own errors."""
    given: str = run.experiment.name  # type: ignore[attr-defined]
    split = experiments()[given].budget
    if split is None:
        having = ", ".join(name for name, one in experiments().items() if one.budget is not None)
        raise ConfigError(
            f"{file.document.name}: got the experiment {given!r}; allowed: a study of trainings, or of the experiments {having}"
        )
    return split(name, run.experiment, run.seed)


def keep_step_budgets(file: StudyFile, folder: Path, plan: str) -> None:
    """Write the budgets that a study's report shows into its folder, unless those of the same study are there.

    Args:
        file: any study; of experiments, and where nothing rounds, nothing is written.
        folder: of its results.
        plan: the hash of its plan.

    Raises:
        ConfigError: the step cannot be taken apart.
    """
    if not isinstance(file.study, Study):
        return
    path, hash = folder / FILE, budgets_hash(plan, file.study.model_dump(mode="json"))
    asked, rounding = file.study.report, _rounding(file)
    names = [*(asked.budget or rounding)][:DEFAULT_SITES] if asked.sites is None else asked.sites
    if not names or (path.is_file() and json.loads(path.read_text())["hash"] == hash):
        return
    try:
        budgets = study_budgets(file, names, seeds=1, groups=False)
    except HwsimError as error:
        raise ConfigError(f"the budget of a training step: {error} (`report: {{sites: []}}` leaves it out)") from error
    found = {"hash": hash, "budgets": [one.budget.as_dict() for one in budgets]}
    write_file(path, json.dumps(finite(found), allow_nan=False))


def allocation(file: StudyFile, name: str) -> Allocation:
    """The cheapest formats for a study's task that keep its limit on the loss.

    Raises:
        ConfigError: the study names no such limit.
    """
    study = _training_study(file)
    limit = study.budget.limit.loss
    if limit is None:
        raise ConfigError(
            f"{file.document.name}: study.budget.limit.loss: missing; allowed with --allocate: a number, or `0.5 %`"
        )
    plan = expand(file)
    run = next(run for run in plan.runs.values() if isinstance(run, TrainingRun))
    trained = trained_in_full(run, study.budget.batch_size)
    twin = Twin(trained.model, trained.task.loss, trained.batch, trained.optimizer, torch.float64)
    base = twin.step(run.datapath, {}, run.seed, stepping=False)[0].loss
    allowed = limit.value * (abs(base) if limit.relative else 1.0)
    return allocate(twin, name, allowed, study.budget.candidates, run.seed, study.budget.samples)


def write_datapath(found: Allocation, path: Path) -> None:
    """Write an allocation as a datapath file that studies can use."""
    text = f"{found.bits:.2f} bits an operand; changes the loss of the batch by {found.measured:+.3g} (limit {found.limit:.3g})."
    declared = {"datapath": {"description": text, **{key: value for key, value in found.datapath.items() if key != "name"}}}
    write_file(path, yaml.safe_dump(declared, sort_keys=False, allow_unicode=True))


def allocation_text(found: Allocation, path: Path, as_object: bool) -> str:
    """What was proposed, in a sentence or as JSON."""
    if as_object:
        return json.dumps(finite({**found.model_dump(), "within": found.within, "path": str(path)}), indent=1, allow_nan=False)
    kept = "within" if found.within else "BEYOND"
    return (
        f"{path}: {found.bits:.2f} bits an operand; changes the loss by {found.measured:+.3g} (predicted at most "
        f"{found.predicted:.3g}), {kept} the limit {found.limit:.3g}"
    )


def as_json(budgets: Sequence[StudyBudget]) -> str:
    """`{"rows": [...], "totals": [...], "budgets": [...]}`: all datapaths' rows in one list; what is no number is null."""
    whole = {
        "rows": [asdict(row) for one in budgets for row in one.budget.rows],
        "totals": [asdict(row) for one in budgets for row in one.budget.totals],
        "budgets": [
            {
                "datapath": one.budget.datapath,
                "headline": one.budget.headline,
                "loss": one.budget.loss,
                "loss_after_step": one.budget.after,
                "accuracy": one.budget.accuracy,
                "rank_correlation": one.budget.rank_correlation,
                "rank_correlation_after_step": one.budget.rank_correlation_after_step,
                "limits": [verdict.model_dump() for verdict in one.verdicts],
                "facts": {port: asdict(found) for port, found in one.budget.facts.items()},
            }
            for one in budgets
        ],
    }
    return json.dumps(finite(whole), indent=1, allow_nan=False)


def trained_in_full(run: TrainingRun, batch_size: int | None = None) -> Trained:
    """Train a run's task with its own weights, order of data and optimizer, and no rounding."""
    task, data = tasks.build(run.task), tasks.data(run.task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = initial_model(task, run.seed)
        optimizer = TORCH_OPTIMIZERS[run.optimizer.name](model.parameters(), **run.optimizer.model_dump(exclude={"name"}))
        for epoch in range(run.task.epochs):
            for inputs, targets in batches(data, run.task.batch_size, run.seed, epoch):
                optimizer.zero_grad()
                task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    optimizer.zero_grad()
    return Trained(task, model, optimizer, next(batches(data, batch_size or run.task.batch_size, run.seed, run.task.epochs)))


def _training_study(file: StudyFile) -> Study:
    if not isinstance(file.study, Study):
        raise ConfigError(f"{file.document.name}: got a study of an experiment; allowed: a study of trainings")
    return file.study


def _runs(file: StudyFile, names: Sequence[str]) -> list[list[TrainingRun]]:
    """For each datapath that is asked for, the runs of its first point, by seed."""
    study, rounding = _training_study(file), _rounding(file)
    if not rounding:
        raise ConfigError(f"{file.document.name}: no datapath of this study rounds; allowed: one with casts or an accumulator")
    for name in names:
        if name not in rounding:
            raise ConfigError(f"budget: {not_allowed('datapath', name, rounding)} (the datapaths of this study that round)")
    return [rounding[name] for name in names or study.report.budget or rounding]


def _rounding(file: StudyFile) -> dict[str, list[TrainingRun]]:
    """For each datapath that rounds, the runs of its first point, by seed."""
    plan = expand(file)
    first: dict[str, list[TrainingRun]] = {}
    settings: dict[str, object] = {}
    for place in plan.places:
        run = plan.runs[place.id]
        if (
            not place.part
            and isinstance(run, TrainingRun)
            and settings.setdefault(place.datapath, place.settings) == place.settings
        ):
            first.setdefault(place.datapath, []).append(run)
    return {name: runs for name, runs in first.items() if roles(runs[0].datapath)}
