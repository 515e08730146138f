"""One linear regression problem and one run of constant-step SGD on it: what simulation, recursion and bounds have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwsim.errors import ConfigError, not_allowed

from .quantizers import Component, Quantizer, parse_quantizer, parse_quantizers

Array = npt.NDArray[np.float64]
Average = Literal["all", "tail", "none"]
AVERAGES = {"all": "all", "tail": "tail", "none": "none", "last": "none"}


class StabilityWarning(UserWarning):
    """The step size lies beyond mean-square stability: the expected risk grows without bound."""


@dataclass(frozen=True)
class Run:
    """y = <x, w*> + xi with x ~ N(0, diag(eigenvalues)), xi ~ N(0, noise_variance), and SGD from w_0 = 0 with a constant step.

    Attributes:
        eigenvalues, optimum: float64, shape (d,), in the eigenbasis.
        first: the first iterate of the average; `steps` where only the last one, w_N, counts.
        storage: the quantizer of the stored weights after each update, or None.
    """

    eigenvalues: Array
    optimum: Array
    noise_variance: float
    step_size: float
    steps: int
    batch_size: int
    quantizers: Mapping[Component, Quantizer]
    first: int
    storage: Quantizer | None

    @cached_property
    def signal(self) -> float:
        """||w*||^2 in the norm of H: the variance of the labels without noise."""
        return float(self.eigenvalues @ self.optimum**2)

    @property
    def averaged(self) -> bool:
        """Whether iterates are averaged, or the last one counts."""
        return self.first < self.steps


def describe(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    average: str | None = "all",
    tail: int | None = None,
    storage: Any = None,
) -> Run:
    """The Run of a user's arguments.

    Raises:
        ConfigError: negative or non-finite eigenvalues, shapes that differ, a number out of range, a tail longer than the run
            or without `average="tail"`, an unknown quantizer.
    """
    h = _vector("eigenvalues", eigenvalues)
    if (h < 0).any():
        i = int(np.argmax(h < 0))
        raise ConfigError(f"eigenvalues: got {h[i]:g} at index {i}; allowed: variances, from 0 on")
    w = _vector("optimum", np.full(h.shape, optimum, float) if np.ndim(optimum) == 0 else optimum)
    if w.shape != h.shape:
        raise ConfigError(f"optimum: got {w.size} entries for {h.size} eigenvalues; allowed: as many, or one number for all")
    _number("noise_variance", noise_variance, 0.0, "a variance, from 0 on")
    _number("step_size", step_size, np.nextafter(0, 1), "a positive step")
    _count("steps", steps)
    _count("batch_size", batch_size)
    return Run(
        eigenvalues=h,
        optimum=w,
        noise_variance=float(noise_variance),
        step_size=float(step_size),
        steps=steps,
        batch_size=batch_size,
        quantizers=parse_quantizers(quantizers),
        first=_first(average, tail, steps),
        storage=None if storage is None else parse_quantizer(storage, "storage"),
    )


def _first(average: str | None, tail: int | None, steps: int) -> int:
    kind = AVERAGES.get("none" if average is None else average)
    if kind is None:
        raise ConfigError(not_allowed("average", average, AVERAGES))
    if (tail is not None) != (kind == "tail"):
        raise ConfigError(f"tail: got {tail} with average {average!r}; allowed: a number of iterates with 'tail', and only there")
    if tail is None:
        return 0 if kind == "all" else steps
    _count("tail", tail)
    if tail > steps:
        raise ConfigError(f"tail: got {tail} iterates of a run of {steps}; allowed: 1 to {steps}")
    return steps - tail


def _vector(name: str, given: Any) -> Array:
    vector = np.asarray(given, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise ConfigError(f"{name}: got shape {vector.shape}; allowed: one axis of at least one entry")
    if not np.isfinite(vector).all():
        i = int(np.argmin(np.isfinite(vector)))
        raise ConfigError(f"{name}: got {vector[i]} at index {i}; allowed: finite numbers")
    return vector


def _number(name: str, given: Any, low: float, allowed: str) -> None:
    if isinstance(given, bool) or not isinstance(given, float | int | np.floating) or not isfinite(given) or given < low:
        raise ConfigError(f"{name}: got {given!r}; allowed: {allowed}")


def _count(name: str, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise ConfigError(f"{name}: got {given!r}; allowed: a whole number from 1 on")
