"""Tasks by name: a builder's keyword parameters are the task's options, and their annotations say what is allowed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .errors import TaskError, not_allowed
from .task import Task

Builder = Callable[..., Task]

_KINDS: dict[type, str] = {int: "an integer", float: "a finite number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class AtLeast:
    """A number of at least `minimum`, as an annotation: `Annotated[int, AtLeast(1)]`."""

    minimum: float


@dataclass(frozen=True)
class OneOf:
    """One of `words`, as an annotation: `Annotated[str, OneOf(("a", "b"))]`."""

    words: tuple[str, ...]


Count = Annotated[int, AtLeast(1)]
Seed = Annotated[int, AtLeast(0)]
NonNegative = Annotated[float, AtLeast(0)]


@dataclass(frozen=True)
class Option:
    """One keyword of a task: its kind (int, float, str or bool), its default, and the rule that narrows it."""

    name: str
    kind: type
    default: object
    rule: AtLeast | OneOf | None = None

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        match self.rule:
            case AtLeast(minimum):
                return f"{_KINDS[self.kind]} of at least {minimum:g}"
            case OneOf(words):
                return ", ".join(sorted(words))
            case _:
                return _KINDS[self.kind]

    def check(self, task: str, value: object) -> object:
        """`value` in the option's kind: an integer passes for a number, a boolean or a text never does.

        Raises:
            TaskError: any other kind, a number that is not finite, or one the rule forbids.
        """
        where = f"task {task!r}: option {self.name!r}"
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind or (isinstance(value, float) and not math.isfinite(value)):
            raise TaskError(f"{where}: got {value!r}; allowed: {self.allowed}", self.name)
        match self.rule:
            case OneOf(words) if value not in words:
                raise TaskError(not_allowed(where, value, words), self.name)
            case AtLeast(minimum) if isinstance(value, int | float) and value < minimum:
                raise TaskError(f"{where}: got {value!r}; allowed: {self.allowed}", self.name)
        return value


class Registry:
    """Builders of tasks by name.

    Args:
        group: the entry-point group whose builders are entered when a name is first looked for; empty for none.
    """

    def __init__(self, group: str = "") -> None:
        self._own: dict[str, Builder] = {}
        self._group = group

    @property
    def _builders(self) -> dict[str, Builder]:
        group, self._group = self._group, ""
        for entry in entry_points(group=group) if group else ():
            self.register(entry.load())
        return self._own

    def register(self, builder: Builder) -> Builder:
        """Enter `builder` under its own name (a decorator).

        Raises:
            TaskError: the name is taken, or a parameter is not keyword-only, has no default, or a type no option can have.
        """
        name = builder.__name__
        if name in self._own:
            taken = self._own[name]
            raise TaskError(f"task {name!r} is already registered, by {taken.__module__}.{taken.__qualname__}")
        for option in _options(builder):
            option.check(name, option.default)
        self._own[name] = builder
        return builder

    def names(self) -> tuple[str, ...]:
        """The names of all tasks, sorted."""
        return tuple(sorted(self._builders))

    def options(self, name: str) -> dict[str, Option]:
        """The options of the task `name`, each with its default.

        Raises:
            TaskError: unknown name.
        """
        return {option.name: option for option in _options(self._builder(name))}

    def build(self, name: str, /, **given: object) -> Task:
        """The task `name` with the options given, the others at their defaults.

        Raises:
            TaskError: unknown name, unknown option, or a value that is not allowed.
        """
        options = self.options(name)
        for word in given:
            if word not in options:
                raise TaskError(not_allowed(f"task {name!r}: unknown option", word, options), word)
        builder = self._builder(name)
        task = builder(**{word: options[word].check(name, value) for word, value in given.items()})
        return replace(task, name=name, description=(inspect.getdoc(builder) or "").partition("\n")[0])

    def _builder(self, name: str) -> Builder:
        if name not in self._builders:
            raise TaskError(not_allowed("unknown task", name, self._builders), "name")
        return self._builders[name]


def _options(builder: Builder) -> list[Option]:
    hints = get_type_hints(builder, include_extras=True)
    return [
        _option(builder, parameter, hints.get(parameter.name)) for parameter in inspect.signature(builder).parameters.values()
    ]


def _option(builder: Builder, parameter: inspect.Parameter, hint: Any) -> Option:
    kind, rule = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty or kind not in _KINDS:
        allowed = "keyword-only, with a default, of type int, float, str or bool"
        raise TaskError(f"task {builder.__name__!r}: parameter '{parameter}'; allowed: {allowed}")
    return Option(parameter.name, kind, parameter.default, rule)


CATALOGUE = Registry("hwsim.tasks")
"""The tasks that ship with the package, and those of installed packages."""
