"""A format of levels and a projection as what kernels take: the numbers of a Rule, and the format, whose steps they look up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from math import isnan
from typing import Any, NamedTuple

from .base import Format
from .errors import FormatError
from .levels import Levels
from .lowering import INTEGERS, VARIANTS, Rule, lower
from .lowering import unpack as unpack_rule
from .reference import SMALLEST_NORMAL_FLOAT32, check_projection, infinite, not_a_number
from .rounding import MODES, Projection

SEPARATOR = "@"


class LevelRule(NamedTuple):
    """What a kernel has to know to round to levels: of the numbers those that are not a grid's, and the format.

    Of the numbers `mode`, `random_bits`, `variant`, `refuses_nan`, `rescale`, `infinity`, `minus_infinity`, `nan` and
    `flush_inputs` count.
    """

    numbers: Rule
    format: Format

    def packed(self) -> str:
        """Numbers and format as one word (see Rule.packed); the format by its class and its fields."""
        return f"{self.numbers.packed()}{SEPARATOR}{declared(self.format)}"


AnyRule = Rule | LevelRule


def numbers_of(rule: AnyRule) -> Rule:
    """The numbers of a rule on a grid or of one of levels."""
    return rule.numbers if isinstance(rule, LevelRule) else rule


@lru_cache(maxsize=1024)
def lower_any(fmt: Format, projection: Projection, rescale: bool = True) -> AnyRule:
    """The rule of a format on a grid (see `lowering.lower`) or of one of levels.

    Raises:
        FormatError: the format cannot follow the overflow rule.
    """
    if not isinstance(fmt.lattice, Levels):
        return lower(fmt, projection, rescale)
    check_projection(fmt, projection)

    def becomes(outcome: Callable[..., Fraction | float], *given: object) -> float:
        """What the reference says; NaN where it refuses, which kernels report."""
        try:
            return float(outcome(*given, fmt, projection))
        except FormatError:
            return float("nan")

    rounding = projection.rounding
    special = becomes(infinite, False), becomes(infinite, True), becomes(not_a_number)
    numbers = Rule(*[0] * INTEGERS, *[0.0] * (len(Rule._fields) - INTEGERS))._replace(
        mode=MODES.index(rounding.mode),
        random_bits=rounding.random_bits,
        variant=VARIANTS.index(rounding.variant),
        refuses_nan=int(not fmt.has_nan and any(map(isnan, special))),
        rescale=int(rescale),
        infinity=special[0],
        minus_infinity=special[1],
        nan=special[2],
        flush_inputs=float(SMALLEST_NORMAL_FLOAT32) if projection.flush_inputs else 0.0,
    )
    return LevelRule(numbers, fmt)


@lru_cache(maxsize=1024)
def unpack(packed: str) -> AnyRule:
    """The rule of a packed one."""
    numbers, separator, text = packed.partition(SEPARATOR)
    return LevelRule(unpack_rule(numbers), _format(json.loads(text))) if separator else unpack_rule(packed)


@lru_cache(maxsize=1024)
def declared(fmt: Format) -> str:
    """A format as text that says its class and its fields.

    Raises:
        FormatError: its class cannot be imported, or a field is no plain value.
    """
    return json.dumps(_plain(fmt))


def _plain(value: Any) -> Any:
    if isinstance(value, Format):
        kind = type(value)
        if "<" in kind.__qualname__:
            raise FormatError(f"{kind.__qualname__}: a class within a function; allowed: formats defined in a module")
        own = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "name"}
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": own}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FormatError(f"{type(value).__name__}: got {value!r} in a format; allowed: numbers, texts, tuples and formats")


def _format(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_format(item) for item in data)
    if not isinstance(data, dict):
        return data
    module, _, path = data["class"].partition(":")
    kind: Any = import_module(module)
    for name in path.split("."):
        kind = getattr(kind, name)
    return kind(**{name: _format(value) for name, value in data["fields"].items()})
