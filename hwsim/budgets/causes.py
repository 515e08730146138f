"""What a cast does to numbers, taken apart: clipping, underflow to zero, rounding, and the rounding of the scale itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, nan

import torch
from torch import Tensor

from hwsim.casting import Quantized, apply, magnitude_max, parts, scale_of
from hwsim.casts import Cast
from hwsim.fields import format_record
from hwsim.formats import Block, Draw
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import ScaleLayout
from hwsim.scales import first_scale

CAUSES = ("clipping", "underflow", "rounding", "scale")
"""In the order in which they are taken out of a cast; an accumulator's error is `accumulation`."""

EXACT_RULES = ("absmax", "power_of_two")
COUNTED_BITS = 8


def stages(cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None = None) -> tuple[Tensor, ...]:
    """A tensor after the first, the first two, ... of the causes; the last one is what the cast hands on.

    The scale's own rounding is what the cast does beyond one with the unrounded scale amax / the format's largest value, so that
    values which a rounded scale clips count to the scale. Of casts with any other scale it is nothing. A scale that is state of
    the run is `kept`, by default that of the run's first step.
    """
    kept = first_scale(cast, x) if kept is None else kept
    y = apply(cast, x, draw, axis, kept)
    ideal = _exactly_scaled(cast, x, draw, axis)
    clipped = torch.zeros_like(x, dtype=torch.bool) if ideal is not None else _clipped(cast, x, draw, axis, kept)
    ideal = y if ideal is None else ideal
    after_clipping = torch.where(clipped | ~torch.isfinite(ideal), ideal, x)
    after_underflow = torch.where((ideal == 0) & (x != 0), ideal, after_clipping)
    return after_clipping, after_underflow, ideal, y


def at_first(cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None = None) -> Tensor:
    """A tensor after a cast; a scale that is state of the run and not given is that of the run's first step."""
    return apply(cast, x, draw, axis, first_scale(cast, x) if kept is None else kept)


class Stage:
    """A converter that stops after one of the causes."""

    def __init__(self, cause: str) -> None:
        self._index = CAUSES.index(cause)

    def __call__(self, cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None = None) -> Tensor:
        """The tensor after that cause and those before it."""
        return stages(cast, x, draw, axis, kept)[self._index]


def _clipped(cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None) -> Tensor:
    """Where a value lies above the largest one at its scale, or below the smallest, which is zero in an unsigned format."""
    if not cast.scaled and not isinstance(cast.format, Block):
        return (x > cast.format.max) | (x < cast.format.min)
    found = parts(cast, x, draw, axis, kept=kept)
    above = (found.elements >= found.format.max) & (x > found.values)
    return above | ((found.elements <= found.format.min) & (x < found.values))


def _exactly_scaled(cast: Cast, x: Tensor, draw: Draw, axis: int) -> Tensor | None:
    """The cast with its scale unrounded; None where there is no such scale."""
    fmt = cast.format
    if isinstance(fmt, Block):
        if not isinstance(fmt.size, int):
            return None
        element, layout = fmt.element, ScaleLayout(axis, fmt.size)
        scale = _unrounded(magnitude_max(x.detach(), layout), element.max)
    elif cast.scaled and cast.scaling is not None and cast.scaling.rule in EXACT_RULES:
        element = fmt
        unrounded = cast.scaling.model_copy(update={"rule": "absmax", "format": format_record("fp64")})
        scale, layout = scale_of(x, unrounded, fmt, axis)
    else:
        return None
    return quantize_tensor(x, element, cast.projection, scale, layout, draw=draw)


def _unrounded(amax: Tensor, largest: float) -> Tensor:
    scale = amax.double() / largest
    return torch.where(scale > 0, scale, torch.ones_like(scale))


@dataclass(frozen=True)
class Facts:
    """What went through one port, and what became of it.

    Args:
        elements: how many.
        amax: the largest magnitude.
        crest: amax over the root mean square.
        exponents: how many nonzero elements have each binary exponent floor(log2 |x|).
        clipped, underflowed: shares of the elements.
        codes_used: the share of the format's values that occur; NaN for formats of more than 8 bits.
        causes: those that change any element.
        range: the binary exponents of the smallest and of the largest magnitude that the format has at the scales that were
            used.
    """

    elements: int
    amax: float
    crest: float
    exponents: dict[int, int]
    clipped: float
    underflowed: float
    codes_used: float
    causes: tuple[str, ...]
    range: tuple[int, int]


def facts(cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None = None) -> Facts:
    """The facts of one tensor at a port."""
    kept = first_scale(cast, x) if kept is None else kept
    after = stages(cast, x, draw, axis, kept)
    counts = [int((late != early).sum()) for early, late in zip((x, *after), after, strict=False)]
    found = parts(cast, x, draw, axis, kept=kept)
    finite = x.detach()[torch.isfinite(x)].double()
    amax = float(finite.abs().max()) if finite.numel() else 0.0
    rms = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    return Facts(
        x.numel(),
        amax,
        amax / rms if rms else nan,
        _exponents(finite),
        counts[0] / x.numel(),
        counts[1] / x.numel(),
        _codes_used(found),
        tuple(cause for cause, count in zip(CAUSES, counts, strict=True) if count),
        _range(found),
    )


def _exponents(x: Tensor) -> dict[int, int]:
    exponents = torch.frexp(x[x != 0])[1] - 1
    values, counts = torch.unique(exponents, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _codes_used(found: Quantized) -> float:
    if found.format.bits > COUNTED_BITS:
        return nan
    return len(torch.unique(found.elements)) / len(found.format.values())


def _range(found: Quantized) -> tuple[int, int]:
    unit = found.unit
    low, high = (1.0, 1.0) if unit is None else (float(unit.min()), float(unit.max()))
    return frexp(found.format.smallest_subnormal * low)[1] - 1, frexp(found.format.max * high)[1] - 1
