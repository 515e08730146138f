"""The largest magnitudes of a tensor on the CPU, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .magnitude_kernels import run_tops
from .threads import in_threads

RUN = 1 << 14
LIMITS: dict[torch.dtype, tuple[Any, Any]] = {
    torch.float32: (np.int32, np.array([0x7FFFFFFF, 0x7F800000], np.int32)),
    torch.float64: (np.int64, np.array([(1 << 63) - 1, 0x7FF << 52], np.int64)),
}
"""For each dtype its integers, the mask of magnitudes, and infinity."""


def largest_magnitudes(x: Tensor, runs: int) -> Tensor:
    """The largest finite magnitude, or 0, of each of `runs` equal runs of a contiguous float32 or float64 tensor."""
    x, (integers, limits) = x.detach(), LIMITS[x.dtype]
    bits = x.numpy().reshape(-1).view(integers)
    size = RUN if runs == 1 else bits.size // runs
    tops = np.empty(-(-bits.size // size), integers)
    in_threads(lambda low, high: run_tops(bits, tops, low, high, size, limits), tops.size, bits.size)
    return torch.from_numpy((tops.max(keepdims=True) if runs == 1 else tops).view(x.numpy().dtype))
