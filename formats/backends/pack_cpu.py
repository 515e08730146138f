"""Values to packed codes on the CPU, without a code tensor in between."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hwsim.formats.grid import Grid

from .cpu import CONVERTED, readable
from .pack_kernels import GROUP, pack_range
from .threads import in_threads

BYTE = 8
DTYPES = torch.float32, torch.float16, torch.bfloat16
LOWEST, HIGHEST = -126, 100


def pack_values(x: Tensor, grid: Grid, low_first: bool) -> Tensor | None:
    """The codes of values in one of DTYPES in bytes, row by row; None where the compiled loops do not do it.

    That is: codes wider than a byte, rows that are no multiples of 8, other dtypes or devices, formats near the ends of float32's
    range, and elements that are no finite value of the format (among them NaN and infinities, which the format may have).
    """
    ordinary = x.is_cpu and x.dtype in DTYPES and x.dim() > 0 and x.numel() > 0
    narrow = grid.bits <= BYTE and grid.zero and LOWEST <= grid.smallest_exponent <= HIGHEST
    if not (ordinary and narrow and x.shape[-1] % GROUP == 0):
        return None
    source = x.contiguous().view(-1)
    out = torch.empty(*x.shape[:-1], x.shape[-1] * grid.bits // BYTE, dtype=torch.uint8)
    packed, step = out.numpy().reshape(-1), x.numel() if x.dtype is torch.float32 else CONVERTED
    ends = np.float32(grid.min_value), np.float32(grid.max_value)
    arguments = _numbers(grid), grid.uniform, ends, grid.bits, low_first

    def pack(low: int, high: int) -> bool:
        for first in range(low, high, step):
            last = min(first + step, high)
            values, room = readable(source[first:last]).numpy(), packed[first * grid.bits // BYTE : last * grid.bits // BYTE]
            if not pack_range(values, room, 0, last - first, *arguments):
                return False
        return True

    return out if all(in_threads(pack, x.numel(), x.numel(), GROUP)) else None


@lru_cache(maxsize=1024)
def _numbers(grid: Grid) -> tuple[int, ...]:
    """What `pack_range` needs to know of a grid."""
    if grid.uniform:
        return 0, 0, 0, 0, (1 << grid.bits) - 1, 0, 0, grid.smallest_exponent
    cut = 23 - grid.mantissa_bits
    normal = (grid.min_exponent + 127) << 23
    offset = (grid.min_exponent + 127 - int(grid.zero)) << grid.mantissa_bits
    top = int(np.float32(grid.max_value).view(np.int32))
    sign = 0 if grid.sign_bit is None else 1 << grid.sign_bit
    return cut, offset, normal, top, sign, int(grid.negative_zero), int(grid.sign_bit is not None), grid.smallest_exponent
