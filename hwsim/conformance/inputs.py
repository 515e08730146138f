"""What roundings are compared on: every half-precision number, and every binade with every kind of cut."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

LAYOUTS = {torch.float32: (23, 8, torch.int32), torch.float64: (52, 11, torch.int64)}
"""Fraction bits, exponent bits and the integer dtype of the same width."""


@cache
def half_precision() -> Tensor:
    """The value of every float16 and of every bfloat16 code, as float32, NaN and infinities included."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    return torch.cat([codes.view(torch.float16).float(), codes.view(torch.bfloat16).float()])


@cache
def structured(dtype: torch.dtype, mantissa_bits: int) -> Tensor:
    """Every sign and exponent of a dtype times the patterns of the bits that rounding to `mantissa_bits` cuts off.

    The kept bits are the first and the last of a binade and two neighbours that differ in their last bit; the cut bits are none,
    the smallest, around the tie (one less, the tie, one more) and all; for subnormal results the tie moves into the kept
    bits, so every single bit of the fraction is set once too, alone and with the last bit.

    Args:
        dtype: float32 or float64.
        mantissa_bits: the fraction bits of the format that is rounded to.
    """
    fraction_bits, exponent_bits, integer = LAYOUTS[dtype]
    cut = max(fraction_bits - mantissa_bits, 0)
    kept = sorted({k & ((1 << fraction_bits) - 1) for k in (0, 1 << cut, 2 << cut, -1 << cut)})
    half = (1 << cut) >> 1
    tails = sorted({t for t in (0, 1, half - 1, half, half + 1, (1 << cut) - 1) if 0 <= t < 1 << cut})
    fractions = {k + t for k in kept for t in tails} | {1 << b for b in range(fraction_bits)}
    fractions |= {1 << b | 1 for b in range(fraction_bits)}
    fraction = torch.tensor(sorted(fractions), dtype=torch.int64)
    exponent = torch.arange(1 << exponent_bits, dtype=torch.int64) << fraction_bits
    magnitude = (exponent[:, None] + fraction).flatten()
    sign = -(1 << (fraction_bits + exponent_bits))
    return torch.cat([magnitude, magnitude + sign]).to(integer).view(dtype)


def inputs(mantissa_bits: int) -> dict[str, Tensor]:
    """All of these by name, for a format of so many fraction bits."""
    return {
        "fp16 and bf16": half_precision(),
        "float32": structured(torch.float32, mantissa_bits),
        "float64": structured(torch.float64, mantissa_bits),
    }
