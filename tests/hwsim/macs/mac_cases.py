"""Operands that the tests of dot-product units share."""

from __future__ import annotations

import torch

from hwsim.fields import format_record

SPECIAL = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 1e-40, -1e-42, 3e38, -3e38, 65504.0])


def bits(x: torch.Tensor) -> torch.Tensor:
    """The codes of floats, for exact comparison."""
    return x.view(torch.int64 if x.dtype == torch.float64 else torch.int32)


def operands(seed: int, shape: tuple[int, ...] = (2, 7)) -> torch.Tensor:
    """float32 over many binades, a tenth of it special values; every other seed values of FP8."""
    rng = torch.Generator().manual_seed(seed)
    if seed % 2:
        values = format_record("fp8_e4m3fn").values()
        return values[torch.randint(len(values), shape, generator=rng)]
    x = torch.randn(shape, generator=rng) * (20 * torch.randn(shape, generator=rng)).exp2()
    return torch.where(torch.rand(shape, generator=rng) < 0.1, SPECIAL[torch.randint(len(SPECIAL), shape, generator=rng)], x)
