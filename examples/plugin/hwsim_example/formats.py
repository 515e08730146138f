"""A format: its values one by one, and the code of each. hwsim puts it through its property suite before it registers it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal

from hwsim.formats import Format, FormatError, Levels
from hwsim.formats.levels import by_rank


@dataclass(frozen=True)
class SqrtLevels(Format):
    """The signed square roots of equal steps: +-sqrt(i / n), i = 0 .. n, n = 2^(bits - 1) - 1, as float32.

    Codes number the values from the lowest; the last code is none, and NaN to `decode`. Nearest changes at the midpoint.
    There is no NaN, no infinity and no -0.

    Args:
        bits: 2..12.

    Raises:
        FormatError: another width.
    """

    bits: int = 5
    kind: Literal["sqrt_levels"] = field(default="sqrt_levels", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)
    signed = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 12:
            raise FormatError(f"bits: got {self.bits}; allowed: a whole number from 2 to 12", "bits")

    @cached_property
    def levels(self) -> list[float]:
        """The values, ascending."""
        n = 2 ** (self.bits - 1) - 1
        positive = [struct.unpack("f", struct.pack("f", (i / n) ** 0.5))[0] for i in range(1, n + 1)]
        return [*(-v for v in reversed(positive)), 0.0, *positive]

    @cached_property
    def lattice(self) -> Levels:
        """The values with their codes."""
        return by_rank(self.levels, self.bits)

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code."""
        return Fraction(self.levels[code]) if code < len(self.levels) else float("nan")

    def __str__(self) -> str:
        return self.name or f"sqrt_levels{self.bits}"
