"""How training turns from free to quantized: functions of the step that fall from 1 to 0."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite

from hwsim.errors import ConfigError


@dataclass(frozen=True)
class Linear:
    """1 - (t - start) / (end - start), 1 before `start` and 0 from `end` on.

    Raises:
        ConfigError: start < 0 or end <= start.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ConfigError(f"schedule: got start {self.start} and end {self.end}; allowed: 0 <= start < end")

    def progress(self, step: int) -> float:
        """The share of the way from start to end, 0..1."""
        return min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)

    def __call__(self, step: int) -> float:
        """The schedule's value after `step` steps, a warm-up's included."""
        return 1 - self.progress(step)


@dataclass(frozen=True)
class Sigmoid(Linear):
    """(sigma(f) - sigma(1)) / (sigma(0) - sigma(1)), sigma(f) = 1 / (1 + exp(steepness (f - center))), f the progress.

    It is 1 at the start and 0 at the end for every centre; Jin et al. 2025's released code normalises for centre 1/2 only.

    Raises:
        ConfigError: as Linear; steepness <= 0 or above 700; a centre outside 0..1.
    """

    steepness: float = 10.0
    center: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isfinite(self.steepness) and 0 < self.steepness <= 700):
            raise ConfigError(f"schedule steepness: got {self.steepness}; allowed: above 0, at most 700")
        if not 0 <= self.center <= 1:
            raise ConfigError(f"schedule center: got {self.center}; allowed: 0 to 1")

    def __call__(self, step: int) -> float:
        """The schedule's value after `step` steps, a warm-up's included."""
        f = self.progress(step)
        if f in (0.0, 1.0):
            return 1 - f
        first, last = self._sigma(0.0), self._sigma(1.0)
        return (self._sigma(f) - last) / (first - last)

    def _sigma(self, f: float) -> float:
        return 1 / (1 + exp(self.steepness * (f - self.center)))
