"""Rounding on the CPU by compiled loops, split over torch's number of threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwsim.formats.lowering import INTEGERS, Rule, lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS, UNSCALED, Geometry

from .fast import fast_loop
from .kernels import round_range
from .words import BLOCK
from .refusal import refuse_nan

THREADED = 1 << 16
ONE = np.ones(1)
RECORD = np.dtype([(name, np.int64 if i < INTEGERS else np.float64) for i, name in enumerate(Rule._fields)])


def round_tensor(x: Tensor, rule: Rule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: torch.dtype) -> Tensor:
    """x rounded by a rule, after division by its scale and times it again, in `dtype`, with x's strides.

    Raises:
        FormatError: the rule refuses NaN, and an element becomes one.
    """
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    source = x.detach() if x.dtype is torch.float64 or x.dtype is torch.float32 else x.detach().float()
    source = source.contiguous()
    out = torch.empty_like(source, dtype=wide)
    count = source.numel()
    if not count:
        return torch.empty_like(x, dtype=dtype)
    scales, where = ONE, (count, count, *UNSCALED[2:])
    if scale is not None:
        scales, where = scale.detach().double().reshape(-1).numpy(), tuple(geometry)
    exact = source.dtype is torch.float32 is dtype and (scale is None or scale.dtype is not torch.float64)
    loop = fast_loop(rule, scale is not None) if exact else None
    arguments = scales, where, tuple(draw), _records(rule, dtype), loop
    found = _in_threads(source.view(-1).numpy(), out.view(-1).numpy(), arguments)
    if found and rule.refuses_nan:
        refuse_nan(x, out)
    if dtype is not wide:
        out = out.to(dtype)
    return out if out.stride() == x.stride() else torch.empty_like(x, dtype=dtype).copy_(out)


def _in_threads(x: npt.NDArray[Any], out: npt.NDArray[Any], arguments: tuple[Any, ...]) -> bool:
    """round_range over the whole of x, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    if x.size < THREADED or threads == 1:
        return bool(round_range(x, out, 0, x.size, *arguments))
    piece = -(-x.size // (threads * BLOCK)) * BLOCK
    pool = _pool(os.getpid(), threads - 1)
    rest = [pool.submit(round_range, x, out, low, min(low + piece, x.size), *arguments) for low in range(piece, x.size, piece)]
    found = bool(round_range(x, out, 0, min(piece, x.size), *arguments))
    return any([found, *(part.result() for part in rest)])


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"hwsim-{process}")


@lru_cache(maxsize=1024)
def _records(rule: Rule, dtype: torch.dtype) -> npt.NDArray[Any]:
    """The rule of the format and that of the result's dtype, as the kernels take them."""
    return np.array([tuple(rule), tuple(lower(CARRIERS[dtype], Projection(overflow="infinity")))], dtype=RECORD)
