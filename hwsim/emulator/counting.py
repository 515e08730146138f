"""One pass over a tensor before and after its cast: sums and counts, compiled."""

from __future__ import annotations

from typing import NamedTuple

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
    parts = in_threads(lambda start, stop: count_elements(a, b, low, high, start, stop), len(a), len(a))
    return Counts(*(sum(column) for column in zip(*parts, strict=True)))
