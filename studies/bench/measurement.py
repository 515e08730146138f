"""Times of several things, measured in turn, as ratios to one of them."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        run: does it once.
        target: the largest ratio to the reference that is promised; None for what is only compared with.
        size: the share of the reference's work that a run does; ratios are brought to the whole.
        limit: the most seconds that are promised for the whole; None where a ratio says enough.
    """

    run: Callable[[], object]
    target: float | None = None
    size: float = 1.0
    limit: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Ratios of times.

    Attributes:
        title: what was measured, on what.
        reference: what the ratios are to. seconds: how long one run of it takes.
        ratios: by case. targets: the promised ones.
        comparisons: (fast case, slow case, how many times slower is promised).
        limits: the most seconds promised, by case.
        unit: of what `seconds` holds thousands of.
    """

    title: str
    reference: str
    seconds: float
    ratios: Mapping[str, float]
    targets: Mapping[str, float]
    comparisons: tuple[tuple[str, str, float], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    unit: str = "ms"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        cases: dict[str, dict[str, Any]] = {
            name: {"ratio": ratio, "target": self.targets.get(name)} for name, ratio in self.ratios.items()
        }
        for name, limit in self.limits.items():
            cases[name] |= {"seconds": self._spent(name), "limit": limit}
        faster = [{"case": a, "than": b, "times": t, "target": goal} for a, b, t, goal in self._faster()]
        return {
            "title": self.title,
            "reference": self.reference,
            "seconds": self.seconds,
            "unit": self.unit,
            "cases": cases,
            "faster": faster,
        }

    def as_text(self) -> str:
        """A line a case."""
        width = max(map(len, self.ratios))
        lines = [self.title, f"ratio to {self.reference} ({self.seconds * 1e3:.2f} {self.unit})"]
        for name, ratio in self.ratios.items():
            goal = self.targets.get(name)
            verdict = "" if goal is None else f"  (at most {goal:g}: {'holds' if ratio <= goal else 'missed'})"
            if name in self.limits:
                limit, spent = self.limits[name], self._spent(name)
                verdict += f"  {spent:.1f} s (at most {limit:g} s: {'holds' if spent <= limit else 'missed'})"
            lines.append(f"  {name:<{width}}  {ratio:8.2f}{verdict}")
        for a, b, times, goal in self._faster():
            lines.append(f"  {a} is {times:.1f} x as fast as {b} (at least {goal:g}: {'holds' if times >= goal else 'missed'})")
        return "\n".join(lines)

    def _spent(self, name: str) -> float:
        return self.ratios[name] * self.seconds

    def _faster(self) -> list[tuple[str, str, float, float]]:
        known = [c for c in self.comparisons if c[0] in self.ratios and c[1] in self.ratios]
        return [(a, b, self.ratios[b] / self.ratios[a], goal) for a, b, goal in known]


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let the allocator of this process reuse freed memory (glibc only).

    By default every large tensor is given back to the system and its successor faulted in page by page, which takes several times
    as long as a pass over it and would hide what is measured.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def measured(
    title: str, reference: str, cases: Mapping[str, Case], rounds: int, comparisons: tuple[tuple[str, str, float], ...] = ()
) -> Measurement:
    """The medians of interleaved rounds, but for a first one: of the reference's times, and of each case's ratios.

    The reference runs again before each case, and a ratio is to that run: how fast memory is changes from second to second where
    a machine is shared, for both alike.

    Args:
        title, reference, comparisons: see Measurement; the reference is one of the cases.
        cases: by name, in the order of the table.
        rounds: how many are counted.
    """
    base, ratios = list[float](), {name: list[float]() for name in cases if name != reference}
    for turn in range(rounds + 1):
        for name, found in ratios.items():
            first, spent = _timed(cases[reference]), _timed(cases[name])
            if turn:
                base.append(first)
                found.append(spent / first)
    targets = {name: case.target for name, case in cases.items() if case.target is not None}
    limits = {name: case.limit for name, case in cases.items() if case.limit is not None}
    medians = {name: 1.0 if name == reference else median(ratios[name]) for name in cases}
    return Measurement(title, reference, median(base), medians, targets, comparisons, limits)


def _timed(case: Case) -> float:
    start = time.perf_counter()
    case.run()
    return (time.perf_counter() - start) / case.size
