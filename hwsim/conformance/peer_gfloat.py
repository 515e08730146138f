"""gfloat: formats as records, rounding as array operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwsim.formats import Float, Format, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

MODES = {
    "nearest_even": "TiesToEven",
    "nearest_away": "TiesToAway",
    "toward_zero": "TowardZero",
    "toward_positive": "TowardPositive",
    "toward_negative": "TowardNegative",
}


def format_info(fmt: Any) -> Any:
    """The same format as a gfloat record."""
    from gfloat import Domain, FormatInfo

    # What of a code follows the largest finite value: NaN codes a sign, or one infinity (gfloat takes the place above the NaN).
    high = {"ieee": (1 << fmt.mantissa_bits) - 1, "fn": 1, "fnuz": 0, "finite": 0, "p3109": int(not fmt.signed)}
    return FormatInfo(
        str(fmt),
        fmt.bits,
        fmt.mantissa_bits + 1,
        bias=fmt.resolved_bias,
        is_signed=fmt.signed,
        domain=Domain.Extended if fmt.has_infinity else Domain.Finite,
        has_nz=fmt.has_negative_zero,
        num_high_nans=high[fmt.specials],
        has_subnormals=fmt.subnormals,
        is_twos_complement=False,
    )


def has(fmt: Format) -> bool:
    """Every float."""
    return isinstance(fmt, Float)


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Five modes; `nan` is asked only of the nearest ones, because gfloat lets the others end at the largest value."""
    import gfloat

    if rounding.mode not in MODES:
        return {}
    info, mode = format_info(fmt), gfloat.RoundMode[MODES[rounding.mode]]

    def ask(saturate: bool) -> Array:
        with np.errstate(all="ignore"):
            result: Array = gfloat.round_ndarray(info, x.astype(np.float64), mode, saturate)
        return result

    answers = {"saturate": ask(True)}
    if fmt.has_infinity:
        answers["infinity"] = ask(False)
        answers["propagate"] = np.where(np.isinf(x), answers["infinity"], answers["saturate"])
    elif fmt.has_nan and rounding.mode.startswith("nearest"):
        answers["nan"] = ask(False)
    return {overflow: answers[overflow] for overflow in overflows if overflow in answers}


def defects(fmt: Format, rounding: Rounding, x: Array) -> Mapping[str, Array]:
    """A format without zero still rounds to zero."""
    return {} if fmt.grid.zero else {"a format without zero still rounds to zero": x < fmt.min}


GFLOAT = Peer(package("gfloat"), has, rounded, defects)
