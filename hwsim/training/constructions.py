"""PARs that stand in for classical penalties on a given set of levels, with their error bounds, and the quantization rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, isfinite

import torch

from hwsim.errors import ConfigError

from .par import PAR, Ties, check_levels, warn_of_zero_slope


def l1_slopes(levels: Sequence[float], spread: float = 0.5) -> tuple[float, ...]:
    """Slopes that grow evenly from 1 to 1 + spread: psi lies between |w| and (1 + spread) |w|.

    With lambda >= 2 |A^T z|_inf / n and restricted eigenvalue kappa, the estimate is within (3 + 2 spread) lambda sqrt(s) / kappa
    of the truth, whatever the levels (the Lasso's rate).
    """
    if not (spread >= 0 and isfinite(spread)):
        raise ConfigError(f"l1 spread: got {spread}; allowed: a finite number >= 0")
    steps = max(len(levels) - 1, 1)
    return tuple(1 + spread * k / steps for k in range(len(levels)))


def squared_l2_slopes(levels: Sequence[float]) -> tuple[float, ...]:
    """Slopes (q_k + q_(k+1)) / 2, the last infinite: psi interpolates w^2/2 at the levels, 0 <= psi - w^2/2 <= gap^2 / 8.

    On levels with gaps <= D the estimate is within D sqrt(d) / 2 of ridge's, and |A (difference)|^2 / n <= lambda d D^2 / 4, if
    ridge's estimate lies within the levels.
    """
    return (*((low + high) / 2 for low, high in pairwise(levels)), inf)


def mcp(w: torch.Tensor, concavity: float) -> torch.Tensor:
    """The minimax concave penalty |w| - w^2 / (2 concavity), constant from |w| = concavity on (Zhang 2010)."""
    v = w.abs().clamp(max=concavity)
    return v - v * v / (2 * concavity)


def mcp_like(levels: Sequence[float], concavity: float, floor: float = 0.05, ties: Ties = "toward_zero") -> PAR:
    """The quasi-convex PAR that equals the MCP plus floor |w| at the levels: steep, then of slope `floor` in every cell.

    The steep slope (1 + floor everywhere) makes each level a convex kink, the low one keeps every piece of non-zero slope, as
    the quantization guarantee needs. Between levels psi lies above MCP + floor |w|, by (increment of MCP) (1 - increment / gap)
    of the cell at most, so by gap / 4. Where loss + lambda MCP is mu-strongly convex with minimiser x (mu: the loss's convexity
    less lambda / concavity), a method that descends from x on loss + lambda psi ends within sqrt(2 lambda E / mu) of x,
    E = (psi - MCP)(x) <= floor |x|_1 + (non-zeros of x) gap / 4.

    Args:
        levels: 0 = q_0 < ... < q_m; psi is infinite beyond q_m.
        concavity: MCP's gamma, > 0.
        floor: slope of the shallow pieces, > 0.

    Raises:
        ConfigError: levels that are none of a PAR; numbers that are not above 0.
    """
    check_levels(levels)
    for name, given in (("concavity", concavity), ("floor", floor)):
        if not (given > 0 and isfinite(given)):
            raise ConfigError(f"MCP {name}: got {given}; allowed: a finite number above 0")
    heights = mcp(torch.tensor(list(levels), dtype=torch.float64), concavity).tolist()
    knots, slopes = [], []
    for low, (below, above) in zip(levels, pairwise(heights), strict=False):
        knots += [low, low + (above - below)] if above > below else [low]
        slopes += [1 + floor, floor] if above > below else [floor]
    return PAR((*knots, levels[-1]), (*slopes, inf), ties)


def stairs(levels: Sequence[float], slope: float = 1.0, ties: Ties = "toward_zero") -> PAR:
    """The quasi-convex PAR that rises with `slope` over the first half of every cell and is flat over the second.

    Raises:
        ConfigError: levels that are none of a PAR.
    """
    check_levels(levels)
    knots = [k for low, high in pairwise(levels) for k in (low, (low + high) / 2)]
    return PAR((*knots, levels[-1]), (*((slope, 0.0) * (len(levels) - 1)), inf), ties)


def distance(levels: Sequence[float], ties: Ties = "away") -> PAR:
    """The non-convex PAR |w - nearest level| (ProxQuant's W, Bai et al. 2019), with levels mirrored at zero.

    Raises:
        ConfigError: levels that are none of a PAR.
    """
    check_levels(levels)
    knots = [k for low, high in pairwise(levels) for k in (low, (low + high) / 2)]
    return PAR((*knots, levels[-1]), (*((1.0, -1.0) * (len(levels) - 1)), 1.0), ties)


def quantization_rate(w: torch.Tensor, par: PAR, tolerance: float = 0.0, targets: Sequence[float] | None = None) -> torch.Tensor:
    """The share of elements within `tolerance` of a target, for each problem (all axes but the last).

    Args:
        w: (..., d).
        par: targets are its convex kinks unless `targets` says otherwise.
        tolerance: absolute; 0 counts exact values, as prox maps return them.
    """
    levels = torch.tensor(par.targets if targets is None else sorted(targets), dtype=torch.float64, device=w.device)
    levels = levels.to(w.dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = levels[torch.bucketize(w.contiguous(), middles)]
    return ((w - nearest).abs() <= tolerance).double().mean(-1)


def rate_bound(par: PAR, observations: int, dimensions: int) -> float:
    """1 - n/d, the least quantization rate of a critical point of a GLM loss plus lambda psi (at least 0).

    It needs features in general position and a non-zero slope on every piece of psi: with a flat piece the minimiser may fit
    the data inside it and quantize nothing. For non-convex psi it counts concave kinks, which no prox map returns.

    Warns:
        GuaranteeWarning: psi has a zero slope; the bound returned is 0.

    Source: Ma and Xiao 2025 (arXiv 2508.11112).
    """
    if par.has_zero_slope:
        warn_of_zero_slope(par)
        return 0.0
    return max(0.0, 1 - observations / dimensions)
