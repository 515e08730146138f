"""Parameterized clipping activation."""

from __future__ import annotations

import torch
from torch import nn

from .level_quantizers import check_bits
from .through import round_through


class PACT(nn.Module):
    """round(min(max(x, 0), alpha) / s) s, s = alpha / (2^bits - 1), with a learned alpha; ties to even, NaN stays.

    The gradient of alpha is the sum of the output's gradients where x >= alpha. An L2 penalty on alpha is the optimizer's
    weight decay.

    Source: Choi et al. 2018 (arXiv 1805.06085), equations 1 to 3.
    """

    def __init__(self, bits: int, alpha: float = 6.0) -> None:
        super().__init__()
        check_bits("PACT", bits, 1, 8)
        self.top = 2**bits - 1
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantized activations."""
        clipped = torch.where(x >= self.alpha, self.alpha, x.clamp(min=0))
        scale = (self.alpha / self.top).detach()
        quantized: torch.Tensor = round_through(clipped / scale) * scale
        return quantized
