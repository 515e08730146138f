"""An explicit list of levels: the shape of codebooks, posits and logarithmic numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Levels:
    """The finite values of a format, one by one, and where rounding to nearest changes from one to the next.

    There are no infinities and no -0. Between two neighbours the inner one is the nearer to zero (of two as near, the one of the
    number's sign, zero being positive), the outer one is the other.

    Attributes:
        values: ascending, float32 numbers.
        codes: the code of each value.
        boundaries: for each pair of neighbours the float64 number up to which nearest takes the lower one.
        bits: width of a code.
        nan_code: the code of NaN, or None.
        ties: whether a number on a boundary is a tie; else the boundary is a real number cut to float64 towards zero, and what
            lies on it belongs to the inner neighbour.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]
    boundaries: tuple[float, ...]
    bits: int
    nan_code: int | None = None
    ties: bool = True
    infinity_code: None = field(default=None, init=False)
    negative_zero: bool = field(default=False, init=False)

    @property
    def max_value(self) -> float:
        """The largest value."""
        return self.values[-1]

    @property
    def min_value(self) -> float:
        """The smallest value."""
        return self.values[0]

    @cached_property
    def smallest_positive(self) -> float:
        """The smallest positive value; the largest value where none is positive."""
        return min((v for v in self.values if v > 0), default=self.values[-1])

    @cached_property
    def _exponents(self) -> tuple[int, int, int]:
        """The most significant digits of a value, the lowest exponent of a last digit, the highest of a first."""
        fraction, exponent = np.frexp(np.array([v for v in self.values if v]))
        whole = np.abs(fraction * 2.0**53).astype(np.int64)
        zeros = np.frexp((whole & -whole).astype(np.float64))[1] - 1
        return int((53 - zeros).max()), int((exponent - 53 + zeros).min()), int(exponent.max()) - 1

    def fits(self, digits: int, smallest_exponent: int, max_exponent: int) -> bool:
        """Whether binary floating point with these significand digits and exponents holds every value."""
        most, lowest, highest = self._exponents
        return most <= digits and lowest >= smallest_exponent and highest <= max_exponent


def midpoints(values: tuple[float, ...]) -> tuple[float, ...]:
    """The means of neighbours, in float64 (exact for float32 numbers, unless one is 2^28 times the other)."""
    return tuple((a + b) / 2 for a, b in pairwise(values))


def by_rank(values: list[float], bits: int) -> Levels:
    """Levels whose code is their place in the list; nearest changes at the midpoints."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ascending = tuple(values[code] + 0.0 for code in order)
    return Levels(values=ascending, codes=tuple(order), boundaries=midpoints(ascending), bits=bits)
