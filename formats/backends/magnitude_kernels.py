"""The largest magnitudes of runs of elements, from their bits."""

from __future__ import annotations

from typing import Any

from .compiling import inlined, kept


@inlined
def largest_bits(bits: Any, mask: Any) -> Any:
    """The bits of the largest magnitude, given as integers of 32 or 64 bits, with the mask of magnitudes."""
    top = bits.dtype.type(0)
    for i in range(bits.size):
        top = max(top, bits.dtype.type(bits[i] & mask))
    return top


@inlined
def largest_finite_bits(bits: Any, limits: Any) -> Any:
    """The bits of the largest finite magnitude; limits: the mask of magnitudes, infinity."""
    top = largest_bits(bits, limits[0])
    if top >= limits[1]:
        top = bits.dtype.type(0)
        for i in range(bits.size):
            a = bits.dtype.type(bits[i] & limits[0])
            top = max(top, a if a < limits[1] else bits.dtype.type(0))
    return top


@kept
def run_tops(bits: Any, tops: Any, low: Any, high: Any, size: Any, limits: Any) -> None:
    """The bits of the largest finite magnitude of the runs low .. high - 1, of `size` elements (the last may be short)."""
    for run in range(low, high):
        tops[run] = largest_finite_bits(bits[run * size : min(run * size + size, bits.size)], limits)
