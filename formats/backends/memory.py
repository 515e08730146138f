"""Room for results: large ones in huge pages, for filling small ones costs more than rounding into them, and off their source."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from mmap import PAGESIZE

import torch
from torch import Tensor

LARGE = 1 << 25
"""Bytes from which on the C library gives every allocation pages of its own, which go back when it is freed."""
MADV_HUGEPAGE = 14
PERIOD, NEAR = 1 << 28, 1 << 9
"""AMD's Zen takes addresses that differ by a multiple of the period for one another: a loop that writes so few bytes beyond what
it reads takes up to a quarter longer."""


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """torch.empty_like; a large tensor on the CPU asks Linux for huge pages, where they are given to those that ask.

    Where the first place found for it would be mistaken for x's, it gets another.
    """
    out = torch.empty_like(x, dtype=dtype)
    size = out.nbytes
    if size < LARGE or not out.is_cpu:
        return out
    if mistaken(x.data_ptr(), out.data_ptr()):
        out = torch.empty_like(x, dtype=dtype)  # elsewhere, for the first is given back only after it
    if (advise := _advise()) is not None:
        # A hint: where the kernel refuses it, pages stay small.
        start = -(-out.data_ptr() // PAGESIZE) * PAGESIZE
        advise(start, (out.data_ptr() + size - start) // PAGESIZE * PAGESIZE, MADV_HUGEPAGE)
    return out


def mistaken(source: int, result: int) -> bool:
    """Whether a loop that reads from one address and writes to the other is held up (see PERIOD)."""
    return (result - source) % PERIOD < NEAR


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    """The C library's `madvise`; None outside of Linux, or where there is none."""
    if sys.platform != "linux":
        return None
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return None
    advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return advise
