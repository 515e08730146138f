"""Rounding to levels as what it is: a step function of one real number."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .base import Format
from .errors import FormatError
from .levels import Levels
from .rounding import MODES

BASE = (1023 - 200) << 52
"""The bits of 2^-200: below all levels and boundaries of float32 numbers but zero."""

Array = npt.NDArray[Any]


class Steps(NamedTuple):
    """The outcomes, ascending, and for each but the first the number from which on it is taken.

    `values`: float64. `edges`: float64, one fewer. `open`: whether the edge itself belongs to the outcome below it.
    Stochastic rounding is given its lower neighbours so; the draw is made between these and the next values.
    """

    values: Array
    edges: Array
    open: Array

    @property
    def keys(self) -> Array:
        """The edges as integers in the order of the reals: a real number q + d, where q is the float64 nearest to it and d
        tells on which side of q it lies (-1, 0, 1), has the key 2 (bits of |q| - BASE) + d, with q's sign."""
        magnitude = np.abs(self.edges).view(np.int64)
        keys = np.where(self.edges == 0, 0, 2 * (magnitude - BASE))
        return np.where(self.edges < 0, -keys, keys) + self.open

    @property
    def closed(self) -> Array:
        """The edges as the smallest float64 numbers that belong to the outcome above."""
        return np.where(self.open, np.nextafter(self.edges, np.inf), self.edges)


def levels_of(fmt: Format) -> Levels:
    """The levels of a format that has them.

    Raises:
        FormatError: its values lie on a grid.
    """
    lattice = fmt.lattice
    if not isinstance(lattice, Levels):
        raise FormatError(f"{fmt}: its values lie on a grid; allowed: codebooks, posits, logarithmic numbers")
    return lattice


@lru_cache(maxsize=128)
def steps(fmt: Format, mode: int) -> Steps:
    """The step function of a format of levels in a rounding mode (its place in MODES)."""
    levels, rule = levels_of(fmt), MODES[mode]
    values = np.array(levels.values)
    low, high = values[:-1], values[1:]
    lower_is_inner = np.where(low + high == 0, False, low + high > 0)
    match rule:
        case "toward_negative" | "stochastic":
            return Steps(values, high, np.zeros(high.shape, bool))
        case "toward_positive":
            return Steps(values, low, np.ones(low.shape, bool))
        case "toward_zero":
            return _mirrored(values, lower_is_inner, np.where(lower_is_inner, high, low))
        case "to_odd":
            upper = ~_upper_is_even(levels, lower_is_inner)
            return Steps(values, np.where(upper, low, high), upper)
    upper = {
        "nearest_even": _upper_is_even(levels, lower_is_inner),
        "nearest_away": lower_is_inner,
        "nearest_zero": ~lower_is_inner,
    }[rule if levels.ties else "nearest_zero"]
    edges = np.array(levels.boundaries)
    outside = (edges <= low) | (edges >= high)
    return Steps(values, edges, np.where(outside, edges <= low, ~upper))


def padded(fmt: Format, mode: int) -> tuple[Array, Array]:
    """Outcomes and keys for a search by halves: 2^n - 1 keys, the last ones above all numbers, and 2^n + 1 outcomes."""
    found = steps(fmt, mode)
    size = 1 << len(found.edges).bit_length()
    keys = np.full(size - 1, np.iinfo(np.int64).max)
    keys[: len(found.edges)] = found.keys
    return np.append(found.values, np.full(size + 1 - len(found.values), found.values[-1])), keys


def _mirrored(values: Array, lower_is_inner: Array, edges: Array) -> Steps:
    """Toward zero: between -c and c the sign decides."""
    between = values[:-1] == -values[1:]
    return Steps(values, np.where(between, 0.0, edges), ~(lower_is_inner | between))


def _upper_is_even(levels: Levels, lower_is_inner: Array) -> Array:
    """Whether of two neighbours the upper one has the even code; where the codes do not tell, the inner one counts as even."""
    even = np.array(levels.codes) % 2 == 0
    return np.where(even[1:] == even[:-1], ~lower_is_inner, even[1:])
