"""Means and deviations over seeds, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PERCENT = ("accuracy", "quantization_rate")


@dataclass(frozen=True)
class Spread:
    """A value over seeds.

    Args:
        mean: over the seeds; NaN without any.
        deviation: the sample standard deviation; NaN with fewer than two seeds.
        count: how many seeds.
    """

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """That of a few values."""
        found = list(values)
        mean = statistics.fmean(found) if found else math.nan
        return cls(mean, statistics.stdev(found) if len(found) > 1 else math.nan, len(found))


@dataclass(frozen=True)
class Unit:
    """How a metric is written: shares in percent and their changes in points, anything else as it is.

    Args:
        metric: its name.
        decimals: how many are written.
    """

    metric: str
    decimals: int = 1

    @classmethod
    def of(cls, metric: str, spreads: Iterable[Spread]) -> Unit:
        """With as many decimals as show four digits of the largest of some values; shares have one."""
        largest = max((abs(spread.mean) for spread in spreads if spread.count), default=0.0)
        if metric in PERCENT or largest == 0:
            return cls(metric)
        return cls(metric, min(9, max(0, 3 - math.floor(math.log10(largest)))))

    @property
    def percent(self) -> bool:
        """Whether the metric is a share."""
        return self.metric in PERCENT

    @property
    def factor(self) -> int:
        """From a value to what is written."""
        return 100 if self.percent else 1

    @property
    def label(self) -> str:
        """The metric with its unit."""
        return f"{self.metric} (%)" if self.percent else self.metric

    @property
    def change_label(self) -> str:
        """The unit of a change."""
        return f"{self.metric} (points)" if self.percent else self.metric

    def number(self, spread: Spread, sign: str = "") -> str:
        """`96.4 ± 0.3`; the sign `+` is for changes. Without values a dash, of one seed no deviation."""
        if spread.count == 0:
            return "-"
        text = f"{spread.mean * self.factor:{sign}.{self.decimals}f}"
        if math.isnan(spread.deviation):
            return text
        return f"{text} ± {spread.deviation * self.factor:.{self.decimals}f}"

    def value(self, spread: Spread) -> str:
        """The number with its unit."""
        return self.number(spread) + (" %" if self.percent and spread.count else "")

    def change(self, spread: Spread) -> str:
        """The change with its unit."""
        return self.number(spread, "+") + (" points" if self.percent and spread.count else "")


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    """Differences seed by seed, for the seeds that both have."""
    return {seed: value - others[seed] for seed, value in values.items() if seed in others}
