"""The formats, roundings and inputs that every backend is tested on."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from hwsim.formats import (
    AdditivePowersOfTwo,
    Codebook,
    Fixed,
    Float,
    Format,
    FormatError,
    Integer,
    Levels,
    Logarithmic,
    Posit,
    Projection,
    Rounding,
)
from hwsim.formats.reference import check_projection

FORMATS: dict[str, Format] = {
    "fp64": Float(11, 52),
    "fp32": Float(8, 23),
    "tf32": Float(8, 10),
    "bf16": Float(8, 7),
    "fp16": Float(5, 10),
    "e6m5": Float(6, 5),
    "e5m2": Float(5, 2),
    "e4m3": Float(4, 3),
    "e4m3fn": Float(4, 3, specials="fn"),
    "e4m3fnuz": Float(4, 3, specials="fnuz"),
    "e5m2fnuz": Float(5, 2, specials="fnuz"),
    "e4m3b11fnuz": Float(4, 3, bias=11, specials="fnuz"),
    "e3m4": Float(3, 4),
    "e8m0fnu": Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False),
    "e3m2fn": Float(3, 2, specials="finite"),
    "e2m3fn": Float(2, 3, specials="finite"),
    "e2m1fn": Float(2, 1, specials="finite"),
    "e1m2": Float(1, 2, specials="finite"),
    "e3m0": Float(3, 0, specials="finite"),
    "ue5m3": Float(5, 3, specials="fn", signed=False),
    "ue4m3_ieee": Float(4, 3, signed=False),
    "bf16_flat": Float(8, 7, subnormals=False),
    "e4m3_flat": Float(4, 3, subnormals=False),
    "e3m0_flat": Float(3, 0, specials="finite", subnormals=False),
    "e5m2_one_zero": Float(5, 2, negative_zero=False),
    "e8m3_low": Float(8, 3, bias=200, specials="fn"),
    "e6m3_high": Float(6, 3, bias=-40, specials="fn"),
    "e11m3": Float(11, 3),
    "binary8p1ue": Float(8, 0, specials="p3109", signed=False),
    "binary8p1se": Float(7, 0, specials="p3109"),
    "binary8p3se": Float(5, 2, specials="p3109"),
    "binary8p3uf": Float(6, 2, specials="p3109", signed=False, domain="finite"),
    "binary8p4sf": Float(4, 3, specials="p3109", domain="finite"),
    "binary6p3se": Float(3, 2, specials="p3109"),
    "binary4p2sf": Float(2, 1, specials="p3109", domain="finite"),
    "int1": Integer(1),
    "int2": Integer(2),
    "int4": Integer(4),
    "int8": Integer(8),
    "int8_symmetric": Integer(8, symmetric=True),
    "int16": Integer(16),
    "int32": Integer(32),
    "uint1": Integer(1, signed=False),
    "uint4": Integer(4, signed=False),
    "uint8": Integer(8, signed=False),
    "uint32": Integer(32, signed=False),
    "fixed8.4": Fixed(8, 4),
    "ufixed6.6": Fixed(6, 6, signed=False),
    "fixed8.-3": Fixed(8, -3),
    "fixed16.15_symmetric": Fixed(16, 15, symmetric=True),
    "binary": Codebook((1.0, -1.0)),
    "ternary": Codebook((-1.0, 0.0, 1.0)),
    "codes_in_any_order": Codebook((0.7, -0.4, 0.0, 0.2, -1.0)),
    "far_apart": Codebook((-3.7, 1e-30, 0.1, 1e30)),
    "above_zero": Codebook((0.5, 1.0, 2.0)),
    "apot5": AdditivePowersOfTwo(5),
    "posit3_1": Posit(3, 1),
    "posit8_0": Posit(8, 0),
    "posit8_2": Posit(8, 2),
    "posit16_1": Posit(16, 1),
    "lns8": Logarithmic(8, 3),
}

ROUNDINGS: tuple[Rounding, ...] = (
    *(Rounding.parse(mode) for mode in ("nearest_even", "nearest_away", "nearest_zero", "toward_zero")),
    *(Rounding.parse(mode) for mode in ("toward_positive", "toward_negative", "to_odd")),
    Rounding("stochastic", 2),
    Rounding("stochastic", 8),
    Rounding("stochastic", 24),
    Rounding("stochastic", 32),
    Rounding("stochastic", 32, "B"),
    Rounding("stochastic", 3, "C"),
    Rounding("stochastic", 32, "C"),
)


def projections(fmt: Format, rounding: Rounding) -> list[Projection]:
    """Every overflow rule that the format can follow, and the flushing and NaN rules once."""
    nan = "error" if fmt.has_nan else "zero"
    possible = []
    for overflow in ("saturate", "propagate", "infinity", "nan", "wrap"):
        projection = Projection(rounding, overflow, nan)  # type: ignore[arg-type]
        try:
            check_projection(fmt, projection)
        except FormatError:
            continue
        possible.append(projection)
    return [*possible, Projection(rounding, nan="max", flush_inputs=True, flush_outputs=True)]


SPECIALS = [0.0, -0.0, float("inf"), float("-inf"), float("nan")]


@cache
def tricky(fmt: Format, dtype: torch.dtype) -> torch.Tensor:
    """Values around the grid: at its ends and in between, exact, on ties, and one step of `dtype` to either side of these.

    The last ones are the SPECIALS. A compiled loop for finite numbers gives up on a piece that has them: the others have to be
    tested alone too.
    """
    points = _around_levels(fmt.lattice) if isinstance(fmt.lattice, Levels) else _around_grid(fmt)
    info = torch.finfo(dtype)
    points += [info.max, info.tiny, info.smallest_normal * info.eps, 2.0**-126, 2.0**-127, 2.0**-24]
    near = torch.tensor(points, dtype=torch.float64)
    near = near[near.abs() <= info.max].to(dtype)
    away = torch.full_like(near, float("inf"))
    near = torch.cat([near, torch.nextafter(near, away), torch.nextafter(near, -away)]).unique()
    near = near[near.isfinite()]
    return torch.cat([near, -near, torch.tensor(SPECIALS, dtype=dtype)])


def _around_levels(levels: Levels) -> list[float]:
    """The outermost and the innermost levels, where nearest changes there, shares between, and beyond."""
    last, zero = len(levels.values) - 1, int(np.searchsorted(levels.values, 0))
    places = {k for k in (0, 1, 2, zero - 2, zero - 1, zero, zero + 1, last - 2, last - 1) if 0 <= k < last}
    pairs = [(levels.values[k], levels.values[k + 1]) for k in sorted(places)]
    inside = [a + (b - a) * share for a, b in pairs for share in (0.125, 0.75)]
    return [v for pair in pairs for v in pair] + [levels.boundaries[k] for k in places] + inside + [1.5 * levels.max_value]


def _around_grid(fmt: Format) -> list[float]:
    grid = fmt.grid
    m = min(grid.mantissa_bits, 30)
    low, top = grid.smallest_exponent, max(grid.max_value, -grid.min_value, grid.smallest_positive)
    high = torch.tensor(top, dtype=torch.float64).frexp().exponent.item() - 1
    if grid.uniform:
        half, full = 1 << grid.bits - 1, 1 << grid.bits
        points = [k + v for k in (0, 1, 2, 3, 5, 6, half - 1, half, full - 1) for v in (0, 0.5)]
        points = [p * 2.0**low for p in (*points, full, full + 3, 5 * full)]
    else:
        exponents = {low - 2, low - 1, low, grid.min_exponent - 1, grid.min_exponent, (low + high) // 2, high}
        ulps = [1.0, 1 + 2.0**-m, 2 - 2.0**-m] if m else [1.0]
        halves = [u + 2.0 ** -(m + 1) for u in ulps]
        points = [u * 2.0**e for e in sorted(exponents) if -1070 < e < 1023 for u in ulps + halves]
    return points


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors agree bitwise, NaN being NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())


def differences(x: torch.Tensor, expected: torch.Tensor, given: torch.Tensor) -> list[tuple[float, float, float]]:
    """(input, expected, given) of the elements that differ, at most eight."""
    wrong = ~((expected == given) & (expected.signbit() == given.signbit()) | (expected.isnan() & given.isnan()))
    return list(zip(x[wrong].tolist(), expected[wrong].tolist(), given[wrong].tolist(), strict=True))[:8]
