"""An explicit list of levels: the shape of codebooks, posits and logarithmic numbers."""

from __future__ import annotations

from dataclasses import dataclass
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
        nan_code: the code of NaN, or None.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]
    boundaries: tuple[float, ...]
    bits: int
    nan_code: int | None = None

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


def midpoints(values: tuple[float, ...]) -> tuple[float, ...]:
    """The arithmetic means of neighbours (exact where the values have at most 52 significant bits in common)."""
    return tuple((a + b) / 2 for a, b in pairwise(values))
