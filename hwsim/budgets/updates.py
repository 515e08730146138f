"""How the loss after an optimizer's step depends on the gradients that the step reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .twins import Twin

GRADIENT_STEP = 1e-3


def update_direction(twin: Twin, seed: int) -> list[Tensor]:
    """The gradient of the loss after the step, times the derivative of each updated weight by its gradient."""
    model, optimizer = twin.copies()
    parameters = list(model.parameters())
    torch.manual_seed(seed)
    optimizer.zero_grad()
    twin.loss(model).backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    steps = [GRADIENT_STEP * (g.abs() + g.square().mean().sqrt()) for g in gradients]
    jacobians = _update_jacobians(twin, gradients, steps)
    optimizer.step()
    torch.manual_seed(seed)
    after = torch.autograd.grad(twin.loss(model), [p for p in parameters if p.requires_grad], allow_unused=True)
    found = iter(after)
    slopes = [next(found) if p.requires_grad else None for p in parameters]
    return [j * slope if slope is not None else torch.zeros_like(j) for j, slope in zip(jacobians, slopes, strict=True)]


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
