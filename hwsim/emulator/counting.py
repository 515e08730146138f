"""One pass over a tensor before and after its cast: sums and counts, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor


class Counts(NamedTuple):
    """Sums over elements whose x and y are both finite, and counts of all elements."""

    signal: float
    noise: float
    bias: float
    overflow: int
    underflow: int


def count(x: Tensor, y: Tensor, low: float, high: float) -> Counts:
    """The counts of one tensor on the CPU; `overflow` is what lies outside of low .. high or lost its finite value."""
    from hwsim.formats.backends.cpu import readable
    from hwsim.formats.backends.threads import in_threads

    from .counting_kernel import count_elements

    if x.stride() != y.stride():
        x, y = x.contiguous(), y.contiguous()
    elif not x.is_contiguous() and x.numel() == x.untyped_storage().nbytes() // x.element_size():
        # The same dense order in memory for both: any order will do.
        x, y = (t.as_strided((t.numel(),), (1,), t.storage_offset()) for t in (x, y))
    a, b = (readable(t).numpy().reshape(-1) for t in (x, y))
    if a.dtype != b.dtype:
        a, b = a.astype(np.float64), b.astype(np.float64)
    ends = _inward(a.dtype.type, low, high)
    parts = in_threads(lambda start, stop: count_elements(a, b, *ends, start, stop), len(a), len(a))
    return Counts(*(sum(column) for column in zip(*parts, strict=True)))


def _inward(kind: type[np.floating], low: float, high: float) -> tuple[np.floating, np.floating]:
    """The bounds as numbers of a type such that each of its numbers lies outside of them if it lies outside of the given ones."""
    with np.errstate(over="ignore"):
        near_low, near_high = kind(low), kind(high)
    return (
        np.nextafter(near_low, kind(np.inf)) if float(near_low) < low else near_low,
        np.nextafter(near_high, kind(-np.inf)) if float(near_high) > high else near_high,
    )
