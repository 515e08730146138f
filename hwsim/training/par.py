"""Piecewise-affine regularizers (PAR): penalties whose kinks are the values that weights shall take."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite, isnan
from typing import Literal, get_args

import torch

from hwsim.errors import ConfigError, not_allowed
from hwsim.formats import Format

Ties = Literal["toward_zero", "away", "lower", "upper", "even"]
Family = Literal["convex", "quasi_convex", "non_convex"]
SlopeRule = Callable[[tuple[float, ...]], Sequence[float]]


class GuaranteeWarning(UserWarning):
    """A theorem's guarantee was asked for outside its hypotheses."""


@dataclass(frozen=True)
class PAR:
    """Psi(w) = sum_i psi(w_i), psi continuous and piecewise affine, psi(0) = 0, with kinks at +-q_k.

    On (q_k, q_(k+1)) psi has slope a_k, beyond the last level q_m slope a_m; where a_m is infinite, psi is infinite beyond q_m.
    Slopes that grow outwards from a_0 >= 0 make psi convex, slopes >= 0 quasi-convex, anything else non-convex. a_0 = 0
    takes 0 out of the values that weights are drawn to (binary sets).

    Args:
        levels: 0 = q_0 < q_1 < ... < q_m, magnitudes.
        slopes: a_0 .. a_m, finite; the last is >= 0 and may be infinite.
        ties: which minimiser the prox map takes where a concave kink leaves two: the one nearer zero, farther from zero, the
            lower, the upper, or the one whose nearest level has an even index k. Convex regularizers have no ties.
        negative: psi(-w) for w > 0; the mirror image unless given. Its `ties` are not used.

    Raises:
        ConfigError: levels unsorted, twice, or not from 0; slopes NaN, not one a level,
            or infinite before the last; a negative last slope.

    Source: Jin et al. 2025 (arXiv 2503.15748), equation 6; Ma and Xiao 2025 (arXiv 2508.11112).
    """

    levels: tuple[float, ...]
    slopes: tuple[float, ...]
    ties: Ties = "toward_zero"
    negative: PAR | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(q) for q in self.levels))
        object.__setattr__(self, "slopes", tuple(float(a) for a in self.slopes))
        check_levels(self.levels)
        _check_slopes(self.slopes, len(self.levels))
        if self.ties not in get_args(Ties):
            raise ConfigError(not_allowed("PAR ties", self.ties, get_args(Ties)))
        if self.negative is not None and self.negative.negative is not None:
            raise ConfigError("PAR negative: got a regularizer with a negative side of its own; allowed: one without")

    @property
    def mirrored(self) -> PAR:
        """The regularizer of -w for w > 0."""
        return self.negative or self

    @cached_property
    def family(self) -> Family:
        """Which of the three families the regularizer belongs to."""
        sides = (self.slopes, self.mirrored.slopes)
        if any(a < 0 for side in sides for a in side):
            return "non_convex"
        return "convex" if all(a <= b for side in sides for a, b in pairwise(side)) else "quasi_convex"

    @cached_property
    def knots(self) -> tuple[float, ...]:
        """All levels on the real line, ascending."""
        return tuple(-q for q in reversed(self.mirrored.levels[1:])) + self.levels

    @cached_property
    def piece_slopes(self) -> tuple[float, ...]:
        """The slope left of the first knot, between neighbours, and right of the last knot."""
        return tuple(-a for a in reversed(self.mirrored.slopes)) + self.slopes

    @cached_property
    def heights(self) -> tuple[float, ...]:
        """Psi at each knot."""
        return tuple(reversed(_heights(self.mirrored)[1:])) + _heights(self)

    @property
    def targets(self) -> tuple[float, ...]:
        """The convex kinks, ascending: the values that the prox map sends whole intervals to."""
        return tuple(
            q for q, left, right in zip(self.knots, self.piece_slopes, self.piece_slopes[1:], strict=False) if left < right
        )

    @property
    def has_zero_slope(self) -> bool:
        """Whether psi is flat on an open piece, where nothing draws a weight to a level."""
        return 0.0 in self.piece_slopes

    def scaled(self, scale: float) -> PAR:
        """The regularizer with every level times a positive scale and the same slopes."""
        _check_scale(scale)
        negative = self.negative.scaled(scale) if self.negative else None
        return PAR(tuple(q * scale for q in self.levels), self.slopes, self.ties, negative)

    def value(self, w: torch.Tensor) -> torch.Tensor:
        """psi at each element; NaN gives NaN, values beyond an infinite last slope infinity."""
        knots, slopes, heights = self._tensors(w)
        piece = torch.bucketize(w, knots, right=True)
        anchor = (piece - 1).clamp(min=0)
        step = w - knots[anchor]
        return torch.where(step == 0, heights[anchor], heights[anchor] + slopes[piece] * step)

    def subgradient(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends of Clarke's subdifferential of psi at each element; NaN where psi is infinite or w is NaN."""
        knots, slopes, _ = self._tensors(w)
        left, right = slopes[torch.bucketize(w, knots)], slopes[torch.bucketize(w, knots, right=True)]
        outside = (left.isinf() & (left == right)) | w.isnan()
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        return low.masked_fill(outside, torch.nan), high.masked_fill(outside, torch.nan)

    @classmethod
    def on_format(
        cls,
        fmt: Format,
        scale: float,
        slopes: Sequence[float] | SlopeRule,
        negative_slopes: Sequence[float] | SlopeRule | None = None,
        ties: Ties = "toward_zero",
    ) -> PAR:
        """The regularizer whose levels are the values of a format times a scale.

        Args:
            fmt: any format with finite `values()`, symmetric or not, with or without zero and negative values.
            scale: what the format's values are multiplied by, > 0.
            slopes: a_0 .. a_m for the levels 0 and the positive values, or a rule that makes them from those levels.
            negative_slopes: the same for the magnitudes of 0 and the negative values; as `slopes` unless given.

        Raises:
            ConfigError: a scale that is not finite and above 0, a slope above 0 at the zero that a format lacks, or slopes that
                do not fit the levels.

        Warns:
            GuaranteeWarning: a format without zero, where a rule's slope at 0 becomes 0.
        """
        _check_scale(scale)
        values = fmt.values().double() * scale
        sides = [(0.0, *sorted(abs(v) for v in side.tolist())) for side in (values[values > 0], values[values < 0])]
        rules = (slopes, slopes if negative_slopes is None else negative_slopes)
        has_zero = bool((values == 0).any())
        positive, negative = (_side(fmt, levels, rule, has_zero) for levels, rule in zip(sides, rules, strict=True))
        mirror = None if positive == negative else cls(*negative)
        par = cls(*positive, ties, mirror)
        if not has_zero and any(callable(rule) for rule in rules):
            warn_of_zero_slope(par)
        return par

    def _tensors(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return tuple(torch.tensor(v, dtype=w.dtype, device=w.device) for v in (self.knots, self.piece_slopes, self.heights))  # type: ignore[return-value]


def warn_of_zero_slope(par: PAR) -> None:
    """Say to the caller's caller which theorem a regularizer with a flat piece leaves."""
    warnings.warn(
        "the theorem qr >= 1 - n/d (Ma and Xiao 2025, arXiv 2508.11112) needs a non-zero slope on every open piece; "
        f"got a zero among {par.piece_slopes}: no rate is guaranteed",
        GuaranteeWarning,
        stacklevel=3,
    )


def _side(
    fmt: Format, levels: tuple[float, ...], rule: Sequence[float] | SlopeRule, has_zero: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(levels) == 1:
        return levels, (inf,)
    if not callable(rule):
        slopes = tuple(rule)
        if not has_zero and slopes[:1] != (0.0,):
            raise ConfigError(f"PAR on {fmt}: got slope {slopes[0]} at 0, which is no value of the format; allowed: 0.0 there")
        return levels, slopes
    slopes = tuple(rule(levels))
    return levels, slopes if has_zero else (0.0, *slopes[1:])


def _heights(par: PAR) -> tuple[float, ...]:
    heights = [0.0]
    for (low, high), slope in zip(pairwise(par.levels), par.slopes, strict=False):
        heights.append(heights[-1] + slope * (high - low))
    return tuple(heights)


def _check_scale(scale: float) -> None:
    if not (scale > 0 and isfinite(scale)):
        raise ConfigError(f"PAR scale: got {scale}; allowed: a finite number above 0")


def check_levels(levels: Sequence[float]) -> None:
    """Refuse levels that are no magnitudes from 0 on, each once and in ascending order."""
    if not len(levels) or levels[0] != 0:
        raise ConfigError(f"PAR levels: got {tuple(levels[:1]) or 'none'}; allowed: magnitudes that begin with 0")
    for k, (low, high) in enumerate(pairwise(levels)):
        if not (low < high and isfinite(high)):
            what = "twice" if low == high else "in this order"
            raise ConfigError(
                f"PAR levels[{k}], levels[{k + 1}]: got {low}, {high} {what}; allowed: finite levels that ascend, each once"
            )


def _check_slopes(slopes: tuple[float, ...], levels: int) -> None:
    if len(slopes) != levels:
        raise ConfigError(f"PAR slopes: got {len(slopes)} slopes for {levels} levels; allowed: one a level")
    for k, slope in enumerate(slopes[:-1]):
        if not isfinite(slope):
            raise ConfigError(f"PAR slopes[{k}]: got {slope}; allowed: finite slopes before the last")
    if isnan(slopes[-1]) or slopes[-1] < 0:
        raise ConfigError(f"PAR slopes[{levels - 1}]: got {slopes[-1]}; allowed: a last slope >= 0, or infinity")
