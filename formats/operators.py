"""Rounding of tensors: the operator `hwsim::quantize`, which torch knows, and the function that calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import backend as backend_named
from .backends.vector import round_tensor
from .base import Format
from .lowering import lower, unpack
from .philox import Draw
from .rounding import Projection
from .scaled import PER_TENSOR, UNSCALED, Geometry, ScaleLayout, geometry, result_dtype

NO_DRAW = Draw()
LIBRARY = torch.library.Library("hwsim", "FRAGMENT")
LIBRARY.define(
    "quantize(Tensor x, int[] rule, Tensor? scale, int[] geometry, int[] draw, ScalarType dtype) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def quantize_tensor(
    x: Tensor,
    fmt: Format,
    projection: Projection = Projection(),
    scale: Tensor | None = None,
    scale_layout: ScaleLayout = PER_TENSOR,
    draw: Draw = NO_DRAW,
    backend: str | None = None,
    rescale: bool = True,
) -> Tensor:
    """Every element rounded once to a value of the format; with a scale s, s round(x / s) of the exact quotient.

    The product with s is rounded once to the result's dtype. What NaN, infinities, -0, ties and overflow become is the
    projection's to say; zeros, infinities and NaN among the scales divide and multiply as in IEEE 754. The gradient is
    passed straight through. Element i of x, in row-major order, takes the random word of i + draw.offset.

    Args:
        x: float16, bfloat16, float32 or float64, of any shape and strides.
        fmt: the format.
        projection: rounding, overflow, NaN, flushing.
        scale: the scales, of any floating dtype, on x's device.
        scale_layout: how they cover x.
        draw: which random words stochastic rounding takes.
        backend: a name; by default the operator's kernel for x's device.
        rescale: hand on s round(x / s); without it round(x / s) itself, the values of the format.

    Returns:
        A tensor of x's shape and strides, in x's dtype where that holds every value of the format, else in the smaller of float32
        and float64 that does.

    Raises:
        FormatError: the format cannot follow the projection, a scale of the wrong shape, an element that becomes NaN in a
            format without NaN under `nan: error` (the first is named), an unknown backend.
    """
    if backend is not None:
        return backend_named(backend).quantize(x, fmt, projection, scale, scale_layout, draw, rescale)
    where = UNSCALED if scale is None else geometry(x.shape, scale, scale_layout)
    rule = lower(fmt, projection, rescale).packed()
    result: Tensor = torch.ops.hwsim.quantize.default(x, rule, scale, where, draw.numbers, result_dtype(fmt, x.dtype))
    return result


def _on_cpu(x: Tensor, rule: list[int], scale: Tensor | None, where: list[int], draw: list[int], dtype: torch.dtype) -> Tensor:
    from .backends.cpu import round_tensor

    return round_tensor(x, unpack(tuple(rule)), scale, Geometry(*where), draw, dtype)


def _on_any_device(x: Tensor, rule: list[int], scale: Tensor | None, where: list[int], draw: list[int], dtype: torch.dtype) -> Tensor:
    return round_tensor(x, unpack(tuple(rule)), scale, Geometry(*where), draw, dtype)


def _shape_only(x: Tensor, rule: list[int], scale: Tensor | None, where: list[int], draw: list[int], dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.hwsim.quantize.default(x, *arguments)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return gradient, None, None, None, None, None


def _with_gradient(x: Tensor, *arguments: Any) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        return _StraightThrough.apply(x, *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.hwsim.quantize.default(x, *arguments)


LIBRARY.impl("quantize", _on_cpu, "CPU")
LIBRARY.impl("quantize", _on_any_device, "CompositeExplicitAutograd")
LIBRARY.impl("quantize", _shape_only, "Meta")
LIBRARY.impl("quantize", _with_gradient, "Autograd")
