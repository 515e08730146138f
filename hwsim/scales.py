"""Scales that a run keeps: each rule is a few pure functions on its state."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from hwsim.casts import Cast, Channel, Scaling
from hwsim.errors import ConfigError
from hwsim.formats import Format
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout
from hwsim.scaling import magnitude_max

ALPHA = 6.0


class Delayed(NamedTuple):
    """What delayed scaling keeps: the amaxes of the window's steps, this one's first, and the scale that they gave."""

    history: Tensor
    scale: Tensor


def delayed_start(scaling: Scaling, device: torch.device) -> Delayed:
    """An empty history, and scale 1."""
    return Delayed(torch.zeros(scaling.window, device=device), torch.ones((), dtype=scaling.format.carrier, device=device))


def delayed_seen(state: Delayed, x: Tensor) -> Delayed:
    """After a tensor of this step: the largest |x| of the step so far stands first."""
    history = state.history.clone()
    history[0] = torch.maximum(history[0], magnitude_max(x).to(history.dtype))
    return state._replace(history=history)


def delayed_next(state: Delayed, scaling: Scaling, fmt: Format) -> Delayed:
    """For the next step: s = 2^margin amax / max, amax the window's largest, rounded to the scale's format; the history moves on.

    Kept where amax is zero.
    """
    amax = state.history.amax()
    ratio = amax.double() * 2.0**scaling.margin / fmt.max
    found = quantize_tensor(ratio, scaling.format).to(state.scale.dtype).clamp(min=scaling.format.smallest_subnormal)
    history = state.history.roll(1)
    history[0] = 0
    return Delayed(history, torch.where(amax > 0, found, state.scale))


def trained_start(cast: Cast, x: Tensor) -> Tensor:
    """The first value of a scale that trains: 2 mean |x| / sqrt(max) of a tensor or channel (`learned`), alpha (`pact`)."""
    scaling = _scaling(cast)
    if scaling.rule == "pact":
        return torch.full((), scaling.value or ALPHA, device=x.device)
    return (2 * _mean(x.detach().abs().float(), layout_of(scaling)) / sqrt(cast.format.max)).clamp(min=_least(x))


def trained_scale(cast: Cast, parameter: Tensor) -> Tensor:
    """The scale that the parameter stands for: its absolute value, kept above zero; of `pact` over the format's largest value."""
    positive = parameter.detach().abs().clamp(min=_least(parameter))
    return positive / cast.format.max if _scaling(cast).rule == "pact" else positive


def first_scale(cast: Cast, x: Tensor) -> Tensor | None:
    """The scale with which a run that keeps it casts its first tensor; None where it keeps none."""
    if not cast.kept:
        return None
    scaling = _scaling(cast)
    return trained_scale(cast, trained_start(cast, x)) if scaling.trains else delayed_start(scaling, x.device).scale


def gradients(cast: Cast, x: Tensor, grad: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The gradient of x, and that of the scale's parameter where it has one, given that of the cast's result.

    With v = x / s: where low <= v <= high the gradient of x passes, elsewhere it is zero; that of s is, `learned`,
    round(v) - v inside, low or high outside, over sqrt(elements a scale * high); that of alpha, `pact`, 1 where v >= high.
    `dorefa` multiplies by (1 - tanh(x)^2) / max |tanh(x)|.
    """
    if cast.scaling is not None and cast.scaling.rule == "dorefa":
        t = torch.tanh(x)
        return grad * (1 - t.square()) / t.abs().max(), None
    low, high = cast.format.min, cast.format.max
    layout = PER_TENSOR if cast.scaling is None else layout_of(cast.scaling)
    v = x if scale is None else x / _spread(scale, layout, x)
    passed = torch.where((v >= low) & (v <= high), grad, torch.zeros_like(grad))
    if cast.scaling is None or not cast.scaling.trains:
        return passed, None
    if cast.scaling.rule == "pact":
        return torch.where(v < high, passed, torch.zeros_like(grad)), (grad * (v >= high)).sum()
    rounded = quantize_tensor(v.detach(), cast.format, cast.projection)
    step = torch.where((v >= low) & (v <= high), rounded - v, v.clamp(low, high))
    total = _total(grad * step, layout)
    return passed, total / sqrt(x.numel() / total.numel() * high)


def layout_of(scaling: Scaling) -> ScaleLayout:
    """One scale a tensor, or one a channel."""
    granularity = scaling.granularity
    return ScaleLayout(granularity.channel) if isinstance(granularity, Channel) else PER_TENSOR


def _spread(scale: Tensor, layout: ScaleLayout, x: Tensor) -> Tensor:
    if layout.axis is None:
        return scale
    return scale.reshape([-1 if a == layout.axis % x.dim() else 1 for a in range(x.dim())])


def _total(x: Tensor, layout: ScaleLayout) -> Tensor:
    return x.sum() if layout.axis is None else x.movedim(layout.axis, 0).flatten(1).sum(1)


def _mean(x: Tensor, layout: ScaleLayout) -> Tensor:
    return x.mean() if layout.axis is None else x.movedim(layout.axis, 0).flatten(1).mean(1)


def _least(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps)


def _scaling(cast: Cast) -> Scaling:
    if cast.scaling is None:
        raise ConfigError(f"scaling: {cast} has none")
    return cast.scaling
