"""Which levels a row of weights is drawn to: least-squares binary, uniform, ternary, or the values of any format."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol, get_args

import torch

from hwsim.errors import ConfigError, not_allowed
from hwsim.formats import Codebook, Format

from .nearest import nearest

Limit = Literal["mean", "max"]
ScaleRule = Literal["absmax", "power_of_two", "mse"]


class LevelQuantizer(Protocol):
    """A rule that makes the levels of each row from its elements."""

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, levels), ascending, in the rows' dtype, for weights (rows, elements)."""
        ...


@dataclass(frozen=True)
class LSBQ:
    """Least-squares binary quantization: the 2^bits sums of +-v_j.

    Greedy: v_j = mean |r|, r <- r - v_j sgn(r), sgn(0) = 1. Optimal (1 or 2 bits): the least squared error there is; for
    2 bits the magnitudes are the best two means of |w|, found over all splits of the sorted magnitudes in double precision.

    Raises:
        ConfigError: bits outside 1..8; optimal with more than 2 bits.

    Source: Pouransari et al. 2020; Jin et al. 2025, section 4.
    """

    bits: int
    optimal: bool = False

    def __post_init__(self) -> None:
        check_bits("LSBQ", self.bits, 1, 8)
        if self.optimal and self.bits > 2:
            raise ConfigError(
                f"LSBQ bits: got {self.bits} with optimal=True; allowed: 1 or 2 (no polynomial method is known above)"
            )

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """The levels of each row."""
        if self.optimal and self.bits == 2:
            magnitudes = _two_means(rows.abs().double()).to(rows.dtype)
            return torch.cat([-magnitudes.flip(-1), magnitudes], -1)
        residue, parts = rows, []
        for _ in range(self.bits):
            v = residue.abs().mean(-1, keepdim=True)
            residue = residue - torch.where(residue < 0, -v, v)
            parts.append(v)
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=self.bits)), dtype=rows.dtype, device=rows.device)
        return torch.sort(torch.cat(parts, -1) @ signs.T, -1).values


@dataclass(frozen=True)
class Uniform:
    """The 2^bits half-integers times s (the stretched grid, without zero), or with `zero` the 2^bits - 1 integers times s.

    The outermost level is bits * mean |w|, at most max |w|, for the limit `mean`; max |w| for `max`. Uniform(b) is
    Jin et al.'s uniform and torchao's stretched quantizer, Uniform(b, "max", zero=True) their max-uniform one.

    Raises:
        ConfigError: bits outside 1..8, or 1 with `zero`, which would leave the level 0 alone.
    """

    bits: int
    limit: Limit = "mean"
    zero: bool = False

    def __post_init__(self) -> None:
        check_bits("Uniform with zero" if self.zero else "Uniform", self.bits, 2 if self.zero else 1, 8)
        if self.limit not in get_args(Limit):
            raise ConfigError(not_allowed("Uniform limit", self.limit, get_args(Limit)))

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """The levels of each row."""
        magnitude = rows.abs()
        largest = magnitude.amax(-1, keepdim=True)
        if self.limit == "mean":
            largest = torch.minimum(self.bits * magnitude.mean(-1, keepdim=True), largest)
        top = 2 ** (self.bits - 1) - (1.0 if self.zero else 0.5)
        steps = torch.arange(-top, top + 0.25, dtype=rows.dtype, device=rows.device)
        levels: torch.Tensor = steps * (largest.clamp(min=torch.finfo(rows.dtype).tiny) / top)
        return levels


@dataclass(frozen=True)
class Ternary:
    """v {-1, 0, 1}: v = multiplier * mean |w|, or (optimal) the mean of the k largest |w| with the best k."""

    multiplier: float = 1.1
    optimal: bool = False

    def __post_init__(self) -> None:
        if not self.multiplier > 0:
            raise ConfigError(f"Ternary multiplier: got {self.multiplier}; allowed: a number above 0")

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """The levels of each row."""
        magnitude = rows.abs()
        if self.optimal:
            # In double: sums of a million weights overflow float16, and counts above 256 are no bfloat16 numbers.
            sums = magnitude.sort(-1, descending=True).values.cumsum(-1, dtype=torch.float64)
            counts = torch.arange(1, rows.shape[-1] + 1, dtype=sums.dtype, device=rows.device)
            best = (sums * sums / counts).argmax(-1, keepdim=True)
            v = (sums.gather(-1, best) / counts[best]).to(rows.dtype)
        else:
            v = self.multiplier * magnitude.mean(-1, keepdim=True)
        return torch.cat([-v, torch.zeros_like(v), v], -1)


@dataclass(frozen=True)
class Asymmetric:
    """s (k - z), k = 0 .. 2^bits - 1: s = (max - min) / (2^bits - 1) over the row and zero, z = round(-min / s)."""

    bits: int

    def __post_init__(self) -> None:
        check_bits("Asymmetric", self.bits, 1, 8)

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """The levels of each row."""
        low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
        steps = torch.arange(2**self.bits, dtype=rows.dtype, device=rows.device)
        scale = ((high - low) / (2**self.bits - 1)).clamp(min=torch.finfo(rows.dtype).tiny)
        levels: torch.Tensor = (steps - (-low / scale).round()) * scale
        return levels


@dataclass(frozen=True)
class FormatLevels:
    """The values of a format times a scale a row.

    Scale rules, amax the row's largest |w|: `absmax` amax / the format's largest magnitude; `power_of_two` the smallest power
    of two that is not below it; `mse` the one of 64 fractions (from 1 down to 1/64) of it with the least squared error. A row of
    zeros has scale 1.

    Raises:
        ConfigError: unknown rule.
        FormatError: a format of more than 8 bits.
    """

    format: Format
    scale: ScaleRule = "absmax"

    def __post_init__(self) -> None:
        if self.scale not in get_args(ScaleRule):
            raise ConfigError(not_allowed("FormatLevels scale", self.scale, get_args(ScaleRule)))
        check_bits(f"FormatLevels of {self.format}", self.format.bits, 1, 8)

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        """The levels of each row."""
        return self.values(rows) * self.scales(rows)

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        """The format's finite values on the rows' device and in their dtype."""
        return self.format.values().to(rows)

    def scales(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, 1)."""
        amax = rows.abs().amax(-1, keepdim=True)
        ratio = torch.where(amax > 0, amax / max(abs(self.format.max), abs(self.format.min)), 1.0)
        if self.scale == "absmax":
            return ratio
        if self.scale == "power_of_two":
            mantissa, exponent = torch.frexp(ratio)
            return torch.ldexp(torch.ones_like(ratio), exponent - (mantissa == 0.5).to(exponent.dtype))
        candidates = [ratio * (k / 64) for k in range(64, 0, -1)]
        values = self.values(rows)
        errors = torch.cat([(nearest(rows, values * c) - rows).square().sum(-1, keepdim=True) for c in candidates], -1)
        return torch.cat(candidates, -1).gather(-1, errors.argmin(-1, keepdim=True))


def learned_codebook(levels: torch.Tensor) -> Codebook:
    """The levels that one whole tensor was drawn to (`PARQ.levels_of`) as a format; `format_mapping` of it is its YAML.

    Args:
        levels: (levels,) or (1, levels), in any order; levels that are one float32 number count once.

    Raises:
        ConfigError: levels of several rows, of which each would be a format of its own.
        FormatError: fewer than two distinct levels, NaN or infinity.
    """
    if levels.dim() > 2 or (levels.dim() == 2 and levels.shape[0] != 1):
        raise ConfigError(f"levels: got shape {tuple(levels.shape)}; allowed: one row, as of a run with granularity `tensor`")
    return Codebook(tuple(sorted(set(levels.detach().float().flatten().tolist()))))


def _two_means(magnitudes: torch.Tensor) -> torch.Tensor:
    """The two levels of least squared error to each row of magnitudes, (rows, 2)."""
    ordered = magnitudes.sort(-1).values
    n = ordered.shape[-1]
    below = ordered.cumsum(-1)
    counts = torch.arange(1, n + 1, dtype=ordered.dtype, device=ordered.device)
    low = below / counts
    high = torch.where(counts < n, (below[:, -1:] - below) / (n - counts).clamp(min=1), low)
    best = (counts * low.square() + (n - counts) * high.square()).argmax(-1, keepdim=True)
    return torch.cat([low.gather(-1, best), high.gather(-1, best)], -1)


def check_bits(what: str, bits: object, least: int, most: int) -> None:
    """Refuse a width that is no whole number from `least` to `most`."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= most:
        raise ConfigError(f"{what} bits: got {bits!r}; allowed: a whole number from {least} to {most}")
