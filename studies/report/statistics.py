"""Means and deviations over seeds, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PERCENT = ("accuracy", "quantization_rate")
CONFIDENCE = 0.95


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


@dataclass(frozen=True)
class Difference:
    """One series less another, seed by seed.

    Args:
        a, b: what is compared.
        metric: after the last epoch.
        seeds: how many both have.
        difference: the mean of b - a.
        low, high: its confidence interval (Student's t); NaN below two seeds.
        p: of the paired t-test of no difference; NaN below two seeds, 0 or 1 where all differences are equal.
    """

    a: str
    b: str
    metric: str
    seeds: int
    difference: float
    low: float
    high: float
    p: float


def difference(a: str, b: str, metric: str, first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """The paired comparison of two sets of values by seed."""
    changes = list(paired(second, first).values())
    count = len(changes)
    mean = sum(changes) / count if count else math.nan
    if count < 2:
        return Difference(a, b, metric, count, mean, math.nan, math.nan, math.nan)
    from scipy import stats

    error = math.sqrt(sum((change - mean) ** 2 for change in changes) / (count - 1) / count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(a, b, metric, count, mean, mean - half, mean + half, p)
