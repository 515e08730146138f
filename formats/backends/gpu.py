"""Rounding on GPUs by Triton kernels; with TRITON_INTERPRET=1, on the CPU by Triton's interpreter."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from hwsim.formats.errors import FormatError
from hwsim.formats.level_lowering import AnyRule, LevelRule, numbers_of
from hwsim.formats.lowering import Rule, lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS, UNSCALED, Geometry
from hwsim.formats.steps import padded

from .refusal import refuse_nan

BLOCK = 512
FAST_BLOCK = 2048
COUNTERS = 512
PAGE, LANES = 64, 16
NO_DRAW = (0, 0, 0, 0, 0)
OPTIONS = {"enable_fp_fusion": False}


def missing() -> str:
    """An empty string, or why Triton kernels cannot run here."""
    if not find_spec("triton"):
        return "triton is not installed"
    if interpreting() or torch.cuda.is_available():
        return ""
    return "there is no CUDA device, and TRITON_INTERPRET is not set"


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter; to be decided before they are first used."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def check_device(x: Tensor) -> None:
    """Refuse a tensor that kernels cannot read.

    Raises:
        FormatError: it is not on a GPU, and nothing interprets the kernels.
    """
    if not (x.is_cuda or interpreting()):
        raise FormatError(f"x: got a tensor on {x.device} for the backend 'triton'; allowed: CUDA devices", "backend")


def round_tensor(
    x: Tensor, rule: AnyRule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """x rounded by a rule, after division by its scale and times it again, in `dtype`, with x's strides.

    Raises:
        FormatError: the rule refuses NaN, and an element becomes one; x is not on a GPU, and nothing interprets the kernels.
    """
    check_device(x)
    if not x.numel():
        return torch.empty_like(x, dtype=dtype)
    source = x.detach().contiguous()
    out = torch.empty_like(source, dtype=dtype)
    found = torch.zeros(1, dtype=torch.int32, device=x.device) if numbers_of(rule).refuses_nan else None
    scales = scale if scale is None else scale.detach().contiguous()
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if isinstance(rule, LevelRule):
            _launch_levels(source, out, rule, scales, found, geometry, tuple(draw) or NO_DRAW)
        else:
            _launch(source, out, rule, scales, found, geometry, tuple(draw) or NO_DRAW)
    if found is not None and found.item():
        refuse_nan(x, out)
    return out if out.stride() == x.stride() else torch.empty_like(x, dtype=dtype).copy_(out)


def _launch(
    x: Tensor, out: Tensor, rule: Rule, scales: Tensor | None, found: Tensor | None, geometry: Geometry, draw: tuple[int, ...]
) -> None:
    """Run the fastest kernel for this rule; `found` is set where an element becomes NaN."""
    from . import gpu_kernels as kernels
    from .fast import DRAWN, NEAREST, fast_loop

    count, rules = x.numel(), _packed(rule, out.dtype, x.device)
    loop = None if scales is not None or torch.float64 in (x.dtype, out.dtype) else fast_loop(rule, False)
    if loop == NEAREST:
        kernels.round_nearest[grid(count, FAST_BLOCK)](x, out, rules, found, count, FAST_BLOCK, **OPTIONS)
    elif loop == DRAWN:
        counters = (-(-(draw[4] + count) // PAGE) - draw[4] // PAGE) * LANES
        kernels.round_drawn[grid(counters, COUNTERS)](x, out, rules, found, count, *draw, COUNTERS, **OPTIONS)
    else:
        where = UNSCALED if scales is None else geometry
        arguments = (x, out, rules, scales, found, count, *where, *draw, len(Rule._fields), BLOCK)
        kernels.round_by_rule[grid(count, BLOCK)](*arguments, **OPTIONS)


def _launch_levels(
    x: Tensor,
    out: Tensor,
    rule: LevelRule,
    scales: Tensor | None,
    found: Tensor | None,
    geometry: Geometry,
    draw: tuple[int, ...],
) -> None:
    """Run the kernel for levels; `found` is set where an element becomes NaN."""
    from .gpu_levels import round_to_levels

    count, rules = x.numel(), _packed(rule.numbers, out.dtype, x.device)
    values, keys = tables(rule, x.device)
    where = UNSCALED if scales is None else geometry
    table = (rules, values, keys, len(values) >> 1)
    arguments = (x, out, *table, scales, found, count, *where, *draw, len(Rule._fields), BLOCK)
    round_to_levels[grid(count, BLOCK)](*arguments, **OPTIONS)


@lru_cache(maxsize=64)
def tables(rule: LevelRule, device: torch.device) -> tuple[Tensor, Tensor]:
    """The padded outcomes and keys of a rule."""
    values, keys = padded(rule.format, rule.numbers.mode)
    return torch.from_numpy(values).to(device), torch.from_numpy(keys).to(device)


def grid(count: int, block: int) -> tuple[int]:
    """The number of programs that take `block` elements each."""
    return (-(-count // block),)


@lru_cache(maxsize=1024)
def _packed(rule: Rule, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The rule of the format and that of the result's dtype, as the kernels take them."""
    return words([*rule, *lower(CARRIERS[dtype], Projection(overflow="infinity"))], device)


def words(fields: Sequence[float], device: torch.device) -> Tensor:
    """Fields as int64, the real ones by their bits."""
    packed = [struct.unpack("<q", struct.pack("<d" if isinstance(field, float) else "<q", field))[0] for field in fields]
    return torch.tensor(packed, dtype=torch.int64, device=device)
