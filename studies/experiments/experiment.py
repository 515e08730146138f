"""What an experiment is, and what it hands to the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hwsim.budgets import Budget
from hwsim.config.record import Record

Row = dict[str, Any]
"""One line of a result: texts, numbers, truth values or None, by column."""

Style = Literal["line", "dashes", "dots", "points"]


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Line:
    """One curve: `line` with a marker a point, `dashes` and `dots` without, `points` alone.

    Args:
        errors: half the height of each point's whisker.
        colour: the number of the colour; by default the next. Curves of one thing share one.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style = "line"
    errors: Sequence[float] = ()
    colour: int | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes.

    Args:
        places: what stands at x = 0, 1, 2 ... where x counts things instead of measuring one.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_log: bool = False
    y_log: bool = False
    places: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """Panels side by side, with what they show in a sentence."""

    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Section:
    """The report of an experiment: the answer with its numbers, then tables and plots."""

    headline: str
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = field(default=())


@dataclass(frozen=True)
class Experiment:
    """A question with parameters, and how it is answered.

    Args:
        parameters: a Record whose `name` is a Literal, the experiment's name, and whose docstring begins with the question.
        rows: (parameters, seed) -> rows: a pure function of the two.
        section: all rows of a study, each with the parameters and the seed it belongs to beside its own columns -> the report.
        check: (parameters) -> nothing, or a TaskError for what the rows need and is not there: a package, a file.
        budget: (name, parameters, seed) -> the error budget that `hwsim budget` shows, of experiments that have one.
    """

    parameters: type[Record]
    rows: Callable[[Any, int], list[Row]]
    section: Callable[[Sequence[Mapping[str, Any]]], Section]
    check: Callable[[Any], None] | None = None
    budget: Callable[[str, Any, int], Budget] | None = None

    @property
    def name(self) -> str:
        """What a study calls it."""
        (name,) = get_args(self.parameters.model_fields["name"].annotation)
        return str(name)

    @property
    def description(self) -> str:
        """The question."""
        return (self.parameters.__doc__ or "").strip().partition("\n")[0]
