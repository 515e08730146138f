"""The points of a study: every combination of its axes' values, less what is excluded."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwsim.config import Document
from hwsim.config.wording import Path, given
from hwsim.errors import ConfigError, Problem, nearest

from .schema import AnyStudy


@dataclass(frozen=True)
class Axis:
    """A dotted path of the study, with the values it takes and where the file lists them."""

    name: str
    section: str
    values: tuple[Any, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted path, taken apart."""
        return tuple(self.name.split("."))

    def place(self, *index: int) -> Path:
        """Where the file has the axis, or one of its values."""
        return ("study", self.section, self.name, *index)


@dataclass(frozen=True)
class Point:
    """One combination: the index of the value that each axis takes."""

    axes: tuple[Axis, ...]
    indices: tuple[int, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Axis names to values."""
        return {axis.name: axis.values[index] for axis, index in zip(self.axes, self.indices, strict=True)}

    def place(self, path: Path) -> Path:
        """Where the file says what stands at a path of the point: at an axis' value, or in the base run."""
        found = path
        for axis, index in sorted(zip(self.axes, self.indices, strict=True), key=lambda pair: len(pair[0].keys)):
            keys = ("study", *axis.keys)
            if path[: len(keys)] == keys:
                found = (*axis.place(index), *path[len(keys) :])
        return found

    def __str__(self) -> str:
        return ", ".join(f"{name} {label(value)}" for name, value in self.values.items()) or "the base run"


@dataclass(frozen=True, kw_only=True)
class PointDocument(Document):
    """The settings of a point as a document, whose problems are told where the file has what is wrong."""

    point: Point
    source: Document

    def line(self, path: Path) -> int:
        """The line in the study's file."""
        return self.source.line(self.point.place(path))

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a place in the study's file."""
        return self.source.problem(self.point.place(path), message)


def label(value: Any) -> Any:
    """What tables call an axis' value: itself, the `name` of a mapping, or the mapping or list in words."""
    if isinstance(value, Mapping):
        return value.get("name") or ", ".join(f"{key} {label(item)}" for key, item in value.items())
    return ", ".join(str(label(item)) for item in value) if isinstance(value, tuple) else value


def axes(study: AnyStudy, document: Document) -> tuple[Axis, ...]:
    """The axes of `grid`, then those of `zip`.

    Raises:
        ConfigError: an axis that the study does not have, that is given twice, or zipped axes of different lengths.
    """
    found = [Axis(name, section, values) for section in ("grid", "zip") for name, values in getattr(study, section).items()]
    for i, axis in enumerate(found):
        if not (axis.name in study.whole_axes or (axis.keys[0] in study.parts and len(axis.keys) > 1 and all(axis.keys))):
            allowed = f"{', '.join(study.whole_axes)}, and dotted paths such as {study.example_axes}"
            given_parts = [(part, getattr(study, part)) for part in study.parts]
            dotted = [f"{part}.{key}" for part, keys in given_parts if isinstance(keys, dict) for key in keys]
            known = [*study.whole_axes, *dotted]
            message = f"got the axis {axis.name!r}; allowed: {allowed}{nearest(axis.name, known)}"
            raise ConfigError(document.problem(axis.place(), message))
        if any(axis.name == other.name for other in found[:i]):
            raise ConfigError(document.problem(axis.place(), "is an axis of `grid` too; allowed: one of the two"))
    zipped = [axis for axis in found if axis.section == "zip"]
    if len({len(axis.values) for axis in zipped}) > 1:
        lengths = ", ".join(f"{axis.name} {len(axis.values)}" for axis in zipped)
        message = f"got axes of different lengths ({lengths}); allowed: equal lengths"
        raise ConfigError(document.problem(("study", "zip"), message))
    return tuple(found)


def points(study: AnyStudy, document: Document) -> tuple[Point, ...]:
    """The points to run, the last axis of `grid` and then `zip` varying fastest.

    Raises:
        ConfigError: as for `axes`; an exclusion of an axis that is none, or that matches nothing; nothing left to run.
    """
    found = axes(study, document)
    everything = [Point(found, indices) for indices in _indices(found)]
    for i, exclusion in enumerate(study.exclude):
        place = ("study", "exclude", i)
        for name in exclusion:
            if name not in {axis.name for axis in found}:
                allowed = ", ".join(axis.name for axis in found) or "nothing, as there is no axis"
                message = f"got {name!r}; allowed: {allowed}{nearest(name, [axis.name for axis in found])}"
                raise ConfigError(document.problem((*place, name), message))
        if not exclusion or not any(_matches(exclusion, point) for point in everything):
            raise ConfigError(document.problem(place, "matches no point of the grid; allowed: values that the axes have"))
    left = tuple(point for point in everything if not any(_matches(exclusion, point) for exclusion in study.exclude))
    if not left:
        raise ConfigError(document.problem(("study", "exclude"), "leaves no point to run"))
    return left


def applied(base: Mapping[str, Any], point: Point, names: Collection[str], source: Document) -> PointDocument:
    """The base with the point's values of some axes set into it.

    Raises:
        ConfigError: a path leads through something that is no mapping.
    """
    result: dict[str, Any] = copy.deepcopy(dict(base))
    # Short paths first: an axis may replace what another one changes a part of.
    for name in sorted(names, key=lambda name: name.count(".")):
        *parents, last = name.split(".")
        target: Any = result
        for depth, key in enumerate(parents):
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                where: Path = ("study", *parents[: depth + 1])
                message = f"got {given(target)}; allowed: a mapping, as {name!r} is an axis"
                raise ConfigError(source.problem(where, message))
        target[last] = point.values[name]
    return PointDocument({"study": result}, source.name, point=point, source=source)


def _indices(found: Sequence[Axis]) -> Iterator[tuple[int, ...]]:
    grid = [range(len(axis.values)) for axis in found if axis.section == "grid"]
    zipped = [axis for axis in found if axis.section == "zip"]
    steps = range(len(zipped[0].values)) if zipped else range(1)
    for indices in itertools.product(*grid, steps):
        yield (*indices[:-1], *([indices[-1]] * len(zipped)))


def _matches(exclusion: Mapping[str, Any], point: Point) -> bool:
    values = point.values
    for name, excluded in exclusion.items():
        choices = excluded if isinstance(excluded, tuple) else (excluded,)
        if not any(_same(values[name], choice) for choice in choices):
            return False
    return True


def _same(value: Any, choice: Any) -> bool:
    # 0 and false, 1 and true are equal in Python, not in a study.
    return bool(value == choice or label(value) == choice) and isinstance(value, bool) == isinstance(choice, bool)
