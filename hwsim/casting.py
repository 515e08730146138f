"""Tensors through a converter: scales found, elements rounded, codes kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hwsim.casts import Cast, Channel, Scaling, holds_all
from hwsim.errors import ConfigError
from hwsim.formats import Block, Draw, Format, Projection
from hwsim.formats.blocks import quantize_blocks
from hwsim.formats.operators import cpu_direct, quantize_tensor
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout, geometry
from hwsim.formats.tiling import tiling
from hwsim.scaling import magnitude_max, scale_of


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
    def unit(self) -> Tensor | None:
        """What each element is multiplied by: one number, or x's shape; None where nothing is scaled."""
        return None if self.scale is None else _spread(self.scale, self.layout, self.block, self.tensor_scale, self.values.shape)

    @property
    def scale_codes(self) -> Tensor | None:
        """The scales' codes, int64, in the layout's shape; None where nothing is scaled."""
        if self.scale is None or self.scale_format is None:
            return None
        return self.scale_format.encode(self.scale)


def apply(
    cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1, kept: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """What the converter hands on: dequantized values, in x's dtype where that holds the format.

    Args:
        cast: the converter.
        x: any floating tensor.
        draw: the random words of a stochastic rounding.
        axis: the axis that groups, tiles and blocks run along, in GEMM operands the contracted one.
        kept: the scale of a rule whose scales are state of a run.
        backend: a name; by default the one of x's device.

    Raises:
        ConfigError: a rule whose scale is state of a run, and none given.
    """
    if isinstance(cast.format, Block):
        return quantize_blocks(x, cast.format, cast.projection, axis, draw, backend).values
    if not cast.scaled:
        return quantize_tensor(x, cast.format, cast.projection, draw=draw, backend=backend)
    if _is_dorefa(cast):
        return parts(cast, x, draw, axis, backend).values
    scale, layout = scale_of(x, _scaling(cast), cast.format, axis, kept)
    return quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, backend=backend)


@lru_cache(maxsize=1024)
def direct(cast: Cast) -> Callable[[Tensor], tuple[Tensor, float | None] | None] | None:
    """`apply` of this cast, and the scale, as one call for float32 on the CPU; None where it depends on more than the tensor.

    What is called gives None for tensors that it leaves to `apply`.
    """
    if isinstance(cast.format, Block) or cast.rounding.is_stochastic or cast.format.carrier is not torch.float32:
        return None
    if cast.scaled and not _is_plain_absmax(_scaling(cast), cast.format):
        return None
    return cpu_direct(cast.format, cast.projection, cast.format.max if cast.scaled else None)


def _is_plain_absmax(scaling: Scaling, fmt: Format) -> bool:
    """Whether s is the quotient of two float32 numbers, rounded to float32."""
    single = scaling.format.carrier is torch.float32 and holds_all(scaling.format, torch.float32)
    whole = scaling.rule == "absmax" and scaling.granularity == "tensor" and scaling.minimum == 0
    return whole and single and float(torch.tensor(fmt.max, dtype=torch.float32)) == fmt.max


def apply_in_units(
    cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1, kept: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`apply`, and what each element is a multiple of: one number, or x's shape; None where nothing is scaled."""
    if isinstance(cast.format, Block):
        found = quantize_blocks(x, cast.format, cast.projection, axis, draw)
        return found.values, _spread(found.scales, ScaleLayout(axis, 1), cast.format, found.tensor_scale, x.shape)
    if not cast.scaled or _is_dorefa(cast):
        return apply(cast, x, draw, axis), None
    scale, layout = scale_of(x, _scaling(cast), cast.format, axis, kept)
    return apply(cast, x, draw, axis, scale), _spread(scale, layout, None, None, x.shape)


def _spread(scale: Tensor, layout: ScaleLayout, block: Block | None, tensor_scale: Tensor | None, shape: torch.Size) -> Tensor:
    if block is not None:
        where, _ = tiling(shape, block, -1 if layout.axis is None else layout.axis)
        units = where.spread(scale.double()).view(shape)
        return units if tensor_scale is None else units * tensor_scale
    if layout.axis is None:
        return scale.reshape(())
    return scale.reshape(-1)[geometry(shape, scale, layout).scale_index(shape.numel(), scale.device)].view(shape)


def parts(
    cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1, backend: str | None = None, kept: Tensor | None = None
) -> Quantized:
    """The same conversion with everything that the hardware keeps: elements, scales, codes."""
    if isinstance(cast.format, Block):
        return _block_parts(cast.format, cast.projection, x, draw, axis, backend)
    if not cast.scaled:
        values = quantize_tensor(x, cast.format, cast.projection, draw=draw, backend=backend)
        return Quantized(cast.format, values, values)
    scaling = _scaling(cast)
    if _is_dorefa(cast):
        return _squashed_parts(cast, x, draw, backend)
    scale, layout = scale_of(x, scaling, cast.format, axis, kept)
    values = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, backend=backend)
    elements = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, backend=backend, rescale=False)
    return Quantized(cast.format, values, elements, scale, layout, scaling.format)


def _block_parts(fmt: Block, projection: Projection, x: Tensor, draw: Draw, axis: int, backend: str | None) -> Quantized:
    values, scale, tensor_scale = quantize_blocks(x, fmt, projection, axis, draw, backend)
    elements = quantize_blocks(x, fmt, projection, axis, draw, backend, rescale=False).values
    layout = PER_TENSOR if fmt.size is None else ScaleLayout(axis, fmt.size)
    tensor = tensor_scale if fmt.tensor_scale is not None else None
    return Quantized(fmt.element, values, elements, scale, layout, fmt.scale, tensor, fmt)


def _squashed_parts(cast: Cast, x: Tensor, draw: Draw, backend: str | None) -> Quantized:
    """The elements round(max tanh(x) / max |tanh(x)|), and the scale 1 / max."""
    squashed, scaling = torch.tanh(x.detach()), _scaling(cast)
    scale, _ = scale_of(squashed, scaling.model_copy(update={"rule": "absmax"}), cast.format)
    elements = quantize_tensor(squashed, cast.format, cast.projection, scale, draw=draw, backend=backend, rescale=False)
    unit = torch.full_like(scale, 1 / cast.format.max)
    return Quantized(cast.format, elements * unit.to(elements.dtype), elements, unit, PER_TENSOR, scaling.format)


def elements(
    cast: Cast, x: Tensor, draw: Draw = Draw(), axis: int = -1, kept: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
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
    if _is_dorefa(cast):
        squashed = _squashed_parts(cast, x, draw, None)
        return squashed.elements, squashed.scale
    scale, layout = scale_of(x, scaling, cast.format, axis, kept)
    if layout.size is not None or (layout.axis is not None and layout.axis % x.ndim == axis % x.ndim):
        raise ConfigError(
            f"scaling: got a scale per {_words(scaling)} along the axis that the unit sums over; "
            "allowed with an emulated unit: one scale a tensor, or one a channel of the other axis"
        )
    values = quantize_tensor(x, cast.format, cast.projection, scale, layout, draw=draw, rescale=False)
    return values, scale if layout.axis is None else scale.reshape(
        [-1 if a == layout.axis % x.ndim else 1 for a in range(x.ndim)]
    )


def _is_dorefa(cast: Cast) -> bool:
    return cast.scaling is not None and cast.scaling.rule == "dorefa"


def _scaling(cast: Cast) -> Scaling:
    if cast.scaling is None:
        raise ConfigError(f"scaling: {cast} has none")
    return cast.scaling


def _words(scaling: Scaling) -> str:
    return "channel" if isinstance(scaling.granularity, Channel) else "group"


__all__ = ["Quantized", "apply", "elements", "magnitude_max", "parts", "scale_of"]
