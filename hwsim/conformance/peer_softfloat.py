"""Berkeley SoftFloat 3e (by softfloatpy): binary16, bfloat16 and binary32 in five rounding modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwsim.formats import Float, Format, Rounding
from hwsim.formats.rounding import Overflow

from .peers import Answers, Array, Peer
from .registry import package

MODES = {
    "nearest_even": "NEAR_EVEN",
    "nearest_away": "NEAR_MAX_MAG",
    "toward_zero": "MIN_MAG",
    "toward_positive": "MAX",
    "toward_negative": "MIN",
}
TARGETS: Mapping[Format, str] = {Float(5, 10): "f16", Float(8, 7): "bf16", Float(8, 23): "f32"}


def has(fmt: Format) -> bool:
    """Three IEEE-like formats."""
    return fmt in TARGETS


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Overflow to infinity, as in IEEE 754; bfloat16 only from binary32."""
    target, source = TARGETS[fmt], "f64" if x.dtype == np.float64 else "f32"
    if rounding.mode not in MODES or target == source or (target, source) == ("bf16", "f64"):
        return {}
    import softfloatpy

    softfloatpy.set_rounding_mode(softfloatpy.RoundingMode[MODES[rounding.mode]])
    convert, kind = getattr(softfloatpy, f"{source}_to_{target}"), softfloatpy.Float64 if source == "f64" else softfloatpy.Float32
    raw, width = x.tobytes(), x.dtype.itemsize
    return {"infinity": np.array([_value(convert(kind.from_bytes(raw[i : i + width][::-1]))) for i in range(0, len(raw), width)])}


def _value(number: Any) -> float:
    bits = number.to_bytes()
    if len(bits) == 2 and type(number).__name__ == "BFloat16":
        bits += b"\0\0"
    return float(np.frombuffer(bits, {2: ">f2", 4: ">f4"}[len(bits)])[0])


SOFTFLOAT = Peer(package("softfloatpy", name="Berkeley SoftFloat (softfloatpy)"), has, rounded)
