"""ml_dtypes: NumPy's narrow types, rounded to nearest even from float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwsim.formats import Float, Format, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

E8M0 = Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False)
TYPES: Mapping[Format, tuple[str, Overflow]] = {
    Float(8, 7): ("bfloat16", "infinity"),
    Float(5, 10): ("float16", "infinity"),
    Float(3, 4): ("float8_e3m4", "infinity"),
    Float(4, 3): ("float8_e4m3", "infinity"),
    Float(5, 2): ("float8_e5m2", "infinity"),
    Float(4, 3, specials="fn"): ("float8_e4m3fn", "nan"),
    Float(4, 3, specials="fnuz"): ("float8_e4m3fnuz", "nan"),
    Float(5, 2, specials="fnuz"): ("float8_e5m2fnuz", "nan"),
    Float(4, 3, bias=11, specials="fnuz"): ("float8_e4m3b11fnuz", "nan"),
    E8M0: ("float8_e8m0fnu", "nan"),
    Float(2, 3, specials="finite"): ("float6_e2m3fn", "saturate"),
    Float(3, 2, specials="finite"): ("float6_e3m2fn", "saturate"),
    Float(2, 1, specials="finite"): ("float4_e2m1fn", "saturate"),
}
"""The types by format; what lies beyond the largest value is the type's own choice."""


def numpy_type(name: str) -> np.dtype[np.generic]:
    """The NumPy type of this name."""
    import ml_dtypes

    return np.dtype(np.float16 if name == "float16" else getattr(ml_dtypes, name))


def has(fmt: Format) -> bool:
    """The types of the table."""
    return fmt in TYPES


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Nearest even, under the type's own overflow rule."""
    if rounding.mode != "nearest_even":
        return {}
    name, overflow = TYPES[fmt]
    with np.errstate(over="ignore", invalid="ignore"):
        return {overflow: x.astype(numpy_type(name)).astype(np.float64)}


def defects(fmt: Format, rounding: Rounding, x: Array) -> Mapping[str, Array]:
    """Float64 goes through float32; E8M0 has another idea of ties and subnormals."""
    with np.errstate(over="ignore", invalid="ignore"):
        twice = (x.astype(np.float32) != x) & ~np.isnan(x) if x.dtype == np.float64 else np.zeros(x.shape, bool)
    known = {} if fmt == Float(5, 10) else {"float64 is rounded to float32 first": twice}
    if fmt == E8M0:
        fraction, _ = np.frexp(np.where(np.isfinite(x), x, 0))
        known["E8M0: ties go up"] = fraction == 0.75
        known["E8M0: whatever lies between 2^-127 and 2^-126 goes up"] = (x > 2.0**-127) & (x < 2.0**-126)
    return known


ML_DTYPES = Peer(package("ml_dtypes"), has, rounded, defects)
