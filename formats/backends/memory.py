"""Room for results: large ones in huge pages, for filling small pages costs more than rounding into them."""

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


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """torch.empty_like; a large tensor on the CPU asks Linux for huge pages, where they are given to those that ask."""
    out = torch.empty_like(x, dtype=dtype)
    size = out.nbytes
    if size >= LARGE and out.is_cpu and (advise := _advise()) is not None:
        # A hint: where the kernel refuses it, pages stay small.
        start = -(-out.data_ptr() // PAGESIZE) * PAGESIZE
        advise(start, (out.data_ptr() + size - start) // PAGESIZE * PAGESIZE, MADV_HUGEPAGE)
    return out


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
