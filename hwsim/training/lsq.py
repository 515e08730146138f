"""Learned step size quantization."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from .level_quantizers import check_bits
from .through import round_through, scale_gradient


class LSQ(nn.Module):
    """round(clamp(v / s, low, high)) s with a learned s; ties to even, NaN stays.

    ds is round(v/s) - v/s inside and low or high outside, times 1 / sqrt(elements * high). s starts at
    2 mean |v| / sqrt(high) of the tensor that the module is made for, and is kept positive by its absolute value.

    Args:
        like: the first tensor, whose mean and size set s and the gradient's factor.
        bits: 1..8.
        signed: low = -2^(bits-1), high = 2^(bits-1) - 1 (1 bit: -1 and 1); else 0 and 2^bits - 1.

    Source: Esser et al. 2020 (arXiv 1902.08153), equations 1 to 3 and section 2.2.
    """

    def __init__(self, like: torch.Tensor, bits: int, signed: bool = True) -> None:
        super().__init__()
        check_bits("LSQ", bits, 1, 8)
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = max(2 ** (bits - 1) - 1, 1) if signed else 2**bits - 1
        self.factor = 1 / sqrt(like.numel() * self.high)
        start = 2 * like.detach().abs().mean() / sqrt(self.high)
        self.step = nn.Parameter(start.clamp(min=torch.finfo(like.dtype).eps))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        """The quantized tensor."""
        s = scale_gradient(self._positive_step(), self.factor)
        return round_through((v / s).clamp(self.low, self.high)) * s

    def levels(self) -> torch.Tensor:
        """All values that a quantized tensor may have, ascending."""
        s = self._positive_step()
        return torch.arange(self.low, self.high + 1, dtype=s.dtype, device=s.device) * s

    def _positive_step(self) -> torch.Tensor:
        return self.step.abs().clamp(min=torch.finfo(self.step.dtype).eps)
