"""Between which powers of two the elements of an array lie: their largest magnitude and their last binary place, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from .lanes import EXPONENT_MASK, FRACTION_BITS, SIGN_MASK, bits_float, float_bits

FRACTION_MASK = (1 << FRACTION_BITS) - 1


class Span(NamedTuple):
    """What every element of an array is.

    Attributes:
        step: the largest power of two of which all are multiples; infinity where all are zero.
        largest: the largest magnitude; infinity or NaN where one is.
    """

    step: float
    largest: float

    @property
    def finite(self) -> bool:
        """Whether every element is."""
        return bool(np.isfinite(self.largest))


NOTHING = Span(np.inf, 0.0)
"""Of zeros, and of no elements."""


def span(x: npt.NDArray[np.float64]) -> Span:
    """The span of an array of float64 zeros and normal values."""
    return Span(*np.array(_extremes(np.ascontiguousarray(x).reshape(-1).view(np.int64))).view(np.float64).tolist())


@njit(cache=True, nogil=True)
def _extremes(values: Any) -> Any:
    # Magnitudes are ordered as their bits are, and the extremes of integers, unlike those of floats, vectorise.
    step, largest = EXPONENT_MASK, 0
    for i in range(values.size):
        m = values[i] & ~SIGN_MASK
        fraction = m & FRACTION_MASK
        # All but the last one of the fraction; the difference is that one's value.
        rest = bits_float((m & EXPONENT_MASK) | (fraction & (fraction - 1)))
        last = float_bits(bits_float(m) - rest) if fraction else m
        largest = max(largest, m)
        step = min(step, last if m else EXPONENT_MASK)
    return step, largest
