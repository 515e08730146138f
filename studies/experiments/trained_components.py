"""What quantizing data, labels, parameters, activations and output gradients costs in a training run of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import sqrt
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from torch import nn

from hwsim.casts import Cast, CastField
from hwsim.config.record import Record
from hwsim.datapaths import Datapath, datapath
from hwsim.models import TaskError
from hwsim.training import COMPONENTS

from .. import tasks
from ..choices import Adam, AdamW, Sgd, TaskChoice
from ..schema import TrainingRun
from ..train import train
from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .words import number, percent

PLACES: Mapping[str, Sequence[tuple[str, str]]] = {
    "data": (("output", "input"), ("grad_weight", "input")),
    "parameters": (("output", "weight"), ("grad_input", "weight")),
    "activations": (("output", "result"),),
    "output_gradients": (("grad_input", "grad_output"), ("grad_weight", "grad_output")),
}
"""GEMM and role of each component but the labels, which are the task's."""


def completed_task(choice: TaskChoice) -> TaskChoice:
    """The choice with every option written out.

    Raises:
        ValueError: no such task or option.
    """
    try:
        return tasks.completed(choice)
    except TaskError as error:
        raise ValueError(str(error)) from error


class Parameters(Record):
    """What does each of the five quantized components cost in the training of a real task?

    Args:
        task, optimizer: the run, as in a study of trainings; the task has no cast of labels of its own.
        cast: stands in each of the places.
    """

    name: Literal["trained_components"]
    task: Annotated[TaskChoice, AfterValidator(completed_task)]
    optimizer: Annotated[Sgd | Adam | AdamW, Field(discriminator="name")]
    cast: CastField


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """The test loss and metrics after the last epoch, with nothing quantized, each component alone, and all."""
    real = tasks.data(parameters.task).train_targets.is_floating_point()
    present = [name for name in COMPONENTS if name != "labels" or real]
    found: list[Row] = []
    targets: dict[str, list[str]] = {"none": [], **{name: [name] for name in present}, "all": [*present]}
    for target, members in targets.items():
        labels = parameters.cast if "labels" in members else None
        run = TrainingRun(
            task=parameters.task.model_copy(update={"labels": labels}),
            optimizer=parameters.optimizer,
            datapath=quantized(members, parameters.cast, first_layer(parameters.task)),
            seed=seed,
        )
        outcome = train(run)
        last = outcome.metrics[-1] if outcome.status == "done" else {}
        numbers = {key: value for key, value in last.items() if key not in ("epoch", "step")}
        found.append({"target": target, "status": outcome.status, "test_loss": None, **numbers})
    return found


def quantized(members: Sequence[str], cast: Cast, first: str) -> Datapath:
    """The machine that casts the components; the data are the operand `input` of the first layer, or of the only one."""
    given = cast.model_dump(mode="json")
    everywhere = _gemms([name for name in members if name != "data"], given)
    if "data" not in members:
        return datapath({"name": ", ".join(members) or "none", "gemm": everywhere})
    with_data = _gemms(members, given)
    if not first:
        return datapath({"name": ", ".join(members), "gemm": with_data})
    return datapath({"name": ", ".join(members), "gemm": everywhere, "overrides": {first: {"gemm": with_data}}})


def _gemms(members: Sequence[str], cast: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in members:
        for gemm, role in PLACES.get(name, ()):
            found.setdefault(gemm, {})[role] = cast
    return found


def first_layer(choice: TaskChoice) -> str:
    """The path of the first layer with a matrix; empty where it is the model itself."""
    return _first_layer(choice.model_copy(update={"labels": None}).model_dump_json())


@cache
def _first_layer(choice: str) -> str:
    model = tasks.build(TaskChoice.model_validate_json(choice)).make_model()
    layers = [
        path
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim > 1
    ]
    return str(layers[0])


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """The components side by side, for each task and cast."""
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in found:
        if row["test_loss"] is not None:
            key = (row["task"].name, str(row["cast"]))
            groups.setdefault(key, {}).setdefault(row["target"], {})[row["seed"]] = row["test_loss"]
    lines = []
    for (task, cast), members in groups.items():
        for target, losses in members.items():
            change, error = _change(losses, members["none"])
            exact = fmean(members["none"].values())
            lines.append([cast, task, target, _spread(losses), f"{number(change)} ± {number(error)}", percent(change / exact)])
    header = ["quantizer", "task", "quantized", "test loss", "paired change", "more than exact"]
    table = Table("Test loss after the last epoch, mean and standard error over the seeds", header, lines)
    panels = [_panel(f"{task}, {cast}", members) for (task, cast), members in groups.items()]
    return Section(
        _headline(groups), [table], [Plot("Change of the test loss with each place quantized alone, and all.", panels)]
    )


def _change(losses: Mapping[int, float], exact: Mapping[int, float]) -> tuple[float, float]:
    """Mean and standard error of the differences seed by seed."""
    changes = [loss - exact[seed] for seed, loss in losses.items() if seed in exact]
    return fmean(changes), stdev(changes) / sqrt(len(changes)) if len(changes) > 1 else 0.0


def _spread(losses: Mapping[int, float]) -> str:
    error = stdev(losses.values()) / sqrt(len(losses)) if len(losses) > 1 else 0.0
    return f"{number(fmean(losses.values()))} ± {number(error)}"


def _headline(groups: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]]) -> str:
    texts = []
    for (task, cast), members in groups.items():
        exact = members["none"]
        changes = {target: _change(losses, exact) for target, losses in members.items() if target not in ("none", "all")}
        base, total = fmean(exact.values()), sum(change for change, _ in changes.values())
        most = max(changes, key=lambda target: changes[target][0])
        whole = f"by {_relative(_change(members['all'], exact), base)} in all places, " if "all" in members else ""
        texts.append(
            f"On {task}, {cast} changes the test loss {whole}by {100 * total / base:+.1f} % in sum over each place alone, "
            f"most by {most} ({_relative(changes[most], base)})"
        )
    return "; ".join(texts) + "."


def _relative(change: tuple[float, float], base: float) -> str:
    """A change and its standard error, of a base."""
    return f"{100 * change[0] / base:+.1f} ± {100 * change[1] / base:.1f} %"


def _panel(title: str, members: Mapping[str, Mapping[int, float]]) -> Panel:
    changes = [_change(losses, members["none"]) for losses in members.values()]
    line = Line(
        "mean, standard error",
        list(range(len(members))),
        [mean for mean, _ in changes],
        "points",
        [error for _, error in changes],
    )
    return Panel(title, "quantized", "change of the test loss", [line], places=tuple(members))


EXPERIMENT = Experiment(Parameters, rows, section)
