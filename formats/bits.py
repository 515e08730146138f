"""float64 tensors as integer significands and exponents."""

from __future__ import annotations

import torch
from torch import Tensor

DIGITS = 53


def significand(x: Tensor) -> tuple[Tensor, Tensor]:
    """(m, q), int64, with x = m 2^q and m of 53 bits, for positive finite x in float64."""
    fraction, exponent = torch.frexp(x)
    return (fraction * 2.0**DIGITS).to(torch.int64), exponent.to(torch.int64) - DIGITS


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64: exact from 2^-1074 to 2^1023, infinite above."""
    normal = ((exponent + 1023).clamp(1, 2047) << 52).view(torch.float64)
    subnormal = (1 << (exponent + 1074).clamp(0, 51)).view(torch.float64)
    return torch.where(exponent < -1022, subnormal, normal)
