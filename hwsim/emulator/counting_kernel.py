"""The compiled loop of `counting`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


# Sums may be taken in any order, so that the loop vectorises; nothing else is relaxed.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def count_elements(x: Any, y: Any, low: Any, high: Any, start: Any, stop: Any) -> Any:
    """The sums and counts of `Counts` over elements start .. stop."""
    signal = noise = bias = 0.0
    overflow = underflow = 0
    for i in range(start, stop):
        a, b = np.float64(x[i]), np.float64(y[i])
        finite_a, finite_b = abs(a) < np.inf, abs(b) < np.inf
        both = finite_a & finite_b
        error = b - a if both else 0.0
        kept = a if both else 0.0
        signal += kept * kept
        noise += error * error
        bias += error
        overflow += (a > high) | (a < low) | (finite_a & (not finite_b))
        underflow += (b == 0.0) & (a != 0.0)
    return signal, noise, bias, overflow, underflow
