"""What a study asks of its grid, checked before anything runs: a baseline, budgets, a metric, points in ascending order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hwsim.budgets.machines import roles
from hwsim.config.document import Document
from hwsim.datapaths import Datapath
from hwsim.errors import ConfigError, not_allowed

from . import tasks
from .grid import Point, label
from .schema import Setting, Study

LOSSES = ("test_loss", "train_loss")


class Asked(Protocol):
    """A point of the grid with its machine."""

    @property
    def point(self) -> Point:
        """Where it lies on the axes."""
        ...

    @property
    def setting(self) -> Setting:
        """Everything but the machine."""
        ...

    @property
    def machine(self) -> Datapath:
        """What it runs on."""
        ...

    @property
    def name(self) -> str:
        """The machine's name."""
        ...


def check_questions(study: Study, document: Document, grid: Sequence[Asked]) -> None:
    """Refuse names that stand for two machines, and questions about what the study does not have.

    Raises:
        ConfigError: the line is that of the name.
    """
    _check_datapaths(study, document, grid)
    _check_metric(study, document, grid)
    _check_enough(study, document, grid)
    bases: dict[str, Any] = {}
    for resolved in grid:
        given = resolved.point.values.get("datapath", study.datapath)
        if bases.setdefault(resolved.name, given) != given:
            message = f"got the name {resolved.name!r} for two machines; allowed: a name for each"
            raise ConfigError(document.problem(resolved.point.place(("study", "datapath", "name")), message))


def _check_datapaths(study: Study, document: Document, grid: Sequence[Asked]) -> None:
    """The baseline is one of the grid's datapaths; those whose error is split round somewhere, too."""
    names = {resolved.name for resolved in grid}
    asked = [(("study", "baseline"), study.baseline)] if study.baseline else []
    for key in ("budget", "sites"):
        given = getattr(study.report, key) or ()
        asked += [(("study", "report", key, i), name) for i, name in enumerate(given)]  # type: ignore[misc]
    for place, name in asked:
        if name not in names:
            message = not_allowed("", name, names).removeprefix(": ")
            raise ConfigError(document.problem(place, f"{message} (the datapaths of this study)"))
    for place, name in asked[bool(study.baseline) :]:
        if not any(roles(resolved.machine) for resolved in grid if resolved.name == name):
            message = f"got {name!r}, which rounds nowhere; allowed: a datapath with casts or an accumulator"
            raise ConfigError(document.problem(place, message))


def _check_metric(study: Study, document: Document, grid: Sequence[Asked]) -> None:
    metric = study.report.metric
    if metric is None:
        return
    known = {*LOSSES, *(name for resolved in grid for name in tasks.build(resolved.setting.task).metrics)}
    if metric not in known:
        message = not_allowed("", metric, known).removeprefix(": ")
        raise ConfigError(document.problem(("study", "report", "metric"), message))


def _check_enough(study: Study, document: Document, grid: Sequence[Asked]) -> None:
    """Points in ascending order are two or more, each one of the grid by that name."""
    given, place = study.report.enough, ("study", "report", "enough")
    if len(given) == 1 or len(set(given)) < len(given):
        raise ConfigError(document.problem(place, f"got {', '.join(given)}; allowed: two names or more, each once"))
    known = [{resolved.name, *(str(label(value)) for value in resolved.point.values.values())} for resolved in grid]
    for i, name in enumerate(given):
        count = sum(name in names for names in known)
        if not count:
            message = not_allowed("", name, set().union(*known)).removeprefix(": ")
            raise ConfigError(document.problem((*place, i), message))
        if count > 1:
            message = f"got {name!r}, which {count} points of the grid go by; allowed: a name of one of them"
            raise ConfigError(document.problem((*place, i), message))
