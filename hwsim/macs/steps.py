"""The steps of one dot product: what was added, what was cut, what was rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from .record import Rounded

Real = Fraction | float
"""An exact real; a float only for NaN, the infinities and -0."""


@dataclass(frozen=True)
class Part:
    """One addend of a step: its name, its exact value, and what is kept of it where terms are aligned."""

    name: str
    value: Real
    kept: Real


@dataclass(frozen=True)
class Step:
    """One rounding.

    Attributes:
        level: 0 the accumulator, 1 a product, from 2 on the outer sums from the inside, then C.
        k: the first product that the step takes in.
        parts: the addends.
        unit: parts were cut at 2^unit, or None.
        exact: the sum before it is rounded.
        place: what it is rounded to.
        word: the 32-bit random word of a stochastic rounding, or None.
        result: the sum after it.
    """

    level: int
    k: int
    parts: tuple[Part, ...]
    unit: int | None
    exact: Real
    place: Rounded
    word: int | None
    result: Real


Watch = Callable[[Step], None]
