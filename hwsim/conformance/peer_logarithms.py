"""Logarithmic numbers: MPFR's logarithms, and the package xlns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache

import numpy as np

from hwsim.formats import Format, Logarithmic, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

DIGITS = 200
NEXT_TO_A_BOUNDARY = 2.0**-20
"""Of a unit of L; with the base 2^(2^-10) in float64, logarithms are off by up to a fiftieth of that."""


def has(fmt: Format) -> bool:
    """Every logarithmic format."""
    return isinstance(fmt, Logarithmic)


def by_mpfr(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Nearest in the logarithm: L is 2^fraction_bits log2 |x| to the nearest whole number, which is never a tie."""
    return _answers(fmt, rounding, overflows, x, _mpfr_logs)


def by_xlns(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """The same, from a logarithm in float64."""
    return _answers(fmt, rounding, overflows, x, _xlns_logs)


def _answers(
    fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array, logs: Callable[[int, bytes], Array]
) -> Answers:
    """The carried value of L, at most the largest; zero where L is below the smallest."""
    assert isinstance(fmt, Logarithmic)
    if not rounding.mode.startswith("nearest"):
        return {}
    with np.errstate(invalid="ignore"):
        magnitudes, places = np.unique(abs(np.where(np.isfinite(x) & (x != 0), x, 1)).astype(np.float64), return_inverse=True)
    log = np.where(np.isinf(x), 1 << fmt.bits, logs(fmt.fraction_bits, magnitudes.tobytes())[places])
    half = 1 << (fmt.bits - 2)
    values = _powers(fmt.fraction_bits, half)
    magnitude = values[np.clip(log + half, 0, 2 * half - 1)]
    result = np.where((x == 0) | (magnitude == 0), 0.0, np.copysign(magnitude, x))
    result = np.where(np.isnan(x), values[-1], result)
    return dict.fromkeys(overflows, result)


@lru_cache(maxsize=6)
def _mpfr_logs(fraction_bits: int, magnitudes: bytes) -> Array:
    import gmpy2

    with gmpy2.context(precision=DIGITS):
        scale = 1 << fraction_bits
        return np.array([int(gmpy2.rint(gmpy2.log2(gmpy2.mpfr(v)) * scale)) for v in np.frombuffer(magnitudes).tolist()])


@lru_cache(maxsize=6)
def _xlns_logs(fraction_bits: int, magnitudes: bytes) -> Array:
    from xlns import xlnsb

    base = 2.0**2.0**-fraction_bits
    return np.array([xlnsb(v, base).x for v in np.frombuffer(magnitudes).tolist()])


@cache
def _powers(fraction_bits: int, half: int) -> Array:
    """0, then 2^(L / 2^fraction_bits) for L = 1 - half .. half - 1, as the nearest float32."""
    import gmpy2

    with gmpy2.context(precision=DIGITS):
        exact = [gmpy2.exp2(gmpy2.mpfr(log) / (1 << fraction_bits)) for log in range(1 - half, half)]
    with gmpy2.context(precision=24):
        return np.array([0.0, *(float(+power) for power in exact)])


def beside_boundaries(fmt: Format, rounding: Rounding, x: Array) -> Mapping[str, Array]:
    """Where a logarithm in float64 cannot tell on which side of a half it lies."""
    assert isinstance(fmt, Logarithmic)
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log2(abs(x.astype(np.float64))) * 2.0**fmt.fraction_bits
        beside = abs(abs(log - np.floor(log)) - 0.5) < NEXT_TO_A_BOUNDARY
    return {"a logarithm in float64 does not tell the side of a boundary": beside}


MPFR_LOGARITHMS = Peer(package("gmpy2", name="MPFR (gmpy2)"), has, by_mpfr)
XLNS = Peer(package("xlns"), has, by_xlns, beside_boundaries)
