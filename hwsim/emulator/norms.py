"""Norms written out in the vector unit's steps, forward and backward.

Differences, products and quotients between steps are rounded to the carrier, in the order in which the formulas stand. Moments
are taken over each row of a matrix (R, K): for layer and RMS norm the last axes, for group norm the channels and positions of a
group, for batch norm the samples and positions of a channel, all in row-major order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .stepping import Stepping, carried


def layer_norm(
    unit: Stepping, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """((x - mean) rsqrt(variance + eps)) w + b, the moments over the last axes; and the two moments."""
    rows = carried(x).reshape(-1, _size(shape))
    mean, inverse = _moments(unit, rows, eps)[::2]
    y = _affine(_normal(rows, mean, inverse), weight, bias, (1, -1))
    kept = x.shape[: x.dim() - len(shape)] + (1,) * len(shape)
    return y.reshape(x.shape).to(x.dtype), mean.reshape(kept), inverse.reshape(kept)


def layer_norm_backward(
    unit: Stepping,
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """r ((g w - mean(g w)) - n mean(g w n)), sum g n, sum g; n the normalised input, r the inverse deviation."""
    size = _size(shape)
    rows, g = carried(x).reshape(-1, size), carried(grad).reshape(-1, size)
    normal = _normal(rows, mean.reshape(-1), inverse.reshape(-1))
    scaled = g if weight is None else g * carried(weight).reshape(1, -1)
    into = _centred(unit, scaled, normal, inverse.reshape(-1)).reshape(x.shape) if mask[0] else None
    own = unit.sum((g * normal).T).reshape(tuple(shape)) if mask[1] else None
    shift = unit.sum(g.T).reshape(tuple(shape)) if mask[2] else None
    return _typed(x, into, own, shift)


def rms_norm(unit: Stepping, x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    """(x rsqrt(mean x^2 + eps)) w over the last axes; and the inverse root."""
    rows = carried(x).reshape(-1, _size(shape))
    inverse = unit.rsqrt(unit.variance(unit.sum(rows * rows), rows.shape[1]), torch.finfo(x.dtype).eps if eps is None else eps)
    y = _affine(rows * inverse.unsqueeze(-1), weight, None, (1, -1))
    return y.reshape(x.shape).to(x.dtype), inverse.reshape(x.shape[: x.dim() - len(shape)] + (1,) * len(shape))


def rms_norm_backward(
    unit: Stepping,
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    inverse: Tensor,
    weight: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """r (g w - n mean(g w n)), sum g n; n = x r."""
    size = _size(shape)
    rows, g, r = carried(x).reshape(-1, size), carried(grad).reshape(-1, size), inverse.reshape(-1)
    normal = rows * r.unsqueeze(-1)
    scaled = g if weight is None else g * carried(weight).reshape(1, -1)
    mean = unit.mean(unit.sum(scaled * normal), size)
    into = ((scaled - normal * mean.unsqueeze(-1)) * r.unsqueeze(-1)).reshape(x.shape) if mask[0] else None
    return _typed(x, into, unit.sum((g * normal).T).reshape(tuple(shape)) if mask[1] else None)


def group_norm(
    unit: Stepping,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `layer_norm`, the moments over the channels and positions of a group, the weight a channel's."""
    rows = carried(x).reshape(samples * groups, -1)
    mean, inverse = _moments(unit, rows, eps)[::2]
    normal = _normal(rows, mean, inverse).reshape(samples, channels, positions)
    y = _affine(normal, weight, bias, (1, -1, 1))
    return y.reshape(x.shape).to(x.dtype), mean.reshape(samples, groups), inverse.reshape(samples, groups)


def group_norm_backward(
    unit: Stepping,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    samples: int,
    channels: int,
    positions: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """As `layer_norm_backward`, by group; a channel's sums run over samples and positions."""
    rows, g = carried(x).reshape(samples * groups, -1), carried(grad).reshape(samples, channels, positions)
    normal = _normal(rows, mean.reshape(-1), inverse.reshape(-1))
    scaled = (g if weight is None else g * carried(weight).reshape(1, -1, 1)).reshape(rows.shape)
    into = _centred(unit, scaled, normal, inverse.reshape(-1)).reshape(x.shape) if mask[0] else None
    product = g * normal.reshape(g.shape)
    own = unit.sum(_by_channel(product)) if mask[1] else None
    return _typed(x, into, own, unit.sum(_by_channel(g)) if mask[2] else None)


def batch_norm(
    unit: Stepping,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `layer_norm`, by channel over samples and positions; the running statistics become (1 - m) old + m new.

    The new variance is n / (n - 1) times the batch's. In evaluation the running statistics are the moments.
    """
    rows = _by_channel(carried(x))
    if training:
        mean, variance, inverse = _moments(unit, rows, eps)
        count = rows.shape[1]
        news = ((running_mean, mean), (running_variance, variance * (count / (count - 1) if count > 1 else float("nan"))))
        for old, new in news:
            if old is not None:
                old.copy_(carried(old) * (1 - momentum) + new * momentum)
    elif running_mean is None or running_variance is None:
        raise RuntimeError("batch norm in evaluation needs running statistics")
    else:
        mean, inverse = carried(running_mean), unit.rsqrt(carried(running_variance), eps)
    y = _affine(_normal(rows, mean, inverse), weight, bias, (-1, 1))
    saved = (mean, inverse) if training else (x.new_zeros(0), x.new_zeros(0))
    return _from_channels(y, x), *saved


def batch_norm_backward(
    unit: Stepping,
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """As `layer_norm_backward`, by channel; in evaluation (g w) r."""
    rows, g = _by_channel(carried(x)), _by_channel(carried(grad))
    if not training and running_mean is not None and running_variance is not None:
        mean, inverse = carried(running_mean), unit.rsqrt(carried(running_variance), eps)
    if mean is None or inverse is None:
        raise RuntimeError("the backward pass of batch norm needs the statistics of its forward pass")
    normal = _normal(rows, mean, inverse)
    scaled = g if weight is None else g * carried(weight).reshape(-1, 1)
    into = None
    if mask[0]:
        into = _centred(unit, scaled, normal, inverse) if training else scaled * inverse.unsqueeze(-1)
        into = _from_channels(into, x)
    own = unit.sum(g * normal) if mask[1] else None
    return _typed(x, into, own, unit.sum(g) if mask[2] else None)


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _moments(unit: Stepping, rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and inverse deviation of each row of (R, K)."""
    count = rows.shape[1]
    average = unit.mean(unit.sum(rows), count)
    deviation = rows - average.unsqueeze(-1)
    variance = unit.variance(unit.sum(deviation * deviation), count)
    return average, variance, unit.rsqrt(variance, eps)


def _normal(rows: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    return (rows - mean.unsqueeze(-1)) * inverse.unsqueeze(-1)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * carried(weight).reshape(shape)
    return x if bias is None else x + carried(bias).reshape(shape)


def _centred(unit: Stepping, g: Tensor, normal: Tensor, inverse: Tensor) -> Tensor:
    count = g.shape[1]
    average = unit.mean(unit.sum(g), count).unsqueeze(-1)
    slope = unit.mean(unit.sum(g * normal), count).unsqueeze(-1)
    return ((g - average) - normal * slope) * inverse.unsqueeze(-1)


def _by_channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _from_channels(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).to(x.dtype, memory_format=torch.contiguous_format)


def _typed(like: Tensor, *results: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.to(like.dtype) for x in results)
