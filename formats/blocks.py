"""Tensors to blocks and back: the operator `hwsim::quantize_block`, which torch knows, and the functions that call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backends import backend as backend_named
from .backends import block_gpu
from .backends.block_vector import round_blocks
from .backends.registry import round_blocks_on_cpu
from .backends.vector import multiply
from .batching import round_samples_in_blocks
from .block import Block
from .block_lowering import lower_block, unpack_block
from .errors import FormatError
from .lowering import constant_in_graphs
from .operators import LIBRARY
from .philox import Draw
from .rounding import Projection
from .scaled import result_dtype
from .tiling import Tiling, tiling

NO_DRAW = Draw()
LIBRARY.define(  # type: ignore[no-untyped-call]
    "quantize_block(Tensor x, str rule, int[] tiling, int[] draw, ScalarType dtype, ScalarType scale_dtype)"
    " -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
quantize_block: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.ops.hwsim.quantize_block.default
"""The operator: a packed BlockRule, a Tiling and the numbers of a Draw instead of records; the scales come flat."""


class Blocks(NamedTuple):
    """A tensor in blocks.

    `values`: of x's shape, dequantized, or the elements themselves; `scales`: values of the scale format, x's shape with a block
    for each run of elements; `tensor_scale`: a float32 scalar, 1 without one.
    """

    values: Tensor
    scales: Tensor
    tensor_scale: Tensor


def quantize_blocks(
    x: Tensor,
    fmt: Block,
    projection: Projection = Projection(),
    axis: int = -1,
    draw: Draw = NO_DRAW,
    backend: str | None = None,
    rescale: bool = True,
) -> Blocks:
    """Every element rounded once to a value of the element format times its block's scale (see Block for the scales).

    The product with the scales is rounded once to the result's dtype. The gradient is passed straight through. Element i of x,
    in row-major order, takes the random word of i + draw.offset. Under `torch.func.vmap` every sample becomes what it becomes
    alone, its random words and its tensor scale too.

    Args:
        x: float16, bfloat16, float32 or float64, of any shape and strides.
        fmt: the block format.
        projection: rounding, overflow, NaN and flushing of the elements; scales are rounded to nearest.
        axis: what 1-D blocks run along.
        draw: which random words stochastic rounding takes.
        backend: a name; by default the operator's kernel for x's device.
        rescale: hand on the dequantized values; without it the elements.

    Returns:
        The values, in x's strides, in x's dtype where that holds every element, else in the smaller of float32 and float64 that
        does; the scales and the tensor's scale.

    Raises:
        FormatError: no such axis, a short last block that is refused, a projection that the elements cannot follow, NaN or
            infinity where they are refused (the first is named), an unknown backend.
    """
    where, shape = tiling(x.shape, fmt, axis)
    if backend is not None:
        values, scales, tensor = backend_named(backend).quantize_block(x, fmt, projection, where, draw, rescale)
        return Blocks(values, scales.view(shape), tensor)
    rule, words, dtype, scale_dtype = _constants(fmt, projection, rescale, draw, x.dtype)
    if torch._C._are_functorch_transforms_active():
        values, scales, tensor = _StraightThrough.apply(x, rule, where, words, dtype, scale_dtype)
    elif torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        values, scales, tensor = quantize_block(x, rule, where, words, dtype, scale_dtype)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            values, scales, tensor = quantize_block(x, rule, where, words, dtype, scale_dtype)
    return Blocks(values, scales.view(shape), tensor)


def dequantize_blocks(
    codes: Tensor,
    scale_codes: Tensor,
    fmt: Block,
    axis: int = -1,
    tensor_scale: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The values of codes: element times scale times tensor scale, the exact product rounded once to `dtype`.

    Args:
        codes: of the elements, any shape. scale_codes: of the scales, a block for each run of elements (see Blocks).
        fmt, axis: as in quantize_blocks. tensor_scale: a float32 scalar, for formats that have one.

    Raises:
        FormatError: a code out of range, scales of another shape, a tensor scale that lacks or that the format has not.
    """
    where, shape = tiling(codes.shape, fmt, axis)
    if tuple(scale_codes.shape) != shape:
        raise FormatError(f"scale_codes: got shape {tuple(scale_codes.shape)}; allowed: {shape}", "scale_codes")
    if (tensor_scale is None) != (fmt.tensor_scale is None):
        raise FormatError(f"tensor_scale: got {tensor_scale} for {fmt}; allowed: one where the format has one", "tensor_scale")
    elements, scales = fmt.element.decode(codes), where.spread(fmt.scale.decode(scale_codes).double())
    if tensor_scale is not None:
        scales = scales * tensor_scale.double()
    return multiply(elements.double().flatten(), scales, dtype).to(dtype).view(codes.shape)


@constant_in_graphs
def _constants(
    fmt: Block, projection: Projection, rescale: bool, draw: Draw, dtype: torch.dtype
) -> tuple[str, tuple[int, ...], torch.dtype, torch.dtype]:
    """What the operator is given besides the tensor and its tiling: constants in a compiled graph."""
    words = draw.numbers if projection.rounding.is_stochastic else ()
    return _packed(fmt, projection, rescale), words, result_dtype(fmt, dtype), fmt.scale.carrier


@lru_cache(maxsize=1024)
def _packed(fmt: Block, projection: Projection, rescale: bool) -> str:
    return lower_block(fmt, projection, rescale).packed()


def _on_cpu(
    x: Tensor, rule: str, where: list[int], draw: list[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return round_blocks_on_cpu(x, unpack_block(rule), Tiling(*where), draw, dtype, scale_dtype)


def _on_gpu(
    x: Tensor, rule: str, where: list[int], draw: list[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return block_gpu.round_blocks(x, unpack_block(rule), Tiling(*where), draw, dtype, scale_dtype)


def _on_any_device(
    x: Tensor, rule: str, where: list[int], draw: list[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return round_blocks(x, unpack_block(rule), Tiling(*where), draw, dtype, scale_dtype)


def _shape_only(
    x: Tensor, rule: str, where: list[int], draw: list[int], dtype: torch.dtype, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    scales = x.new_empty(Tiling(*where).blocks, dtype=scale_dtype)
    return torch.empty_like(x, dtype=dtype), scales, x.new_empty((), dtype=torch.float32)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return quantize_block(x, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """The scales have no gradient."""
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, None, None, None, None


def _with_gradient(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    if x.requires_grad and torch.is_grad_enabled():
        return _StraightThrough.apply(x, *arguments)  # type: ignore[no-any-return]
    with torch._C._AutoDispatchBelowAutograd():
        return quantize_block(x, *arguments)


LIBRARY.impl("quantize_block", _on_cpu, "CPU")  # type: ignore[no-untyped-call]
if find_spec("triton"):
    LIBRARY.impl("quantize_block", _on_gpu, "CUDA")  # type: ignore[no-untyped-call]
LIBRARY.impl("quantize_block", _on_any_device, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
LIBRARY.impl("quantize_block", _shape_only, "Meta")  # type: ignore[no-untyped-call]
LIBRARY.impl("quantize_block", _with_gradient, "Autograd")  # type: ignore[no-untyped-call]
torch.library.register_vmap("hwsim::quantize_block", partial(round_samples_in_blocks, quantize_block), lib=LIBRARY)
