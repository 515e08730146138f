"""A tensor's scale from its largest magnitude, and its rounding by that scale, in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import lowering

from . import kernels, magnitude_kernels, nearest_loops
from .compiling import kept, sources
from .kernels import general
from .magnitude_kernels import largest_finite_bits
from .nearest_loops import nearest_scaled, nearest_single

PIECE = 2048


def _entry(version: int) -> Any:
    """round_by_largest, which numba compiles again for another version of its sources."""

    @kept
    def round_by_largest(
        x: Any, out: Any, scale: Any, words: Any, divisor: Any, limits: Any, ends: Any, rules: Any, quickly: Any
    ) -> Any:
        """Round x into out by the scale largest |x| / divisor, 1 where that is zero. Returns whether an element became NaN.

        Args:
            x, out: contiguous float32.
            scale: one float64, where the scale is written.
            words: none are read.
            divisor: float32, the format's largest value.
            limits: of `largest_finite_bits`.
            ends: the smallest and the largest scale, float32.
            rules: the records of the format's Rule and the carrier's.
            quickly: whether the loops for scaled nearest even apply to finite pieces.
        """
        rule, carrier = rules[0], rules[1]
        top = np.int32(largest_finite_bits(x.view(np.int32), limits)).view(np.float32)
        scale[0] = max(min(np.float32(top / divisor), ends[1]), ends[0]) if top > 0 else np.float32(1)
        found = version < 0  # False; a version that is not named would not be closed over
        for low in range(0, x.size, PIECE):
            high = min(low + PIECE, x.size)
            given, result = x[low:high], out[low:high]
            if quickly and (nearest_single(given, result, scale[0], rule) or nearest_scaled(given, result, scale, 0, rule)):
                continue
            found |= general(given, result, words, scale, 0, rule, carrier)
        return found

    return round_by_largest


round_by_largest = _entry(
    sources(
        __file__,
        kernels.__file__,
        magnitude_kernels.__file__,
        nearest_loops.__file__,
        lowering.__file__,
    )
)
