"""What `hwsim bench NAME` measures: one function for each name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwsim.errors import ConfigError, not_allowed

from . import budgets, circuits, formats, macs, scheduling, steps, training
from .macs import Rates
from .measurement import Measurement
from .scheduling import Costs
from .steps import Measurements

BENCHMARKS: Mapping[str, Callable[[int], Measurement | Measurements | Rates | Costs]] = {
    "circuits": circuits.measure,
    "formats": formats.measure,
    "mac": macs.measure,
    "parq": training.step,
    "prox": training.maps,
    "regression": training.regression,
    "scheduling": scheduling.scheduling,
    "solvers": training.solvers,
    "training": steps.measure,
    **budgets.BENCHMARKS,
}
"""Each takes the number of rounds."""


def benchmark(name: str) -> Callable[[int], Measurement | Measurements | Rates | Costs]:
    """The benchmark of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(not_allowed("bench", name, BENCHMARKS))
    return BENCHMARKS[name]


__all__ = ["BENCHMARKS", "Costs", "Measurement", "Measurements", "Rates", "benchmark"]
