"""What a cast does to the numbers that pass a site: counts, signal and error."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10, nan

import torch
from torch import Tensor

from hwsim.casts import Cast


@dataclass(frozen=True)
class SiteStatistics:
    """One row a site: `elements` rounded in `calls` calls, and what became of them.

    `sqnr` is 10 log10(sum x^2 / sum (y - x)^2) in dB, `bias` the mean of y - x, both over finite elements; `underflow` counts
    the nonzero elements that became zero, `overflow` those clipped to the largest value or turned into an infinity or NaN.
    """

    site: str
    cast: str
    calls: int
    elements: int
    sqnr: float
    bias: float
    overflow: int
    underflow: int


class Meter:
    """Running sums over what passes one port, in float64."""

    __slots__ = ("bias", "calls", "elements", "noise", "overflow", "signal", "underflow")

    def __init__(self) -> None:
        self.calls = self.elements = self.overflow = self.underflow = 0
        self.signal = self.noise = self.bias = 0.0

    def add(self, x: Tensor, y: Tensor, cast: Cast) -> None:
        """Count one tensor before (x) and after (y) its cast."""
        x, y = x.detach().double(), y.detach().double()
        finite = torch.isfinite(x) & torch.isfinite(y)
        error = torch.where(finite, y - x, 0.0)
        self.calls += 1
        self.elements += x.numel()
        self.signal += float(torch.where(finite, x, 0.0).square().sum())
        self.noise += float(error.square().sum())
        self.bias += float(error.sum())
        self.underflow += int(((y == 0) & (x != 0)).sum())
        lost = torch.isfinite(x) & ~torch.isfinite(y)
        clipped = torch.zeros_like(lost) if cast.scaled else (x > cast.format.max) | (x < cast.format.min)
        self.overflow += int((lost | clipped).sum())

    def row(self, site: str, cast: str) -> SiteStatistics:
        """The statistics so far."""
        sqnr = 10 * log10(self.signal / self.noise) if self.noise and self.signal else (inf if not self.noise else nan)
        bias = self.bias / self.elements if self.elements else 0.0
        return SiteStatistics(site, cast, self.calls, self.elements, sqnr, bias, self.overflow, self.underflow)
