"""Posits: SoftPosit, and the code string of the standard built digit by digit in integers."""

from __future__ import annotations

from functools import cache, lru_cache
from math import frexp, ldexp

import numpy as np

from hwsim.formats import Format, Posit, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import Oracle, package

FRACTION_BITS = 52
EXACT, BELOW, TIE, ABOVE = range(4)
"""How the digits that are cut off compare with half a unit of the last digit that is kept."""


def has(fmt: Format) -> bool:
    """Every posit."""
    return isinstance(fmt, Posit)


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Every mode, by the string of regime, exponent and fraction; nearest takes no number to zero, and none overflows.

    The other modes go by value; strings are in the order of their values.

    Source: Standard for Posit Arithmetic (2022), sections 3.2 and 4.1.
    """
    assert isinstance(fmt, Posit)
    finite = np.where(np.isfinite(x), x, 0).astype(np.float64)
    magnitudes, places = np.unique(abs(finite), return_inverse=True)
    kept, rest = (part[places] for part in strings(fmt.bits, fmt.es, magnitudes.tobytes()))
    odd, nearest = kept % 2 == 1, rounding.mode.startswith("nearest")
    up = {
        "nearest_even": (rest == ABOVE) | ((rest == TIE) & odd),
        "nearest_away": (rest == ABOVE) | (rest == TIE),
        "nearest_zero": rest == ABOVE,
        "toward_zero": np.zeros_like(odd),
        "toward_positive": (rest != EXACT) & (finite > 0),
        "toward_negative": (rest != EXACT) & (finite < 0),
        "to_odd": (rest != EXACT) & ~odd,
    }[rounding.mode]
    code = np.minimum(kept + up, (1 << (fmt.bits - 1)) - 1)
    code = np.where(nearest & (finite != 0), np.maximum(code, 1), code)
    values = magnitudes_of(fmt.bits, fmt.es)
    result = np.where(finite < 0, -values[code], values[code]) + 0.0
    result = np.where(np.isnan(x), np.nan, result)
    largest = np.where(x < 0, -values[-1], values[-1])
    return {rule: np.where(np.isinf(x), np.nan if rule == "nan" else largest, result) for rule in overflows}


@lru_cache(maxsize=6)
def strings(bits: int, es: int, magnitudes: bytes) -> tuple[Array, Array]:
    """The first bits - 1 digits of each number's endless string after the sign, and how the rest compares with a half."""
    kept, rest = [], []
    for x in np.frombuffer(magnitudes).tolist():
        whole, cut = _string(x, bits, es)
        kept.append(whole)
        rest.append(cut)
    return np.array(kept), np.array(rest)


def _string(x: float, bits: int, es: int) -> tuple[int, int]:
    if x == 0:
        return 0, EXACT
    mantissa, exponent = frexp(x)
    regime, low = divmod(exponent - 1, 1 << es)
    run = "1" * (regime + 1) + "0" if regime >= 0 else "0" * -regime + "1"
    fraction = int(ldexp(mantissa, FRACTION_BITS + 1)) - (1 << FRACTION_BITS)
    digits = run + (format(low, f"0{es}b") if es else "") + format(fraction, f"0{FRACTION_BITS}b")
    tail = digits[bits - 1 :]
    if "1" not in tail:
        return int(digits[: bits - 1], 2), EXACT
    return int(digits[: bits - 1], 2), BELOW if tail[0] == "0" else ABOVE if "1" in tail[1:] else TIE


@cache
def magnitudes_of(bits: int, es: int) -> Array:
    """The values of the codes below that of NaR."""
    return np.array([magnitude(code, bits, es) for code in range(1 << (bits - 1))])


def magnitude(code: int, bits: int, es: int) -> float:
    """The value of a code below that of NaR, read digit by digit: 0, or useed^regime 2^exponent (1 + fraction)."""
    if code == 0:
        return 0.0
    digits = format(code, f"0{bits - 1}b")
    run = len(digits) - len(digits.lstrip(digits[0]))
    regime = run - 1 if digits[0] == "1" else -run
    rest = digits[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)
    fraction = sum(2.0**-i for i, digit in enumerate(rest[es:], 1) if digit == "1")
    return float((2.0 ** (1 << es)) ** regime * 2.0**exponent * (1 + fraction))


def softposit_has(fmt: Format) -> bool:
    """The posits of es 2, 8 bits of es 0 and 16 of es 1."""
    return isinstance(fmt, Posit) and (fmt.es == 2 or (fmt.bits, fmt.es) in ((8, 0), (16, 1)))


def by_softposit(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Nearest, and infinities to NaR, as SoftPosit converts doubles."""
    if rounding.mode != "nearest_even":
        return {}
    import softposit

    def convert(v: float) -> float:
        match fmt:
            case Posit(bits=8, es=0):
                return float(softposit.convertP8ToDouble(softposit.convertDoubleToP8(v)))
            case Posit(bits=16, es=1):
                return float(softposit.convertP16ToDouble(softposit.convertDoubleToP16(v)))
            case _:
                return float(softposit.convertPX2ToDouble(softposit.convertDoubleToPX2(v, fmt.bits)))

    special = np.isfinite(x)
    numbers, places = np.unique(np.where(special, x, 0).astype(np.float64), return_inverse=True)
    result = np.array([convert(v) for v in numbers.tolist()])[places]
    return {"nan": np.where(special, result, np.nan)}


POSIT_STRINGS = Peer(Oracle("Standard for Posit Arithmetic (2022), strings in integers"), has, rounded)
SOFTPOSIT = Peer(package("softposit", name="SoftPosit (softposit)"), softposit_has, by_softposit)
