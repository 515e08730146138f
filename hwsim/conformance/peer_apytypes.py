"""APyTypes: fixed point of any width in every rounding and overflow rule; IEEE-like floats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwsim.formats import Fixed, Float, Format, Integer, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

MODES = {
    "nearest_even": "TIES_EVEN",
    "nearest_away": "TIES_AWAY",
    "nearest_zero": "TIES_ZERO",
    "toward_zero": "TO_ZERO",
    "toward_positive": "TO_POS",
    "toward_negative": "TO_NEG",
    "to_odd": "JAM_UNBIASED",
}
INTEGER_BITS, FRACTION_BITS = 140, 160
"""Where binary32 fits exactly."""


def has(fmt: Format) -> bool:
    """Fixed point that uses every code, and signed IEEE-like floats with subnormals and a fraction."""
    if isinstance(fmt, Float):
        return fmt.specials == "ieee" and fmt.subnormals and fmt.signed and fmt.mantissa_bits > 0
    return isinstance(fmt, Fixed | Integer) and not fmt.symmetric


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Fixed point that saturates, from float32, and IEEE-like floats that overflow to infinity.

    Wrapping is not asked: from more than one machine word to one, APyTypes 0.5 leaves the value as it is.
    """
    if isinstance(fmt, Float):
        return {"infinity": _float(fmt, rounding, x)}
    return {"saturate": _fixed(fmt, rounding, x)} if x.dtype == np.float32 else {}


def _fixed(fmt: Format, rounding: Rounding, x: Array) -> Array:
    from apytypes import APyFixedArray, OverflowMode, QuantizationMode

    finite = np.where(np.isfinite(x), x, 0).astype(np.float64)
    exact = APyFixedArray.from_float(finite, int_bits=INTEGER_BITS, frac_bits=FRACTION_BITS)
    fraction = -fmt.grid.smallest_exponent
    sign_bit = 0 if fmt.signed else 1
    mode = QuantizationMode[MODES[rounding.mode]]
    cast = exact.cast(fmt.bits - fraction + sign_bit, fraction, quantization=mode, overflow=OverflowMode.SAT)
    result: Array = cast.to_numpy()
    return result


def _float(fmt: Float, rounding: Rounding, x: Array) -> Array:
    from apytypes import APyFloatArray, QuantizationMode

    with np.errstate(invalid="ignore"):
        exact = APyFloatArray.from_float(x.astype(np.float64), 11, 52)
    mode = QuantizationMode[MODES[rounding.mode]]
    result: Array = exact.cast(fmt.exponent_bits, fmt.mantissa_bits, fmt.resolved_bias, mode).to_numpy()
    return result


def defects(fmt: Format, rounding: Rounding, x: Array) -> Mapping[str, Array]:
    """Fixed point knows no infinity; a float cast flushes what should round up to the smallest normal value."""
    if not isinstance(fmt, Float):
        return {"fixed point takes no infinity": np.isinf(x)}
    edge = (abs(x) < fmt.smallest_normal) & (abs(x) > fmt.smallest_normal - fmt.smallest_subnormal)
    return {"what rounds up to the smallest normal becomes zero": edge}


APYTYPES = Peer(package("apytypes"), has, rounded, defects)
