"""The compiled loop of `counting`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BLOCK = 2048


# Sums may be taken in any order, and squares added in one rounding, so that the loops vectorise; nothing else is relaxed. What is
# counted is counted in the elements' own type, exactly: integers would be wider, and fewer of them done at a time.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def count_elements(x: Any, y: Any, low: Any, high: Any, start: Any, stop: Any) -> Any:
    """The sums and counts of `Counts` over elements start .. stop of two arrays of one type; low and high are of it too."""
    signal = noise = bias = 0.0
    overflow = underflow = 0
    one, zero, top = x.dtype.type(1), x.dtype.type(0), x.dtype.type(np.inf)
    for begin in range(start, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        us, vs = x[begin:end], y[begin:end]
        over = under = infinite = zero
        for i in range(len(us)):
            a, b = us[i], vs[i]
            finite_a, finite_b = abs(a) < top, abs(b) < top
            over += one if (a > high) | (a < low) | (finite_a & (not finite_b)) else zero
            under += one if (b == zero) & (a != zero) else zero
            infinite += zero if finite_a & finite_b else one
        overflow += int(over)
        underflow += int(under)
        for i in range(len(us)):
            a, b = us[i], vs[i]
            if infinite != zero:  # taken out of the loop when it is compiled
                both = (abs(a) < top) & (abs(b) < top)
                a, b = a if both else zero, b if both else zero
            kept = np.float64(a)
            error = np.float64(b) - kept
            signal += kept * kept
            noise += error * error
            bias += error
    return signal, noise, bias, overflow, underflow
