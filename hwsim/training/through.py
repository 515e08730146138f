"""The straight-through estimator as an operation."""

from __future__ import annotations

from typing import Any

import torch


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        # torch's own sign has 0 for 0 and for NaN.
        return x.clamp(-1, 0.5).floor().mul(2).add(1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Nearest integer, ties to even; the gradient passes unchanged."""
    return _Round.apply(x)  # type: ignore[no-any-return]


def sign_through(x: torch.Tensor) -> torch.Tensor:
    """-1 below 0, else 1, NaN stays; the gradient passes unchanged."""
    return _Sign.apply(x)  # type: ignore[no-any-return]


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """x itself; the gradient is multiplied by a factor."""
    return x.detach() + (x - x.detach()) * factor
