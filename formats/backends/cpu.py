"""Rounding on the CPU by compiled loops, split over torch's number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwsim.formats.level_lowering import AnyRule, LevelRule
from hwsim.formats.lowering import INTEGERS, Rule, lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS, Geometry

from .fast import fast_loop
from .kernels import round_range
from .memory import empty_like
from .refusal import refuse_nan
from .threads import in_threads
from .words import BLOCK

ONE = np.ones(1)
WIDE = (torch.float32, torch.float64)
"""The dtypes that the compiled loops read and write."""
CONVERTED = 1 << 14
"""Elements of another dtype that are converted at a time."""
NO_DRAW = (0, 0, 0, 0, 0)
RECORD = np.dtype([(name, np.int64 if i < INTEGERS else np.float64) for i, name in enumerate(Rule._fields)])


def round_tensor(
    x: Tensor, rule: AnyRule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """x rounded by a rule, after division by its scale and times it again, in `dtype`, with x's strides.

    Raises:
        FormatError: the rule refuses NaN, and an element becomes one.
    """
    count = x.numel()
    if not count:
        return torch.empty_like(x, dtype=dtype)
    source = (x.detach() if x.requires_grad else x).contiguous()
    out = empty_like(source, dtype)
    scales, where = ONE, Geometry(count, count)
    if scale is not None:
        scales, where = scale.detach().double().numpy().reshape(-1), geometry
    single = source.dtype is not torch.float64 and dtype is not torch.float64
    exact = single and (scale is None or scale.dtype is not torch.float64)
    loop, rest = _level_work(rule, exact, scale, dtype) if isinstance(rule, LevelRule) else _work(rule, exact, scale, dtype)
    work = _part(source.view(-1), out.view(-1), loop, (scales, tuple(where), tuple(draw) or NO_DRAW, *rest))
    if any(in_threads(work, count, count, BLOCK)) and (rule.numbers if isinstance(rule, LevelRule) else rule).refuses_nan:
        refuse_nan(x, out)
    return out if source is x or out.stride() == x.stride() else torch.empty_like(x, dtype=dtype).copy_(out)


def _part(x: Tensor, out: Tensor, loop: Callable[..., bool], rest: tuple[Any, ...]) -> Callable[[int, int], bool]:
    """The loop on elements low .. high - 1; the narrow dtypes, which it cannot read, in pieces that stay in the cache."""
    if x.dtype in WIDE and out.dtype in WIDE:
        given, made = x.numpy(), out.numpy()
        return lambda low, high: bool(loop(given, made, low, high, 0, *rest))

    @torch.inference_mode()  # of the thread: `out` may be a tensor of the caller's
    def convert(low: int, high: int) -> bool:
        found = False
        for first in range(low, high, CONVERTED):
            last = min(first + CONVERTED, high)
            piece = x[first:last].to(x.dtype if x.dtype in WIDE else torch.float32)
            rounded = torch.empty_like(piece, dtype=out.dtype if out.dtype in WIDE else torch.float32)
            found |= bool(loop(piece.numpy(), rounded.numpy(), first, last, first, *rest))
            out[first:last] = rounded
        return found

    return convert


Work = tuple[Callable[..., bool], tuple[Any, ...]]
"""A compiled loop, and what it takes beside elements, scales and words."""


def _work(rule: Rule, exact: bool, scale: Tensor | None, dtype: torch.dtype) -> Work:
    records = kept_records(rule, dtype)
    loop = fast_loop(rule, scale is not None) if exact else None
    narrow = records[1] if loop is not None and scale is not None and dtype in (torch.float16, torch.bfloat16) else None
    return round_range, (records, loop, narrow)


def _level_work(rule: LevelRule, exact: bool, scale: Tensor | None, dtype: torch.dtype) -> Work:
    from .level_cpu import work

    return work(rule, RECORD, exact, scale is not None, dtype)


def readable(x: Tensor) -> Tensor:
    """x itself where it is contiguous float32 or float64 that numpy may read, else a copy that is."""
    if x.requires_grad:
        x = x.detach()
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = x.float()
    return x.contiguous()


@lru_cache(maxsize=1024)
def kept_records(rule: Rule, dtype: torch.dtype) -> npt.NDArray[Any]:
    """The rule of the format and that of the result's dtype, as the kernels take them."""
    return np.array([tuple(rule), tuple(lower(CARRIERS[dtype], Projection(overflow="infinity")))], dtype=RECORD)
