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
from .refusal import refuse_nan
from .threads import in_threads
from .words import BLOCK

ONE = np.ones(1)
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
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    source = readable(x)
    out = torch.empty_like(source, dtype=wide)
    scales, where = ONE, Geometry(count, count)
    if scale is not None:
        scales, where = scale.detach().double().numpy().reshape(-1), geometry
    exact = source.dtype is torch.float32 is wide and (scale is None or scale.dtype is not torch.float64)
    round_part, rest = _level_work(rule, exact, scale, dtype) if isinstance(rule, LevelRule) else _work(rule, exact, scale, dtype)
    arguments = scales, tuple(where), tuple(draw) or NO_DRAW, *rest
    given, result = source.numpy().reshape(-1), out.numpy().reshape(-1)
    found = any(in_threads(lambda low, high: bool(round_part(given, result, low, high, *arguments)), count, count, BLOCK))
    if found and (rule.numbers if isinstance(rule, LevelRule) else rule).refuses_nan:
        refuse_nan(x, out)
    if dtype is not wide:
        out = out.to(dtype)
    return out if source is x or out.stride() == x.stride() else torch.empty_like(x, dtype=dtype).copy_(out)


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
