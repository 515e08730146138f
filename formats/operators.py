"""Rounding of tensors: the operator `hwsim::quantize`, which torch knows, and the function that calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .backends import backend as backend_named
from .backends import gpu
from .backends.registry import cpu_kernel
from .backends.vector import round_tensor
from .base import Format
from .batching import round_samples
from .level_lowering import LevelRule, lower_any, unpack
from .lowering import constant_in_graphs
from .philox import Draw
from .rounding import Projection
from .scaled import PER_TENSOR, Geometry, ScaleLayout, geometry, result_dtype

NO_DRAW = Draw()
LIBRARY = torch.library.Library("hwsim", "FRAGMENT")  # type: ignore[no-untyped-call]
LIBRARY.define(  # type: ignore[no-untyped-call]
    "quantize(Tensor x, str rule, Tensor? scale, int[] geometry, int[] draw, ScalarType dtype) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
quantize: Callable[..., Tensor] = torch.ops.hwsim.quantize.default
"""The operator: a packed Rule or LevelRule, and where needed a Geometry and the numbers of a Draw, instead of records."""


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
    passed straight through. Element i of x, in row-major order, takes the random word of i + draw.offset. Under `torch.func.vmap`
    every sample becomes what it becomes alone, its random words too.

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
    where = () if scale is None else geometry(x.shape, scale, scale_layout)
    rule, words, dtype = _constants(fmt, projection, rescale, draw, x.dtype)
    if torch._C._are_functorch_transforms_active():
        result: Tensor = _StraightThrough.apply(x, rule, scale, where, words, dtype)
        return result
    if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        return quantize(x, rule, scale, where, words, dtype)
    if unwatched(x) and (scale is None or unwatched(scale)):
        return _on_cpu(x, rule, scale, where, words, dtype)
    with torch._C._AutoDispatchBelowAutograd():
        return quantize(x, rule, scale, where, words, dtype)


def cpu_direct(
    fmt: Format, projection: Projection, divisor: float | None = None
) -> Callable[[Tensor], tuple[Tensor, float | None] | None] | None:
    """`quantize_tensor` of this format and deterministic projection as one call for float32 on the CPU (see `direct.Direct`).

    None for formats that are lowered to levels, or whose values float32 does not hold.
    """
    rule = lower_any(fmt, projection, True)
    if isinstance(rule, LevelRule) or result_dtype(fmt, torch.float32) is not torch.float32:
        return None
    from .backends.direct import Direct

    return Direct(rule, divisor)


def unwatched(x: Tensor) -> bool:
    """Whether x is a plain CPU tensor and no mode or transform watches: the kernel may be called past torch's dispatcher.

    The dispatcher takes as long as rounding some thousand elements.
    """
    plain = type(x) is Tensor and x.is_cpu
    return plain and not torch._C._len_torch_dispatch_stack() and torch._C._functorch.peek_interpreter_stack() is None


@constant_in_graphs
def _constants(
    fmt: Format, projection: Projection, rescale: bool, draw: Draw, dtype: torch.dtype
) -> tuple[str, tuple[int, ...], torch.dtype]:
    """What the operator is given besides tensors: constants in a compiled graph."""
    rule, result = _packed(fmt, projection, rescale, dtype)
    return rule, draw.numbers if projection.rounding.is_stochastic else (), result


@lru_cache(maxsize=1024)
def _packed(fmt: Format, projection: Projection, rescale: bool, dtype: torch.dtype) -> tuple[str, torch.dtype]:
    return lower_any(fmt, projection, rescale).packed(), result_dtype(fmt, dtype)


def _on_cpu(x: Tensor, rule: str, scale: Tensor | None, where: Sequence[int], draw: Sequence[int], dtype: torch.dtype) -> Tensor:
    return cpu_kernel()(x, unpack(rule), scale, Geometry(*where), draw, dtype)


def _on_gpu(x: Tensor, rule: str, scale: Tensor | None, where: Sequence[int], draw: Sequence[int], dtype: torch.dtype) -> Tensor:
    return gpu.round_tensor(x, unpack(rule), scale, Geometry(*where), draw, dtype)


def _on_any_device(
    x: Tensor, rule: str, scale: Tensor | None, where: Sequence[int], draw: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return round_tensor(x, unpack(rule), scale, Geometry(*where), draw, dtype)


def _shape_only(
    x: Tensor, rule: str, scale: Tensor | None, where: Sequence[int], draw: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return quantize(x, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept; torch.func asks for the method."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, None, None, None, None


def _with_gradient(x: Tensor, *arguments: Any) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        result: Tensor = _StraightThrough.apply(x, *arguments)
        return result
    with torch._C._AutoDispatchBelowAutograd():
        return quantize(x, *arguments)


def _implement(key: str, kernel: Callable[..., Tensor]) -> None:
    LIBRARY.impl("quantize", kernel, key)  # type: ignore[no-untyped-call]


_implement("CPU", _on_cpu)
if find_spec("triton"):
    _implement("CUDA", _on_gpu)
_implement("CompositeExplicitAutograd", _on_any_device)
_implement("Meta", _shape_only)
_implement("Autograd", _with_gradient)
torch.library.register_vmap("hwsim::quantize", partial(round_samples, quantize), lib=LIBRARY)
