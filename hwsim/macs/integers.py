"""Integer and fixed-point accumulators whose products lie on their grid: no rounding, only the width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from hwsim.formats import Fixed, Integer

from .operands import Array, Port
from .record import Mac
from .sums import Kernel

if TYPE_CHECKING:
    from .cpu import Block

EXACT_FLOAT = 2.0**53
INT64_PRODUCT = 2.0**62


@cache
def clamped() -> Kernel:
    """acc = acc + a b, held between the limits, in float64, where every step is exact."""

    @njit(cache=True, nogil=True)
    def kernel(a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, low: float, high: float) -> None:
        rows, n = acc.shape
        for kb in range(k0, k1, 16):
            for i in range(rows):
                row = acc[i]
                for k in range(kb, min(kb + 16, k1)):
                    x = a[i0 + i, k]
                    line = b[k, j0 : j0 + n]
                    for j in range(n):
                        row[j] = min(max(row[j] + x * line[j], low), high)

    return kernel


@cache
def integral(wrap: bool) -> Kernel:
    """The same in int64, for products of up to 62 bits; wrapping to `bits` bits, or held between the limits."""

    @njit(cache=True, nogil=True)
    def kernel(a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, low: Any, high: Any, bits: int) -> None:
        rows, n = acc.shape
        for i in range(rows):
            for j in range(n):
                total = np.int64(acc[i, j])
                for k in range(k0, k1):
                    total += a[i0 + i, k] * b[k, j0 + j]
                    total = (total << (64 - bits)) >> (64 - bits) if wrap else min(max(total, low), high)
                acc[i, j] = total

    return kernel


@dataclass(frozen=True)
class Integers:
    """The innermost sum in integers; `step` is the accumulator's unit, `bound` what no sum exceeds."""

    a: Array
    b: Array
    whole_a: npt.NDArray[np.int64]
    whole_b: npt.NDArray[np.int64]
    step: float
    low: float
    high: float
    bits: int
    wrap: bool
    bound: float

    @classmethod
    def of(cls, a: Port, b: Port, c: Array | None, mac: Mac) -> Integers | None:
        """The integer sum of these operands, or None where something has to be rounded."""
        fmt = mac.accumulator.format
        if not isinstance(fmt, Integer | Fixed) or mac.product != "exact" or mac.tree or not a.values.size or not b.values.size:
            return None
        if not (np.isfinite(a.values).all() and np.isfinite(b.values).all()):
            return None
        unit_a, unit_b = (p.format.grid.smallest_positive if isinstance(p.format, Integer | Fixed) else 1.0 for p in (a, b))
        x, y, step = a.values / unit_a, b.values / unit_b, fmt.grid.smallest_positive
        if unit_a * unit_b != step or (np.floor(x) != x).any() or (np.floor(y) != y).any():
            return None
        largest = float(np.abs(x).max()) * float(np.abs(y).max())
        if largest >= INT64_PRODUCT:
            return None
        start = 0.0 if c is None else float(np.abs(c).max()) / step
        wrap = mac.accumulator.projection.overflow == "wrap"
        if wrap and not fmt.signed:
            return None
        return cls(x, y, x.astype(np.int64), y.astype(np.int64), step, fmt.min / step, fmt.max / step, fmt.bits, wrap,
                   start + largest * x.shape[1])  # fmt: skip

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        """acc taken on over ks: an exact float64 matmul where no sum leaves the range, or wrapping makes order immaterial."""
        i0, i1, j0, j1, _ = block
        acc /= self.step
        fits = self.bound <= min(self.high, -self.low)
        if self.bound < EXACT_FLOAT and (fits or self.wrap):
            acc += self.a[i0:i1, ks.start : ks.stop] @ self.b[ks.start : ks.stop, j0:j1]
            if not fits:
                span = self.high - self.low + 1
                acc -= span * np.floor((acc - self.low) / span)
        elif self.bound / max(width, 1) < EXACT_FLOAT and not self.wrap and self.product_fits:
            clamped()(self.a, self.b, acc, i0, j0, ks.start, ks.stop, self.low, self.high)
        else:
            integral(self.wrap)(
                self.whole_a, self.whole_b, acc, i0, j0, ks.start, ks.stop, int(self.low), int(self.high), self.bits
            )
        acc *= self.step

    @property
    def product_fits(self) -> bool:
        """Whether a sum in range and one product are exact in float64."""
        return float(np.abs(self.a).max()) * float(np.abs(self.b).max()) + max(self.high, -self.low) < EXACT_FLOAT
