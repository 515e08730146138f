"""Learned step size quantization."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from hwsim.errors import ConfigError

from .level_quantizers import check_bits
from .through import round_through, scale_gradient, sign_through


class LSQ(nn.Module):
    """round(clamp(v / s, low, high)) s with a learned s; ties to even, NaN stays.

    ds is round(v/s) - v/s inside and low or high outside, times 1 / sqrt(elements * high). s starts at
    2 mean |v| / sqrt(high) of the tensor that the module is made for, and is kept positive by its absolute value.

    Without zero the one bit is sgn(v) s, sgn(0) = 1, with the sign in place of the rounding in both gradients; s starts at
    mean |v|, the step of least squared error.

    Args:
        like: the first tensor, whose mean and size set s and the gradient's factor.
        bits: 1..8.
        signed: low = -2^(bits-1), high = 2^(bits-1) - 1 (1 bit: -1 and 1); else 0 and 2^bits - 1.
        zero: whether 0 is among the values; False with 1 signed bit only, whose values are then -s and s.

    Raises:
        ConfigError: bits outside 1..8, or values without zero that are not those of one signed bit.

    Source: Esser et al. 2020 (arXiv 1902.08153), equations 1 to 3 and section 2.2.
    """

    def __init__(self, like: torch.Tensor, bits: int, signed: bool = True, zero: bool = True) -> None:
        super().__init__()
        check_bits("LSQ", bits, 1, 8)
        if not zero and not (signed and bits == 1):
            given = f"{bits} {'signed' if signed else 'unsigned'} bits"
            raise ConfigError(f"LSQ without zero: got {given}; allowed: 1 signed bit")
        self.zero = zero
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = max(2 ** (bits - 1) - 1, 1) if signed else 2**bits - 1
        self.factor = 1 / sqrt(like.numel() * self.high)
        mean = like.detach().abs().mean()
        start = 2 * mean / sqrt(self.high) if zero else mean
        self.step = nn.Parameter(start.clamp(min=torch.finfo(like.dtype).eps))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        """The quantized tensor."""
        s = scale_gradient(self._positive_step(), self.factor)
        clipped = (v / s).clamp(self.low, self.high)
        return (round_through(clipped) if self.zero else sign_through(clipped)) * s

    def levels(self) -> torch.Tensor:
        """All values that a quantized tensor may have, ascending."""
        s = self._positive_step()
        return torch.arange(self.low, self.high + 1, 1 if self.zero else 2, dtype=s.dtype, device=s.device) * s

    def _positive_step(self) -> torch.Tensor:
        return self.step.abs().clamp(min=torch.finfo(self.step.dtype).eps)
