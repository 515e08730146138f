"""What there is by name, and the facts of one thing: the data behind `hwsim list` and `hwsim show`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import hwsim
from hwsim.catalogue import Catalogue, matching, shipped_studies
from hwsim.datapaths import datapath
from hwsim.errors import ConfigError, not_allowed
from hwsim.fields import format_mapping, format_record
from hwsim.formats import Block, Format, named_format
from hwsim.macs import mac
from hwsim.models import task, task_options, tasks

from .executors import executors
from .experiments import experiments
from .files import load_study
from .plan import expand
from .results import run_rows
from .schema import ExperimentRun

Listed = Literal["formats", "datapaths", "studies", "macs", "tasks", "experiments", "backends", "executors"]
LISTED: tuple[str, ...] = get_args(Listed)
TABLE_BITS = 8


def rows(kind: Listed, pattern: str = "*") -> list[dict[str, Any]]:
    """One row for each thing of a kind whose name the shell-like pattern matches."""
    names, describe = _KINDS[kind]
    return [{"name": name, **describe(name)} for name in matching(list(names()), pattern)]


def stored_runs(folder: str | None, where: str) -> list[dict[str, Any]]:
    """The runs of the study in a folder, or of every study in `results`, that a condition holds for; see `run_rows`.

    Raises:
        StudyError: as for `run_rows`.
    """
    if folder is not None:
        return run_rows(Path(folder), where)
    return [row for index in sorted(Path("results").glob("*/study.json")) for row in run_rows(index.parent, where)]


def facts(name: str, kind: str | None = None) -> tuple[str, dict[str, Any]]:
    """What a name stands for, and its facts.

    Args:
        name: of a format, datapath, unit, study, task or experiment; the first of these that has it is meant,
        kind: unless this says which.

    Raises:
        ConfigError: nothing has the name, the nearest of all names is given; or there is no such kind.
    """
    if kind is not None and kind not in _FACTS:
        raise ConfigError(not_allowed("--kind", kind, _FACTS))
    kinds = [kind] if kind else list(_FACTS)
    for one in kinds:
        names, describe = _FACTS[one]
        if name in names() or (one == "format" and named_format(name)):
            return one, describe(name)
    raise ConfigError(not_allowed("name", name, {known for one in kinds for known in _FACTS[one][0]()}))


def format_facts(fmt: Format) -> dict[str, Any]:
    """The parameters of a format, its range, and for formats of few bits every code and its value."""
    special = {"nan": fmt.has_nan, "infinity": fmt.has_infinity, "negative_zero": fmt.has_negative_zero}
    limits = {name: getattr(fmt, name) for name in ("bits", "max", "min", "smallest_normal", "smallest_subnormal")}
    found = {**format_mapping(fmt), **limits, "special_values": [name for name, has in special.items() if has]}
    if isinstance(fmt, Block):
        found["bits_per_element"] = fmt.bits_per_element
    elif fmt.bits <= TABLE_BITS:
        found["values"] = {f"{code:0{fmt.bits}b}": _number(fmt.decode_code(code)) for code in range(1 << fmt.bits)}
    return found


def study_facts(name: str) -> dict[str, Any]:
    """A shipped study, an experiment's with every parameter, and how many runs it has."""
    plan = expand(load_study(name))
    found = {**plan.study.model_dump(mode="json", exclude_defaults=True), "runs": len(plan.runs)}
    first = next(iter(plan.runs.values()))
    if isinstance(first, ExperimentRun):
        found["experiment"] = first.experiment.model_dump(mode="json")
    return found


def experiment_facts(name: str) -> dict[str, Any]:
    """The question of an experiment, and its parameters with their defaults."""
    fields = experiments()[name].parameters.model_fields
    defaults = {key: field.default for key, field in fields.items() if key != "name"}
    documented = (experiments()[name].parameters.__doc__ or "").strip()
    return {"description": documented, "parameters": json.loads(json.dumps(defaults, default=str))}


def _number(value: Any) -> float | str:
    number = float(value)
    return number if number - number == 0 else str(number)


def _format_row(name: str) -> dict[str, Any]:
    fmt = format_record(name)
    columns = ("kind", "bits", "max", "smallest_normal", "smallest_subnormal")
    return {column: getattr(fmt, column) for column in columns}


def _task_row(name: str) -> dict[str, Any]:
    return {"description": task(name).description, "options": ", ".join(task_options(name))}


def _declared(name: str, kind: Literal["datapaths", "macs"]) -> dict[str, Any]:
    data = Catalogue().find(kind, name).data
    return {"description": data.get("description", ""), "source": data.get("source", "")}


_KINDS: Mapping[str, tuple[Callable[[], Any], Callable[[str], dict[str, Any]]]] = {
    "formats": (lambda: Catalogue().names("formats"), _format_row),
    "datapaths": (lambda: Catalogue().names("datapaths"), lambda name: _declared(name, "datapaths")),
    "macs": (lambda: Catalogue().names("macs"), lambda name: _declared(name, "macs")),
    "studies": (shipped_studies, lambda name: {"description": load_study(name).study.description}),
    "tasks": (tasks, _task_row),
    "experiments": (experiments, lambda name: {"description": experiments()[name].description}),
    "backends": (lambda: hwsim.backends(), lambda name: {"status": hwsim.backends()[name]}),
    "executors": (executors, lambda name: {"description": (executors()[name].__doc__ or "").partition("\n")[0]}),
}


def _declaration(record: Any) -> dict[str, Any]:
    declared: dict[str, Any] = record.model_dump(mode="json", exclude_defaults=True)
    return declared


def _task_facts(name: str) -> dict[str, Any]:
    options = {option.name: {"default": option.default, "allowed": option.allowed} for option in task_options(name).values()}
    return {"description": task(name).description, "data": task(name).source, "options": options}


_FACTS: Mapping[str, tuple[Callable[[], Any], Callable[[str], dict[str, Any]]]] = {
    "format": (lambda: Catalogue().names("formats"), lambda name: format_facts(format_record(name))),
    "datapath": (lambda: Catalogue().names("datapaths"), lambda name: _declaration(datapath(name))),
    "mac": (lambda: Catalogue().names("macs"), lambda name: _declaration(mac(name))),
    "study": (shipped_studies, study_facts),
    "task": (tasks, _task_facts),
    "experiment": (experiments, experiment_facts),
}
