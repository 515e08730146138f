"""Operations of the vector unit written out in its steps: softmax, log-softmax, losses, sums and means; norms are next door.

Differences, products and quotients between steps are rounded to the carrier, in the order in which the formulas stand. Sums run
in row-major order of the axes that they are over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from .norms import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from .operations import LOSSES, SUMMING, plain_name
from .stepping import Stepping, carried

SQUARE = "hwsim_square"
NONE, MEAN = 0, 1
"""Values of the losses' argument `reduction`; 2 is the sum."""
Opened = Callable[..., Any]


def softmax(unit: Stepping, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """exp(x - max x) / sum exp(x - max x)."""
    e = unit.exp(_shifted(x, dim))
    return _back(e / unit.sum(e).unsqueeze(-1), x, dim)


def safe_softmax(unit: Stepping, x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """`softmax`; zeros where all of x is minus infinity."""
    masked = (x == float("-inf")).all(dim, keepdim=True)
    return softmax(unit, x, dim).masked_fill_(masked, 0.0)


def softmax_backward(unit: Stepping, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """(g - sum g y) y."""
    g, p = _rows(grad, dim), _rows(y, dim)
    return _back((g - unit.sum(g * p).unsqueeze(-1)) * p, y, dim)


def log_softmax(unit: Stepping, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """(x - max x) - log sum exp(x - max x)."""
    d = _shifted(x, dim)
    return _back(d - unit.log(unit.sum(unit.exp(d))).unsqueeze(-1), x, dim)


def log_softmax_backward(unit: Stepping, grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """g - exp(y) sum g."""
    g = _rows(grad, dim)
    return _back(g - unit.exp(_rows(y, dim)) * unit.sum(g).unsqueeze(-1), y, dim)


def nll_loss(
    unit: Stepping, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The sum of -w x over the targets, for a mean divided by the sum of w; ignored targets count as zeros of both sums."""
    classes = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.dim() > 1 else x.unsqueeze(0)
    rows, labels = carried(classes), target.reshape(-1)
    counted = labels != ignore_index
    labels = torch.where(counted, labels, 0)
    w = (rows.new_ones(len(labels)) if weight is None else carried(weight)[labels]) * counted
    terms = torch.where(counted, -rows.gather(1, labels.unsqueeze(1)).squeeze(1), 0.0) * w
    if reduction == NONE:
        return terms.reshape(target.shape).to(x.dtype), x.new_zeros(())
    total, whole = unit.sum(terms), unit.sum(w)
    return (unit.mean(total, whole.double()) if reduction == MEAN else total).to(x.dtype), whole.to(x.dtype)


def total(unit: Stepping, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """The sum over some axes, or over all."""
    return _reduced(x, dim, keepdim, dtype, lambda rows: unit.sum(rows))


def mean(unit: Stepping, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """The sum over some axes, or over all, divided by the number of elements; of squares it is the step `variance`."""
    step = unit.variance if is_square(x) else unit.mean
    return _reduced(x, dim, keepdim, dtype, lambda rows: step(unit.sum(rows), rows.shape[-1]))


def rsqrt(unit: Stepping, x: Tensor) -> Tensor:
    """1 / sqrt(x), where a norm is written out in operations."""
    return unit.rsqrt(carried(x), 0.0).to(x.dtype)


def squares(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation squares its operand."""
    return (name == "pow" and isinstance(args[1], int | float) and args[1] == 2) or (name == "mul" and args[0] is args[1])


def note_square(x: Tensor, made: bool) -> None:
    """Note on a tensor's storage whether its numbers are squares, as those that an RMS norm takes the mean of."""
    storage = x.untyped_storage()
    if made:
        setattr(storage, SQUARE, True)
    elif hasattr(storage, SQUARE):
        delattr(storage, SQUARE)


def is_square(x: Tensor) -> bool:
    """Whether the numbers of a tensor were noted as squares."""
    return hasattr(x.untyped_storage(), SQUARE)


OPENED: Mapping[str, Opened] = {
    "_softmax": softmax,
    "_safe_softmax": safe_softmax,
    "_softmax_backward_data": softmax_backward,
    "_log_softmax": log_softmax,
    "_log_softmax_backward_data": log_softmax_backward,
    "nll_loss_forward": nll_loss,
    "nll_loss2d_forward": nll_loss,
    "native_layer_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward,
    "_fused_rms_norm": rms_norm,
    "_fused_rms_norm_backward": rms_norm_backward,
    "native_group_norm": group_norm,
    "native_group_norm_backward": group_norm_backward,
    "native_batch_norm": batch_norm,
    "native_batch_norm_backward": batch_norm_backward,
    "sum": total,
    "mean": mean,
    "rsqrt": rsqrt,
}
"""Operations by name in the tables; their arguments are those of the ATen operation, after the unit."""

STATISTICS = frozenset({"native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm"})
"""Operations whose results but the first are steps, handed to the backward pass as they are."""


def opened(name: str, func: OpOverload) -> Opened | None:
    """How an operation runs in steps, or None where it has none or is not written out."""
    if name in LOSSES:
        place = next(i for i, argument in enumerate(func._schema.arguments) if argument.name == "reduction")
        return lambda unit, *args, **kwargs: _loss(unit, func, place, list(args), kwargs)
    return OPENED.get(name)


def native_steps(op: str, steps: Stepping | None) -> str:
    """Why steps inside an operation of the vector unit are torch's own, or nothing."""
    name = plain_name(op)
    if name in SUMMING:
        return "it sums inside by torch's own kernel, which the vector unit's steps do not reach"
    if name not in OPENED and name not in LOSSES:
        return ""
    if steps is None:
        return "the datapath declares no steps of the vector unit: they are torch's own, in the carrier"
    return "" if steps.declared.sum is not None else "the datapath declares no `sum`: the order of its sums is torch's own"


def _loss(unit: Stepping, func: OpOverload, place: int, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """A loss without its reduction, then the unit's sum or mean."""
    reduction = args[place] if place < len(args) else kwargs.pop("reduction", MEAN)
    args[place:] = [NONE, *args[place + 1 :]]
    terms: Tensor = func(*args, **kwargs)
    if reduction == NONE:
        return terms
    return mean(unit, terms) if reduction == MEAN else total(unit, terms)


def _rows(x: Tensor, dim: int) -> Tensor:
    return carried(x).movedim(dim, -1) if x.dim() else carried(x).reshape(1)


def _back(rows: Tensor, x: Tensor, dim: int) -> Tensor:
    return (rows.movedim(-1, dim).contiguous() if x.dim() else rows.reshape(())).to(x.dtype)


def _shifted(x: Tensor, dim: int) -> Tensor:
    rows = _rows(x, dim)
    return rows - rows.amax(-1, keepdim=True)


def _reduced(x: Tensor, dim: Any, keepdim: bool, dtype: torch.dtype | None, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    axes = sorted(a % x.dim() for a in ([dim] if isinstance(dim, int) else dim or range(x.dim()))) if x.dim() else []
    kept = [a for a in range(x.dim()) if a not in axes]
    rows = carried(x if dtype is None else x.to(dtype)).permute(kept + axes).reshape(*(x.shape[a] for a in kept), -1)
    result = reduce(rows).to(dtype or x.dtype)
    return result.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdim else result
