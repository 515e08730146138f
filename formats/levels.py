"""An explicit list of levels: the shape of codebooks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise


@dataclass(frozen=True)
class Levels:
    """The finite values of a format, one by one, and where rounding to nearest changes from one to the next.

    Attributes:
        values: ascending, exact in float64.
        codes: the code of each value.
        boundaries: for each pair of neighbours the real number up to which nearest takes the lower one; exactly on it, the
            even code wins under `nearest_even`, the value farther from zero under `nearest_away`, and the nearer one under
            `nearest_zero`.
        bits: width of a code.
        nan_code, infinity_code, negative_zero: as for a Grid.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]
    boundaries: tuple[float, ...]
    bits: int
    nan_code: int | None = None
    infinity_code: int | None = None
    negative_zero: bool = False

    @property
    def max_value(self) -> float:
        """The largest value."""
        return self.values[-1]

    @property
    def min_value(self) -> float:
        """The smallest value."""
        return self.values[0]

    @property
    def smallest_positive(self) -> float:
        """The smallest positive value; the largest value where none is positive."""
        return min((v for v in self.values if v > 0), default=self.values[-1])

    def fits(self, digits: int, smallest_exponent: int, max_exponent: int) -> bool:
        """Whether binary floating point with these significand digits and exponents holds every value."""
        return all(_fits(Fraction(v), digits, smallest_exponent, max_exponent) for v in self.values if v)


def _fits(value: Fraction, digits: int, smallest_exponent: int, max_exponent: int) -> bool:
    whole, power = abs(value.numerator), value.denominator.bit_length() - 1
    zeros = (whole & -whole).bit_length() - 1
    top = whole.bit_length() - 1 - power
    return whole.bit_length() - zeros <= digits and zeros - power >= smallest_exponent and top <= max_exponent


def midpoints(values: tuple[float, ...]) -> tuple[float, ...]:
    """The arithmetic means of neighbours (exact where the values have at most 52 significant bits in common)."""
    return tuple((a + b) / 2 for a, b in pairwise(values))
