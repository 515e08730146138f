"""Rounding by the QPyTorch package (Zhang et al., arXiv:1910.04540), as it is: docs/qtorch.md lists where it differs."""

from __future__ import annotations

import shutil
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from hwsim.formats.base import Format
from hwsim.formats.errors import FormatError, not_allowed
from hwsim.formats.float import Float
from hwsim.formats.integer import Fixed, Integer
from hwsim.formats.philox import Draw
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import ScaleLayout, result_dtype

from .refusal import refuse_nan

ROUNDINGS = {"nearest_even": "nearest", "nearest_away": "nearest", "stochastic": "stochastic"}
"""QPyTorch's one nearest mode stands in for both: in floats its ties go away from zero, in fixed point to even."""

COUNT_LIMIT = 1 << 31


def missing() -> str:
    """An empty string, or why QPyTorch cannot be imported here: it compiles C++ at its first import."""
    if not find_spec("qtorch"):
        return "qtorch is not installed"
    if not (shutil.which("ninja") or find_spec("ninja")):
        return "qtorch compiles C++ at import and needs ninja, which is not installed"
    return (
        ""
        if shutil.which("c++") or shutil.which("g++")
        else "qtorch compiles C++ at import and needs g++, which is not installed"
    )


def quantize(
    x: Tensor, fmt: Format, projection: Projection, scale: Tensor | None, layout: ScaleLayout, draw: Draw, rescale: bool = True
) -> Tensor:
    """What QPyTorch makes of x, by its own rules for ties, overflow, NaN and -0 and its own random stream: `draw` is unused.

    Raises:
        FormatError: QPyTorch cannot express the format, the projection, scales or the dtype; a NaN is given to a format without
            NaN under `nan: error`.
    """
    check(x, fmt, projection, scale)
    if projection.nan == "error" and not fmt.has_nan and bool(x.isnan().any()):
        refuse_nan(x, x)
    source = x.detach().to(torch.float32).contiguous()
    rounding = ROUNDINGS[projection.rounding.mode]
    if isinstance(fmt, Float):
        out = _functions().float_quantize(source, fmt.exponent_bits, fmt.mantissa_bits, rounding)
    else:
        fraction_bits = fmt.fraction_bits if isinstance(fmt, Fixed) else 0
        symmetric = isinstance(fmt, Integer | Fixed) and fmt.symmetric
        out = _functions().fixed_point_quantize(source, fmt.bits, fraction_bits, True, symmetric, rounding)
    return torch.empty_like(x, dtype=result_dtype(fmt, x.dtype)).copy_(out)


def check(x: Tensor, fmt: Format, projection: Projection, scale: Tensor | None) -> None:
    """Refuse what QPyTorch has no parameter for.

    Raises:
        FormatError: see `quantize`.
    """
    if why_not := inexpressible(fmt):
        raise FormatError(f"format: got {fmt} for the backend 'qtorch'; {why_not}", "format")
    if projection.rounding.mode not in ROUNDINGS:
        raise FormatError(not_allowed("rounding for the backend 'qtorch'", projection.rounding.mode, ROUNDINGS), "mode")
    if projection.rounding.is_stochastic and projection.rounding.variant != "A":
        raise FormatError(f"variant: got {projection.rounding.variant!r} for the backend 'qtorch'; allowed: 'A'", "variant")
    if projection.overflow != "saturate":
        raise FormatError(f"overflow: got {projection.overflow!r} for the backend 'qtorch'; allowed: saturate", "overflow")
    if projection.flush_inputs or projection.flush_outputs:
        raise FormatError("flush_inputs, flush_outputs: got true for the backend 'qtorch'; allowed: false", "flush_inputs")
    if scale is not None:
        raise FormatError("scale: got one for the backend 'qtorch', which has none; allowed: unscaled casts", "scale")
    if x.dtype is torch.float64 or x.numel() >= COUNT_LIMIT:
        raise FormatError(
            f"x: got {x.numel()} elements of {x.dtype} for the backend 'qtorch'; "
            "allowed: fewer than 2^31 of torch.float32, torch.float16 or torch.bfloat16"
        )


def inexpressible(fmt: Format) -> str:
    """An empty string, or why QPyTorch has no such format."""
    if isinstance(fmt, Integer | Fixed):
        return "" if fmt.signed else "allowed: signed formats"
    if not isinstance(fmt, Float):
        return "allowed: floats, integers and fixed point"
    if fmt.exponent_bits > 8 or fmt.mantissa_bits > 23:
        return "allowed: up to 8 exponent and 23 mantissa bits"
    if not (fmt.signed and fmt.subnormals):
        return "allowed: signed formats with subnormals"
    usual = (1 << (fmt.exponent_bits - 1)) - 1
    return "" if fmt.resolved_bias == usual else f"allowed: the bias {usual}"


@cache
def _functions() -> ModuleType:
    """QPyTorch's functions; the first import on a machine compiles them."""
    from qtorch.quant import quant_function

    module: ModuleType = quant_function
    return module
