"""The scales of tensors: which numbers bring them into a format's range."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hwsim.casts import Channel, Group, Scaling, Tile
from hwsim.errors import ConfigError
from hwsim.formats import Format, Projection
from hwsim.formats.base import round_log2
from hwsim.formats.operators import quantize_tensor, unwatched
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout

CANDIDATES = range(8, 25)
"""Sixteenths of amax that the `mse` rule tries."""


def scale_of(x: Tensor, scaling: Scaling, fmt: Format, axis: int = -1, kept: Tensor | None = None) -> tuple[Tensor, ScaleLayout]:
    """The scales of a tensor under a rule other than `none` (see Scaling), and their layout; a scalar counts as one element.

    Raises:
        ConfigError: a rule whose scale is state of a run, and no `kept` one.
    """
    x = x if x.dim() else x.reshape(1)
    layout = _layout(scaling, axis, x)
    if kept is not None:
        return kept, layout
    if scaling.kept:
        raise ConfigError(f"rule: got {scaling.rule!r}, whose scale is state of a run; allowed: inside of `emulate`, or absmax")
    if scaling.rule == "fixed":
        return torch.full((), scaling.value or 1.0, dtype=scaling.format.carrier, device=x.device), layout
    amax = _over_rows(magnitude_max(x.detach(), layout), scaling, axis).clamp(min=scaling.minimum)
    if scaling.rule == "absmax":
        scale = _ratio(amax, fmt, scaling.format)
    elif scaling.rule == "mse":
        return _least_squares(x.detach(), amax, layout, scaling, fmt, axis), layout
    else:
        scale = _power_of_two(amax, fmt.max).clamp(max=2.0 ** round_log2(scaling.format.max))
    return _usable(scale, amax, scaling.format), layout


def _ratio(amax: Tensor, fmt: Format, own: Format) -> Tensor:
    """amax / the format's largest value, rounded once."""
    largest = torch.full((), fmt.max, dtype=torch.float64, device=amax.device)
    return quantize_tensor(amax, own, scale=largest, rescale=False)


def _usable(scale: Tensor, amax: Tensor, own: Format) -> Tensor:
    return torch.where(amax > 0, scale.clamp(min=own.smallest_subnormal), torch.ones_like(scale))


def _least_squares(x: Tensor, amax: Tensor, layout: ScaleLayout, scaling: Scaling, fmt: Format, axis: int) -> Tensor:
    """Of the candidates the scale with the smallest sum of squared errors of finite elements; the first of equal ones."""
    best, least = torch.ones_like(amax), torch.full(amax.shape, torch.inf, dtype=torch.float64, device=x.device)
    finite = torch.where(torch.isfinite(x), x, torch.zeros_like(x)).double()
    for sixteenths in CANDIDATES:
        scale = _usable(_ratio(amax.double() * (sixteenths / 16), fmt, scaling.format).to(amax.dtype), amax, scaling.format)
        error = (quantize_tensor(finite, fmt, Projection(), scale, layout) - finite).square()
        total = _over_rows(_reduced(error, layout, torch.sum), scaling, axis, torch.sum)
        best = torch.where(total < least, scale.to(best.dtype), best)
        least = torch.minimum(total, least)
    return best


def _over_rows(found: Tensor, scaling: Scaling, axis: int, reduce: Callable[..., Tensor] = torch.amax) -> Tensor:
    """Of tiles: one number for all rows of a tile, written for each of the rows; groups along `axis` are reduced already."""
    if not isinstance(scaling.granularity, Tile) or found.dim() < 2 or scaling.granularity.tile[0] == 1:
        return found
    outer = -1 if axis % found.dim() == found.dim() - 2 else -2
    rows, count = scaling.granularity.tile[0], found.shape[outer]
    whole = torch.nn.functional.pad(found.movedim(outer, -1), (0, -count % rows))
    tiles = reduce(whole.reshape(*whole.shape[:-1], whole.shape[-1] // rows, rows), dim=-1)
    return tiles.repeat_interleave(rows, -1)[..., :count].movedim(-1, outer)


def magnitude_max(x: Tensor, layout: ScaleLayout = PER_TENSOR) -> Tensor:
    """The largest finite |x| for each scale of a layout, in float32 or float64; zero where there is none."""
    runs = _runs(x, layout)
    if runs and not torch.compiler.is_compiling() and unwatched(x):
        from hwsim.formats.backends.magnitude_cpu import largest_magnitudes

        found = largest_magnitudes(x, runs)
        return found.reshape(()) if layout.axis is None else found if layout.size is None else found.view(*x.shape[:-1], -1)
    amax = _magnitude_max(x, layout)
    # Under a transform nothing may depend on what a tensor holds: the other elements are always left out.
    if torch._C._are_functorch_transforms_active() or not bool(torch.isfinite(amax).all()):
        amax = _magnitude_max(torch.where(torch.isfinite(x), x, torch.zeros_like(x)), layout)
    return amax if amax.dtype is torch.float64 else amax.float()


def _runs(x: Tensor, layout: ScaleLayout) -> int:
    """How many equal runs of neighbours in memory have a scale each; 0 where scales do not lie so, and for other dtypes."""
    if not x.numel() or not x.is_contiguous() or x.dtype not in (torch.float32, torch.float64):
        return 0
    if layout.axis is None:
        return 1
    axis = layout.axis % x.ndim
    if layout.size is None:
        return x.shape[0] if axis == 0 else 0
    return x.numel() // layout.size if axis == x.ndim - 1 and x.shape[-1] % layout.size == 0 else 0


def _magnitude_max(x: Tensor, layout: ScaleLayout) -> Tensor:
    return _reduced(x, layout, _largest if x.numel() else torch.sum)


def _reduced(x: Tensor, layout: ScaleLayout, reduce: Callable[..., Tensor]) -> Tensor:
    """One number for each scale of a layout."""
    if layout.axis is None:
        return reduce(x)
    axis = layout.axis % x.ndim
    if layout.size is None:
        return reduce(x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x[:, None], dim=1)
    whole = x.movedim(axis, -1)
    padded = torch.nn.functional.pad(whole, (0, -x.shape[axis] % layout.size))
    groups = padded.shape[-1] // layout.size
    return reduce(padded.reshape(*padded.shape[:-1], groups, layout.size), dim=-1).movedim(-1, axis)


def _largest(x: Tensor, dim: int | None = None) -> Tensor:
    """The largest |x|, by passes that torch vectorises (its infinity norm takes five times as long)."""
    low, high = torch.aminmax(x) if dim is None else (x.amin(dim), x.amax(dim))
    return torch.maximum(high, -low)


def _power_of_two(amax: Tensor, largest: float) -> Tensor:
    """The smallest power of two s with amax / s <= largest, from the binary exponents themselves."""
    mantissa, exponent = torch.frexp(amax)
    limit, limit_exponent = torch.frexp(torch.full((), largest, dtype=amax.dtype, device=amax.device))
    return torch.ldexp(torch.ones_like(amax), exponent - limit_exponent + (mantissa > limit))


def _layout(scaling: Scaling, axis: int, x: Tensor) -> ScaleLayout:
    match scaling.granularity:
        case Channel(channel=channel):
            return ScaleLayout(channel)
        case Group(group=size):
            return ScaleLayout(axis, size)
        case Tile(tile=(_, size)):
            if x.dim() > 2 and axis % x.dim() < x.dim() - 2:
                raise ConfigError(f"tile: axis {axis} of a tensor of {x.dim()} axes; allowed: one of the last two")
            return ScaleLayout(axis, size)
        case _:
            return PER_TENSOR
