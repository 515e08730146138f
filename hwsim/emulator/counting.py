"""One pass over a tensor before and after its cast: sums and counts, compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from torch import Tensor

from hwsim.formats.backends.cpu import readable
from hwsim.formats.backends.threads import in_threads


class Counts(NamedTuple):
    """Sums over elements whose x and y are both finite, and counts of all elements."""

    signal: float
    noise: float
    bias: float
    overflow: int
    underflow: int


# Sums may be taken in any order, so that the loop vectorises; nothing else is relaxed.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _count(x: Any, y: Any, low: Any, high: Any, start: Any, stop: Any) -> Any:
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


def count(x: Tensor, y: Tensor, low: float, high: float) -> Counts:
    """The counts of one tensor on the CPU; `overflow` is what lies outside of low .. high or lost its finite value."""
    if x.stride() != y.stride():
        x, y = x.contiguous(), y.contiguous()
    elif not x.is_contiguous() and x.numel() == x.untyped_storage().nbytes() // x.element_size():
        # The same dense order in memory for both: any order will do.
        x, y = (t.as_strided((t.numel(),), (1,), t.storage_offset()) for t in (x, y))
    a, b = (readable(t).numpy().reshape(-1) for t in (x, y))
    parts = in_threads(lambda start, stop: _count(a, b, low, high, start, stop), len(a), len(a))
    return Counts(*(sum(column) for column in zip(*parts, strict=True)))
