"""How the loss after an optimizer's step depends on the gradients that the step reads, and on what its unit stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.emulator.ports import Converter
from hwsim.formats.errors import NanError

from .twins import DRAW_STRIDE, Twin

GRADIENT_STEP = 1e-3


@dataclass(frozen=True)
class Update:
    """The step that the twin takes, parameter by parameter.

    Args:
        names: of the parameters.
        gradients: that the optimizer reads; zeros where there are none.
        weights: after the step.
        slopes: the gradient of the loss after the step; None where the parameter does not train.
    """

    names: tuple[str, ...]
    gradients: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    slopes: tuple[Tensor | None, ...]


def update_of(twin: Twin, seed: int) -> Update:
    """The gradients of the twin's step, and those of the loss after it."""
    model, optimizer = twin.copies()
    parameters = list(model.parameters())
    torch.manual_seed(seed)
    optimizer.zero_grad()
    twin.loss(model).backward()  # type: ignore[no-untyped-call]
    gradients = tuple(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters)
    optimizer.step()
    torch.manual_seed(seed)
    found = iter(torch.autograd.grad(twin.loss(model), [p for p in parameters if p.requires_grad], allow_unused=True))
    slopes = tuple(next(found) if p.requires_grad else None for p in parameters)
    names, weights = tuple(name for name, _ in model.named_parameters()), tuple(p.detach() for p in parameters)
    return Update(names, gradients, weights, slopes)


def update_direction(twin: Twin, update: Update) -> list[Tensor]:
    """The gradient of the loss after the step, times the derivative of each updated weight by its gradient."""
    steps = [GRADIENT_STEP * (g.abs() + g.square().mean().sqrt()) for g in update.gradients]
    jacobians = _update_jacobians(twin, update.gradients, steps)
    return [j * slope if slope is not None else torch.zeros_like(j) for j, slope in zip(jacobians, update.slopes, strict=True)]


def unit_changes(
    twin: Twin, machine: Datapath, update: Update, converters: Mapping[str, Converter], seed: int, draw: int
) -> dict[str, float]:
    """By parameter, what some casts of the optimizer unit change: <gradient of the loss after the step, change of the weight>.

    Empty where a NaN meets a format that has none.
    """
    cast = _stepped(twin, machine, update, converters, seed, draw)
    if cast is None:
        return {}
    ends = zip(update.names, update.slopes, update.weights, cast, strict=True)
    return {name: float((slope * (b - a)).sum()) if slope is not None else 0.0 for name, slope, a, b in ends}


def _stepped(
    twin: Twin, machine: Datapath, update: Update, converters: Mapping[str, Converter], seed: int, draw: int
) -> list[Tensor] | None:
    """The weights after the optimizer's step on the twin's gradients, with some casts."""
    model, optimizer = twin.copies()
    try:
        with emulate(model, machine, optimizer, seed + draw * DRAW_STRIDE, converters=converters) as ran:
            factor = ran.state_dict()["loss_scaling"]["factor"]
            trained = [(p, g * factor) for p, g in zip(model.parameters(), update.gradients, strict=True) if p.requires_grad]
            optimizer.zero_grad()
            torch.autograd.backward([p for p, _ in trained], [g for _, g in trained])
            optimizer.step()
    except NanError:
        return None
    return [p.detach() for p in model.parameters()]


def _update_jacobians(twin: Twin, gradients: Sequence[Tensor], steps: Sequence[Tensor]) -> list[Tensor]:
    """d weight / d gradient of an optimizer that acts element by element, by central differences."""
    ends = [_updated(twin, [g + sign * h for g, h in zip(gradients, steps, strict=True)]) for sign in (1, -1)]
    return [torch.where(h > 0, (a - b) / (2 * h), 0.0) for a, b, h in zip(*ends, steps, strict=True)]


def _updated(twin: Twin, gradients: Sequence[Tensor]) -> list[Tensor]:
    model, optimizer = twin.copies()
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g if p.requires_grad else None
    optimizer.step()
    return [p.detach() for p in model.parameters()]
