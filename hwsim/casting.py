"""Tensors through a converter: scales found, elements rounded, codes kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from hwsim.casts import Cast, Channel, Group, Scaling
from hwsim.config import Document, explain
from hwsim.errors import ConfigError
from hwsim.formats import Block, Draw, Format, Projection, Rounding
from hwsim.formats.base import round_log2
from hwsim.formats.blocks import quantize_blocks
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.rounding import NanRule, Overflow
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout


@dataclass(frozen=True)
class Quantized:
    """A tensor as hardware holds it.

    Attributes:
        format: the elements' format.
        values: the dequantized values, x's shape: elements times scales, rounded once into the carrier.
        elements: the values of the format itself, x's shape.
        scale: float tensor in the layout's shape, or None where nothing is scaled.
        layout: which scale an element takes.
        scale_format: the format that the scales are values of, or None.
        tensor_scale: the float32 scale of the whole tensor beside the blocks' (`two_level`), or None.
        block: the block format; where it has a 2-D tile, this and not `layout` says how the scales lie.
    """

    format: Format
    values: Tensor
    elements: Tensor
    scale: Tensor | None = None
    layout: ScaleLayout = PER_TENSOR
    scale_format: Format | None = None
    tensor_scale: Tensor | None = None
    block: Block | None = None

    @property
    def codes(self) -> Tensor:
        """The elements' codes, int64, x's shape."""
        return self.format.encode(self.elements)

    @property
    def scale_codes(self) -> Tensor | None:
        """The scales' codes, int64, in the layout's shape; None where nothing is scaled."""
        if self.scale is None or self.scale_format is None:
            return None
        return self.scale_format.encode(self.scale)


def apply(cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1) -> Tensor:
    """What the converter hands on: dequantized values, in x's dtype where that holds the format.

    Args:
        cast: the converter.
        x: any floating tensor.
        draw: the random words of a stochastic rounding.
        axis: the axis that groups and blocks run along, in GEMM operands the contracted one.
    """
    if isinstance(cast.format, Block):
        return quantize_blocks(x, cast.format, cast.projection, axis, draw).values
    if not cast.scaled:
        return quantize_tensor(x, cast.format, cast.projection, draw=draw)
    scale, layout = scale_of(x, _scaling(cast), cast.format, axis)
    return quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw)


def parts(cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1, backend: str | None = None) -> Quantized:
    """The same conversion with everything that the hardware keeps: elements, scales, codes."""
    if isinstance(cast.format, Block):
        return _block_parts(cast.format, cast.projection, x, draw, axis, backend)
    if not cast.scaled:
        values = quantize_tensor(x, cast.format, cast.projection, draw=draw, backend=backend)
        return Quantized(cast.format, values, values)
    scaling = _scaling(cast)
    scale, layout = scale_of(x, scaling, cast.format, axis)
    values = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, backend=backend)
    elements = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, backend=backend, rescale=False)
    return Quantized(cast.format, values, elements, scale, layout, scaling.format)


def _block_parts(fmt: Block, projection: Projection, x: Tensor, draw: Draw, axis: int, backend: str | None) -> Quantized:
    values, scale, tensor_scale = quantize_blocks(x, fmt, projection, axis, draw, backend)
    elements = quantize_blocks(x, fmt, projection, axis, draw, backend, rescale=False).values
    layout = PER_TENSOR if fmt.size is None else ScaleLayout(axis, fmt.size)
    tensor = tensor_scale if fmt.tensor_scale is not None else None
    return Quantized(fmt.element, values, elements, scale, layout, fmt.scale, tensor, fmt)


def elements(cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1) -> tuple[Tensor, Tensor | None]:
    """What a multiplier's port is given: values of the format itself, and the scale to apply afterwards, broadcastable to x.

    Raises:
        ConfigError: the scale varies along `axis`, the contracted one, so that it cannot be applied after the sum.
    """
    if isinstance(cast.format, Block):
        raise ConfigError(
            f"format: got {cast.format}, whose scales vary along the axis that the unit sums over; "
            "allowed with an emulated unit: formats with one scale a tensor, or one a channel of the other axis"
        )
    if not cast.scaled:
        return quantize_tensor(x, cast.format, cast.projection, draw=draw), None
    scaling = _scaling(cast)
    scale, layout = scale_of(x, scaling, cast.format, axis)
    if layout.size is not None or (layout.axis is not None and layout.axis % x.ndim == axis % x.ndim):
        raise ConfigError(
            f"scaling: got a scale per {_words(scaling)} along the axis that the unit sums over; "
            "allowed with an emulated unit: one scale a tensor, or one a channel of the other axis"
        )
    values = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, rescale=False)
    return values, scale if layout.axis is None else scale.reshape(
        [-1 if a == layout.axis % x.ndim else 1 for a in range(x.ndim)]
    )


def scale_of(x: Tensor, scaling: Scaling, fmt: Format, axis: int = -1) -> tuple[Tensor, ScaleLayout]:
    """The scales of a tensor under a rule other than `none` (see Scaling), and their layout."""
    layout = _layout(scaling, axis)
    if scaling.rule == "fixed":
        return torch.full((), scaling.value or 1.0, dtype=scaling.format.carrier, device=x.device), layout
    amax = magnitude_max(x.detach(), layout)
    own = scaling.format
    if scaling.rule == "absmax":
        largest = torch.full((), fmt.max, dtype=torch.float64, device=x.device)
        scale = quantize_tensor(amax, own, scale=largest, rescale=False)
    else:
        scale = _power_of_two(amax, fmt.max).clamp(max=2.0 ** round_log2(own.max))
    return torch.where(amax > 0, scale.clamp(min=own.smallest_subnormal), torch.ones_like(scale)), layout


def magnitude_max(x: Tensor, layout: ScaleLayout = PER_TENSOR) -> Tensor:
    """The largest finite |x| for each scale of a layout, in float32 or float64; zero where there is none."""
    amax = _magnitude_max(x, layout)
    if not bool(torch.isfinite(amax).all()):
        amax = _magnitude_max(torch.where(torch.isfinite(x), x, torch.zeros_like(x)), layout)
    return amax if amax.dtype is torch.float64 else amax.float()


def _magnitude_max(x: Tensor, layout: ScaleLayout) -> Tensor:
    if layout.axis is None:
        return _largest(x) if x.numel() else x.new_zeros(())
    axis = layout.axis % x.ndim
    if layout.size is None:
        others = [a for a in range(x.ndim) if a != axis]
        return _largest(x, others) if others else x.abs()
    whole = x.movedim(axis, -1)
    padded = torch.nn.functional.pad(whole, (0, -x.shape[axis] % layout.size))
    return _largest(padded.reshape(*padded.shape[:-1], -1, layout.size), [-1]).movedim(-1, axis)


def _largest(x: Tensor, dims: list[int] | None = None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, torch.inf, dim=dims)
    return norm


def _power_of_two(amax: Tensor, largest: float) -> Tensor:
    """The smallest power of two s with amax / s <= largest, from the binary exponents themselves."""
    mantissa, exponent = torch.frexp(amax)
    limit, limit_exponent = torch.frexp(torch.full((), largest, dtype=amax.dtype, device=amax.device))
    return torch.ldexp(torch.ones_like(amax), exponent - limit_exponent + (mantissa > limit))


def _layout(scaling: Scaling, axis: int) -> ScaleLayout:
    match scaling.granularity:
        case Channel(channel=channel):
            return ScaleLayout(channel)
        case Group(group=size):
            return ScaleLayout(axis, size)
        case _:
            return PER_TENSOR


def _scaling(cast: Cast) -> Scaling:
    if cast.scaling is None:
        raise ConfigError(f"scaling: {cast} has none")
    return cast.scaling


def _words(scaling: Scaling) -> str:
    return "channel" if isinstance(scaling.granularity, Channel) else "group"


def quantize(
    x: Tensor,
    fmt: Format | str | dict[str, Any],
    rounding: Rounding | str | dict[str, Any] = "nearest_even",
    overflow: Overflow = "saturate",
    scaling: Scaling | str | dict[str, Any] | None = None,
    *,
    axis: int = -1,
    nan: NanRule = "error",
    seed: int = 0,
    site: str = "",
    step: int = 0,
    call: int = 0,
    rank: int = 0,
    offset: int = 0,
    return_parts: bool = False,
    backend: str | None = None,
) -> Tensor | Quantized:
    """A tensor rounded to a format: each element once, from its exact value, or its exact quotient by the scale.

    NaN stays NaN where the format has one, else `nan` says what it becomes; overflow is judged after rounding with an
    unbounded exponent; -0 becomes +0 where the format has none.

    Args:
        x: float16, bfloat16, float32 or float64, any shape.
        fmt: a format, its name, or a mapping as in YAML.
        rounding, overflow, nan: see Rounding and Projection.
        scaling: see Scaling.
        axis: the axis that groups, and the blocks of a block format, run along.
        seed, site, step, call, rank, offset: the key of a stochastic rounding (see Draw).
        return_parts: a Quantized (values, codes, scale codes) instead of the values.
        backend: one of `hwsim.backends()`; by default numba on CPU and torch elsewhere.

    Returns:
        Values of x's shape in x's dtype where that holds every value of the format, else in the smaller of float32 and
        float64 that does.

    Raises:
        FormatError, ConfigError: an unknown name, or a combination that cannot be.
    """
    cast = _cast({"format": fmt, "rounding": rounding, "overflow": overflow, "nan": nan, "scaling": scaling})
    draw = Draw(seed, site, step, call, rank, offset)
    quantized = parts(cast, x, draw, axis, backend)
    return quantized if return_parts else quantized.values


def _cast(given: dict[str, Any]) -> Cast:
    try:
        return Cast.model_validate(given)
    except ValidationError as error:
        raise explain(error, Document(given, ""), model=Cast) from None


__all__ = ["Quantized", "apply", "elements", "magnitude_max", "parts", "quantize", "scale_of"]
