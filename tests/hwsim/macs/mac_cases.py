"""Operands that the tests of dot-product units share."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import torch

from hwsim.fields import format_record
from hwsim.macs import Scaled

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


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


SMALL = {"order": "sequential", "product": {"format": "fp4_e2m1fn"}, "accumulator": {"format": "fp32"}}
SCALED = SMALL | {"scales": {"block": 2, "format": "fp32"}}
INNER = {"order": "sequential", "accumulator": {"format": "int16"}, "promote": {"every": 2, "into": "fp32"}}
PROMOTED = INNER | {"scales": {"block": 2, "format": "fp32", "applied": "promotion"}}
GROUPS = {
    "order": "fused(2, 13)",
    "accumulator": {"format": {"kind": "float", "exponent_bits": 5, "mantissa_bits": 4, "specials": "finite"}},
    "promote": {"every": 2, "into": "fp32"},
}

NANS: dict[str, tuple[dict[str, Any], Any, Any, float | None, float | str]] = {
    "C is NaN beside rounded products": (SMALL, row(1, 2), column(3, 4), nan, nan),
    "C is NaN beside a product that saturates": (SMALL, row(inf, 2), column(3, 4), nan, nan),
    "a product saturates": (SMALL, row(inf, 2), column(3, 1), 1.0, 9.0),
    "an operand is NaN": (SMALL, row(nan, 2), column(3, 4), 1.0, "float(e2m1, finite)"),
    "a weight is NaN and C too": (SMALL, row(1, 2), column(3, nan), nan, "float(e2m1, finite)"),
    "infinity meets zero": (SMALL, row(inf, 2), column(0, 4), None, "float(e2m1, finite)"),
    "zero meets infinity": (SMALL, row(1, 0), column(3, -inf), None, "float(e2m1, finite)"),
    "a flushed number meets infinity": (
        SMALL | {"flush_inputs": "signed"},
        row(1, 1e-40),
        column(3, inf),
        None,
        "float(e2m1, finite)",
    ),
    "a scale is infinite and no element is zero": (SCALED, Scaled(row(1, 2, 1), row(inf, 1)), column(3, 1, 1), nan, nan),
    "an infinite scale meets zero": (SCALED, Scaled(row(1, 0, 1), row(inf, 1)), column(3, 1, 1), nan, "float(e2m1, finite)"),
    "a scale is NaN": (SCALED, row(1, 2, 3), Scaled(column(3, 1, 1), column(1, nan)), None, "float(e2m1, finite)"),
    "C is NaN outside integer sums": (INNER, row(1, 2), column(3, 4), nan, nan),
    "an operand of integer sums is NaN": (INNER, row(1, 2, nan), column(3, 4, 1), 1.0, "int16"),
    "an operand of integer sums and C are NaN": (INNER, row(1, 2, nan), column(3, 4, 1), nan, "int16"),
    "a scale of a promotion is NaN": (PROMOTED, Scaled(row(1, 2, 3), row(1, nan)), column(3, 4, 1), None, nan),
    "C is NaN outside aligned sums": (GROUPS, row(1, 2), column(3, 4), nan, nan),
    "infinities of two signs in one group": (GROUPS, row(inf, -inf), column(3, 4), nan, "float(e5m4, finite)"),
}
"""A unit, A, B, C, and the result, or the format that refuses a NaN."""
