"""What a cast does to the numbers that pass a site: counts, signal and error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, log10, nan
from typing import NamedTuple

import torch
from torch import Tensor

from hwsim.formats import Format
from hwsim.formats.base import MAX_LISTED_BITS

from .counting import Counts, count


@dataclass(frozen=True)
class SiteStatistics:
    """One row a site: `elements` rounded in `calls` calls, and what became of them.

    `sqnr` is 10 log10(sum x^2 / sum (y - x)^2) in dB, `bias` the mean of y - x, both over finite elements; `underflow` counts
    the nonzero elements that became zero, `overflow` those clipped to the largest value at their scale (more than half a step
    beyond it: what is nearer is rounded) or turned into an infinity or NaN.
    """

    site: str
    cast: str
    calls: int
    elements: int
    sqnr: float
    bias: float
    overflow: int
    underflow: int


class Tally(NamedTuple):
    """One tensor's counts, and its elements."""

    elements: int
    counts: Counts


class Meter:
    """Running sums over what passes one port, in float64."""

    __slots__ = ("bias", "calls", "elements", "noise", "overflow", "signal", "underflow")

    def __init__(self) -> None:
        self.calls = self.elements = self.overflow = self.underflow = 0
        self.signal = self.noise = self.bias = 0.0

    def add(self, x: Tensor, y: Tensor, fmt: Format, unit: Tensor | float | None = None) -> Tally:
        """Count one tensor before (x) and after (y) its cast; the tally is what it added.

        Args:
            fmt: of the elements.
            unit: what they are multiples of, one or as many as elements; None where nothing is scaled.
        """
        low, high = _reach(fmt)
        x, y = x.detach(), y.detach()
        if not isinstance(unit, Tensor) or unit.numel() == 1:
            scale = 1.0 if unit is None else float(unit)
            found = _counted(x, y, low * scale, high * scale)
        else:
            found = _counted(x, y, -inf, inf)
            clipped = torch.isfinite(y) & ((x > high * unit) | (x < low * unit))
            found = found._replace(overflow=found.overflow + int(clipped.sum()))
        tally = Tally(x.numel(), found)
        self.repeat(tally)
        return tally

    def repeat(self, tally: Tally) -> None:
        """Count a tensor whose counts are known."""
        self.calls += 1
        self.elements += tally.elements
        for name, value in tally.counts._asdict().items():
            setattr(self, name, getattr(self, name) + value)

    def row(self, site: str, cast: str) -> SiteStatistics:
        """The statistics so far."""
        sqnr = 10 * log10(self.signal / self.noise) if self.noise and self.signal else (inf if not self.noise else nan)
        bias = self.bias / self.elements if self.elements else 0.0
        return SiteStatistics(site, cast, self.calls, self.elements, sqnr, bias, self.overflow, self.underflow)


def _counted(x: Tensor, y: Tensor, low: float, high: float) -> Counts:
    if x.device.type == "cpu":
        return count(x, y, low, high)
    x, y = x.double(), y.double()
    finite = torch.isfinite(x) & torch.isfinite(y)
    error = torch.where(finite, y - x, 0.0)
    signal = torch.where(finite, x, 0.0).square().sum()
    overflow = (x > high) | (x < low) | (torch.isfinite(x) & ~torch.isfinite(y))
    underflow = (y == 0) & (x != 0)
    return Counts(float(signal), float(error.square().sum()), float(error.sum()), int(overflow.sum()), int(underflow.sum()))


@lru_cache(maxsize=256)
def _reach(fmt: Format) -> tuple[float, float]:
    """The least and the greatest number that are rounded, not clipped; of wide formats, half a step is nothing."""
    if fmt.bits > MAX_LISTED_BITS:
        return fmt.min, fmt.max
    values = fmt.values().double().tolist()
    return values[0] - (values[1] - values[0]) / 2, values[-1] + (values[-1] - values[-2]) / 2
