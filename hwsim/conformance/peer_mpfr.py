"""MPFR (by gmpy2): correct rounding at any precision and range of exponents; overflow is judged here, afterwards."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hwsim.formats import Fixed, Float, Format, Integer, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

EXACT = 128
"""Digits that leave nothing of a float64 to round but what lies below the last place of a fixed-point number."""


def has(fmt: Format) -> bool:
    """All but formats without subnormals, or with a single significant bit, whose ties MPFR breaks otherwise."""
    return isinstance(fmt, Float | Fixed | Integer) and fmt.grid.subnormals and fmt.grid.mantissa_bits > 0


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Every mode, from MPFR's rounding towards zero, away from zero and to nearest, and every overflow rule."""
    unbounded = _unbounded(fmt, rounding.mode, np.where(np.isfinite(x), x, 0).astype(np.float64))
    return {overflow: _bounded(fmt, rounding.mode, overflow, x, unbounded) for overflow in overflows}


def _unbounded(fmt: Format, mode: str, x: Array) -> Array:
    """x rounded as if the exponent had no upper end."""
    magnitudes, places = np.unique(abs(x), return_inverse=True)
    data = magnitudes.tobytes()
    low, high = _mpfr(fmt, "RoundToZero", data), _mpfr(fmt, "RoundAwayZero", data)
    below, above = magnitudes - low, high - magnitudes
    with np.errstate(invalid="ignore", divide="ignore"):
        even = _mpfr(fmt, "RoundToNearest", data) if mode == "nearest_even" else low
        odd = (low / (high - low)) % 2 == 1
    up = {
        "nearest_even": even != low,
        "nearest_away": below >= above,
        "nearest_zero": below > above,
        "toward_zero": np.zeros_like(odd),
        "toward_positive": np.ones_like(odd),
        "toward_negative": np.ones_like(odd),
        "to_odd": ~odd,
    }[mode][places]
    up &= {"toward_positive": x > 0, "toward_negative": x < 0}.get(mode, True)
    magnitude: Array = np.where(up, high[places], low[places])
    return np.copysign(magnitude, x)


@lru_cache(maxsize=3)
def _mpfr(fmt: Format, mode: str, magnitudes: bytes) -> Array:
    """float64 numbers rounded by MPFR to the format's precision and last place; fixed point is all subnormal."""
    import gmpy2

    digits, emin = EXACT if fmt.grid.uniform else fmt.grid.mantissa_bits + 1, fmt.grid.smallest_exponent + 1
    with gmpy2.context(precision=digits, emax=1100, emin=emin, subnormalize=True, round=getattr(gmpy2, mode)):
        return np.array([float(gmpy2.mpfr(v)) for v in np.frombuffer(magnitudes).tolist()])


def _bounded(fmt: Format, mode: str, overflow: str, x: Array, unbounded: Array) -> Array:
    """What the overflow rule makes of finite results out of range, of infinities and of NaN (IEEE 754-2019 section 7.4)."""
    negative = np.signbit(x)
    limit = np.where(negative, fmt.min, fmt.max)
    nan = np.full(x.shape, np.nan if fmt.has_nan else fmt.max)
    endless = np.where(negative, -np.inf if fmt.signed else np.nan, np.inf)
    inwards = np.full(x.shape, mode in ("toward_zero", "to_odd"))
    inwards |= negative if mode == "toward_positive" else ~negative if mode == "toward_negative" else False
    propagated = np.where(negative & (not fmt.signed), limit, endless) if fmt.has_infinity else limit
    beyond, infinite = {
        "saturate": (limit, limit),
        "propagate": (limit, propagated),
        "infinity": (np.where(inwards & (fmt.signed | ~negative), limit, endless), endless),
        "nan": (nan, nan),
        "wrap": (_wrapped(fmt, unbounded), nan),
    }[overflow]
    result = np.where((unbounded > fmt.max) | (unbounded < fmt.min), beyond, unbounded)
    result = np.where(np.isinf(x), infinite, result)
    result = np.where(np.isnan(x), nan, result)
    return result if fmt.has_negative_zero else result + 0.0


def _wrapped(fmt: Format, unbounded: Array) -> Array:
    """Modulo the span of all codes; float64 remainders are exact."""
    span = 2.0 ** (fmt.bits + fmt.grid.smallest_exponent)
    with np.errstate(invalid="ignore"):
        rest: Array = np.mod(unbounded, span)
    return np.where(rest > fmt.max, rest - span, rest)


MPFR = Peer(package("gmpy2", name="MPFR (gmpy2)"), has, rounded, takes_negative=True)
