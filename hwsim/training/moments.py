"""Moments of a rounded Gaussian number, from the conditional moments of the rounding: exact sums over the cells of a format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import erfc, exp, inf, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from hwsim.casting import scale_of
from hwsim.casts import Cast
from hwsim.errors import ConfigError
from hwsim.formats import Rounding
from hwsim.formats.base import MAX_LISTED_BITS
from hwsim.formats.levels import Levels
from hwsim.formats.rounding import MODES
from hwsim.formats.steps import steps

from .threads import in_threads, ranges

Array = npt.NDArray[np.float64]
FINE_BITS = 6
REACH = 9.0
PIECE = 4096
POWERS = np.arange(1, 5)[:, None]


@dataclass(frozen=True)
class Cells:
    """E[Q(x)^k | x] = offset[k - 1, j] + slope[k - 1, j] x where edges[j] < x < edges[j + 1], k = 1 .. 4.

    A cell is what rounds to one value (deterministic roundings), or lies between two neighbours (stochastic rounding).
    """

    edges: Array
    offset: Array
    slope: Array


class Moments(NamedTuple):
    """Expectations over x ~ N(mean, deviation^2), each an array; the name lists the factors, q = Q(x)."""

    q: Array
    xq: Array
    qq: Array
    xxqq: Array
    xqqq: Array
    qqqq: Array
    xxxq: Array


def rounded_moments(cast: Cast, mean: Array, deviation: Array) -> Moments:
    """The moments of x and Q(x) for x ~ N(mean, deviation^2), one for each entry of the arrays (a deviation may be zero).

    Raises:
        ConfigError: the converter has no conditional moments of one element (see `cells`).
    """
    c = cells(cast)
    out = np.empty((len(Moments._fields), mean.size))
    in_threads(lambda piece: _integrate(c.edges, c.offset, c.slope, mean, deviation, out, *piece), ranges(mean.size, PIECE))
    return Moments(*out)


@lru_cache(maxsize=64)
def cells(cast: Cast) -> Cells:
    """The cells of a converter.

    Stochastic rounding with up to 6 random bits has 2^(bits + 1) cells between two neighbours; with more, its probabilities
    count as continuous, less half of their step in variant A, which truncates.

    Raises:
        ConfigError: a scale that is found from the data (block formats too), a format of more than 16 bits, an overflow rule
            other than saturation, flushing.
    """
    if reason := uncovered(cast):
        raise ConfigError(f"{cast}: {reason}")
    scale = _fixed_scale(cast)
    values: Array = cast.format.values().double().numpy()
    values = values[(cast.format.min <= values) & (values <= cast.format.max)] * scale
    if cast.rounding.is_stochastic:
        edges, lower, upper, chance, rise = _between_neighbours(values, cast.rounding)
    else:
        if isinstance(cast.format.lattice, Levels):
            inner = steps(cast.format, MODES.index(cast.rounding.mode)).edges * scale
            edges, lower = np.concatenate([[-inf], inner, [inf]]), values
        else:
            edges, lower = _around_outcomes(values, cast.rounding)
        upper, chance, rise = lower, np.zeros_like(lower), np.zeros_like(lower)
    low, high = lower**POWERS, upper**POWERS
    return Cells(edges, low + chance * (high - low), rise * (high - low))


def _around_outcomes(values: Array, rounding: Rounding) -> tuple[Array, Array]:
    """The edges between outcomes of a deterministic rounding, and the outcomes."""
    lower, upper = values[:-1], values[1:]
    if rounding.mode.startswith("nearest"):
        return np.concatenate([[-inf], (lower + upper) / 2, [inf]]), values
    odd = (np.arange(values.size - 1) - int(np.searchsorted(values, 0.0))) % 2 != 0
    inner = {
        "toward_zero": np.where(lower >= 0, lower, upper),
        "toward_positive": upper,
        "toward_negative": lower,
        "to_odd": np.where(odd, lower, upper),
    }[rounding.mode]
    return np.concatenate([[-inf], values, [inf]]), np.concatenate([values[:1], inner, values[-1:]])


def _between_neighbours(values: Array, rounding: Rounding) -> tuple[Array, ...]:
    """Edges, neighbours, and the chance c + r x of the upper one in each cell of stochastic rounding, which saturates."""
    bits = rounding.random_bits
    parts = 1 << (bits + 1) if bits <= FINE_BITS else 1
    lower, upper = (np.repeat(v, parts) for v in (values[:-1], values[1:]))
    part = np.tile(np.arange(parts), values.size - 1)
    width, positive = upper - lower, lower >= 0
    if parts == 1:
        lost = 0.5 ** (bits + 1) if rounding.variant == "A" else 0.0
        rise = 1 / width
        chance = -lower / width - np.where(positive, lost, -lost)
    else:
        fraction = (np.where(positive, part, parts - 1 - part) + 0.5) / parts
        away = (np.floor if rounding.variant == "A" else np.round)(fraction * (1 << bits)) / (1 << bits)
        rise = np.zeros_like(width)
        chance = np.where(positive, away, 1 - away)
    edges = np.concatenate([[-inf], lower + part * width / parts, values[-1:], [inf]])
    first, last = values[:1], values[-1:]
    ends = np.zeros(1)
    return (
        edges,
        np.concatenate([first, lower, last]),
        np.concatenate([first, upper, last]),
        np.concatenate([ends, chance, ends]),
        np.concatenate([ends, rise, ends]),
    )


def uncovered(cast: Cast) -> str:
    """Why a converter has no conditional moments of one element here, and what has; empty if it has."""
    if cast.format.kind == "block" or (cast.scaling is not None and cast.scaling.rule not in ("none", "fixed")):
        return "its scale depends on the whole tensor; allowed in the theory: no scaling, or the rule `fixed`"
    if cast.format.bits > MAX_LISTED_BITS:
        return f"its moments are sums over its values; allowed in the theory: formats of up to {MAX_LISTED_BITS} bits"
    if cast.projection.overflow not in ("saturate", "propagate") or cast.flush_inputs or cast.flush_outputs:
        return f"got overflow {cast.projection.overflow!r} or flushing; allowed in the theory: 'saturate' without flushing"
    return ""


def _fixed_scale(cast: Cast) -> float:
    if cast.scaling is None or not cast.scaled:
        return 1.0
    return float(scale_of(torch.zeros(1), cast.scaling, cast.format)[0])


@njit(inline="always")
def _density(u: float) -> float:
    return exp(-0.5 * u * u) / sqrt(2 * pi)


@njit(nogil=True, cache=True)
def _integrate(edges: Any, offset: Any, slope: Any, mean: Any, deviation: Any, out: Any, first: Any, last: Any) -> None:
    """Sum the Gaussian integrals of x^r E[Q^k | x] over the cells within nine deviations of the mean."""
    top = edges.size - 2
    total = np.empty(7)
    for n in range(first, last):
        m, s = mean[n], deviation[n]
        total[:] = 0.0
        low = max(0, np.searchsorted(edges, m - REACH * s) - 1)
        u = -REACH
        below, density = 0.5 * erfc(REACH / sqrt(2.0)), _density(REACH)
        j = low
        while True:
            end = s == 0.0 or j == top or edges[j + 1] >= m + REACH * s
            v = REACH if end else (edges[j + 1] - m) / s
            next_below, next_density = 0.5 * erfc(-v / sqrt(2.0)), _density(v)
            # Integrals of the powers of the standard Gaussian g over u .. v, then of x = m + s g.
            g0 = next_below - below
            g1 = density - next_density
            g2 = g0 + u * density - v * next_density
            g3 = (u * u + 2) * density - (v * v + 2) * next_density
            g4 = 3 * g0 + (u * u * u + 3 * u) * density - (v * v * v + 3 * v) * next_density
            x1 = m * g0 + s * g1
            x2 = m * m * g0 + 2 * m * s * g1 + s * s * g2
            x3 = m**3 * g0 + 3 * m * m * s * g1 + 3 * m * s * s * g2 + s**3 * g3
            x4 = m**4 * g0 + 4 * m**3 * s * g1 + 6 * m * m * s * s * g2 + 4 * m * s**3 * g3 + s**4 * g4
            total[0] += offset[0, j] * g0 + slope[0, j] * x1
            total[1] += offset[0, j] * x1 + slope[0, j] * x2
            total[2] += offset[1, j] * g0 + slope[1, j] * x1
            total[3] += offset[1, j] * x2 + slope[1, j] * x3
            total[4] += offset[2, j] * x1 + slope[2, j] * x2
            total[5] += offset[3, j] * g0 + slope[3, j] * x1
            total[6] += offset[0, j] * x3 + slope[0, j] * x4
            if end:
                break
            u, below, density = v, next_below, next_density
            j += 1
        for k in range(total.size):  # a slice assignment would compile the text of its error message too
            out[k, n] = total[k]
