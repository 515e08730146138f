"""Adaptive rounding: which of its two neighbours each weight takes, learned from a layer's outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hwsim.errors import ConfigError


class AdaRound(nn.Module):
    """s clamp(floor(w/s) + h(V), low, high), h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1), V learned; it starts at the weight itself.

    Args:
        weight: the trained weight.
        scale: s > 0, broadcast against the weight.
        low, high: the integers' range.

    Source: Nagel et al. 2020 (arXiv 2004.10568), equations 21 to 25.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> None:
        super().__init__()
        if not bool((scale > 0).all()):
            raise ConfigError("AdaRound scale: got a value that is not above 0; allowed: positive scales")
        self.low, self.high = low, high
        quotient = weight.detach() / scale
        self.scale, self.floor = scale, quotient.floor()
        # h has the fraction as its value where sigmoid(V) = (fraction + 0.1) / 1.2.
        self.v = nn.Parameter(torch.logit((quotient - self.floor + 0.1) / 1.2))

    def h(self) -> torch.Tensor:
        """How far each weight is rounded up, 0..1."""
        return (1.2 * torch.sigmoid(self.v) - 0.1).clamp(0, 1)

    def forward(self) -> torch.Tensor:
        """The softly rounded weight."""
        return (self.floor + self.h()).clamp(self.low, self.high) * self.scale

    def rounded(self) -> torch.Tensor:
        """The deployed weight: up where V >= 0."""
        return (self.floor + (self.v.detach() >= 0)).clamp(self.low, self.high) * self.scale

    def penalty(self, beta: float) -> torch.Tensor:
        """sum 1 - |2h - 1|^beta, which draws h to 0 or 1."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()


def fit_rounding(
    rounding: AdaRound,
    layer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    *,
    iterations: int = 1000,
    batch: int = 32,
    lr: float = 1e-2,
    strength: float = 0.01,
    warmup: float = 0.2,
    seed: int = 0,
) -> torch.Tensor:
    """Learn V so that layer(inputs, weight) stays near `outputs`; returns the deployed weight.

    Minimises the squared error (a sample's sum, the batch's mean) + strength * penalty(beta); the penalty begins after the
    share `warmup` of the iterations, beta falls linearly from 20 to 2 over the rest.
    """
    optimizer = torch.optim.Adam([rounding.v], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for iteration in range(iterations):
        chosen = torch.randint(len(inputs), (batch,), generator=generator)
        error = (layer(inputs[chosen], rounding()) - outputs[chosen]).square().flatten(1).sum(1).mean()
        progress = (iteration / iterations - warmup) / (1 - warmup)
        loss = error + (strength * rounding.penalty(20 - 18 * progress) if progress >= 0 else 0.0)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return rounding.rounded()
