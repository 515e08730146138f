"""Codebooks: any list of levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import isfinite
from typing import Literal

from .base import Format
from .errors import FormatError
from .levels import Levels, midpoints

MAX_LEVELS = 1 << 16


@dataclass(frozen=True)
class Codebook(Format):
    """The listed levels; the code of a level is its place in the list.

    Nearest changes at the midpoint of two neighbours. There is no NaN, no infinity and no -0.

    Args:
        levels: 2..65536 distinct finite numbers, in the order of their codes.

    Raises:
        FormatError: too few or too many levels, a level twice, NaN or infinity.
    """

    levels: tuple[float, ...]
    kind: Literal["codebook"] = field(default="codebook", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 2 <= len(self.levels) <= MAX_LEVELS:
            raise FormatError(f"levels: got {len(self.levels)} levels; allowed: 2 to {MAX_LEVELS}", "levels")
        bad = next((v for v in self.levels if not isfinite(v)), None)
        if bad is not None:
            raise FormatError(f"levels: got {bad!r}; allowed: finite numbers", "levels")
        twice = (
            next((v for v in self.levels if self.levels.count(v) > 1), None) if len(set(self.levels)) < len(self.levels) else None
        )
        if twice is not None:
            raise FormatError(f"levels: got {twice!r} twice; allowed: distinct numbers", "levels")

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The fewest bits that number the levels."""
        return (len(self.levels) - 1).bit_length()

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether a level is negative."""
        return min(self.levels) < 0

    @cached_property
    def lattice(self) -> Levels:
        """The levels in ascending order."""
        order = sorted(range(len(self.levels)), key=self.levels.__getitem__)
        values = tuple(float(self.levels[code]) + 0.0 for code in order)
        return Levels(values=values, codes=tuple(order), boundaries=midpoints(values), bits=self.bits)

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; codes past the last level are NaN."""
        return Fraction(self.levels[code]) if code < len(self.levels) else float("nan")

    def __str__(self) -> str:
        return self.name or f"codebook({len(self.levels)} levels)"
