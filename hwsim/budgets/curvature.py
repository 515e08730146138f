"""Random cotangents of a model's outputs whose covariance is the Hessian of the loss there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-3
Cotangents = Callable[[torch.Generator], Tensor]


def root_of_hessian(loss_of: Callable[[Tensor], Tensor], outputs: Tensor, targets: Any) -> Cotangents | None:
    """A function that draws c with E[c c^T] = d2 loss / d outputs2; None where the loss is not known to have one.

    Softmax cross-entropy of class numbers: c = sqrt(w) (p - onehot(y)) with y drawn from p, w being the weight of the term in
    the loss (Fisher information = Gauss-Newton). A loss of real-valued targets is taken to act element by element:
    c = sqrt(d2 loss) N(0, 1).

    Args:
        loss_of: outputs -> the loss of the batch.
        outputs: the model's.
        targets: class numbers or real values.
    """
    if not isinstance(targets, Tensor):
        return None
    z = outputs.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(z), z, create_graph=True)
    if targets.is_floating_point():
        return _elementwise(gradient, z) if gradient.requires_grad else None
    axis = class_axis(outputs, targets)
    return None if axis is None else _softmax(outputs.detach(), gradient.detach(), targets, axis)


def _elementwise(gradient: Tensor, z: Tensor) -> Cotangents:
    (diagonal,) = torch.autograd.grad(gradient.sum(), z)
    root = diagonal.clamp(min=0).sqrt()
    return lambda generator: root * torch.randn(root.shape, generator=generator, dtype=root.dtype).to(root.device)


def class_axis(outputs: Tensor, targets: Tensor) -> int | None:
    """Along which axis of the scores the classes of class numbers lie; None where the shapes do not fit."""
    if outputs.dim() and outputs.shape[:-1].numel() == targets.numel():
        return -1
    return 1 if outputs.dim() > 1 and (*outputs.shape[:1], *outputs.shape[2:]) == tuple(targets.shape) else None


def _softmax(outputs: Tensor, gradient: Tensor, targets: Tensor, axis: int) -> Cotangents | None:
    """The weight of each term is found from the gradient; None where that is not a softmax cross-entropy's."""
    z, g = (t.movedim(axis, -1).reshape(-1, outputs.shape[axis]) for t in (outputs, gradient))
    labels = targets.reshape(-1, 1)
    p = z.softmax(-1)
    residual = p.scatter_add(1, labels.clamp(min=0), -torch.ones_like(p[:, :1]))
    weight = (g * residual).sum(1, keepdim=True) / residual.square().sum(1, keepdim=True).clamp(min=1e-30)
    if float((g - weight * residual).norm()) > TOLERANCE * float(g.norm()):
        return None
    root = weight.clamp(min=0).sqrt()
    moved = outputs.movedim(axis, -1).shape

    def draw(generator: torch.Generator) -> Tensor:
        drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(p.device)
        c = root * p.scatter_add(1, drawn, -torch.ones_like(p[:, :1]))
        return c.reshape(moved).movedim(-1, axis)

    return draw
