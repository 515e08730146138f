"""Integer and fixed-point accumulators whose products lie on their grid: no rounding, only the width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hwsim.formats import Fixed, Integer

from .operands import Array, Port
from .record import Mac
from .sums import Kernel

if TYPE_CHECKING:
    from .cpu import Block

Whole = npt.NDArray[np.int32] | npt.NDArray[np.int64]
INT64_PRODUCT, INT32_PRODUCT = 2.0**62, 2.0**31
COLUMNS, DEPTH = 256, 16

if TYPE_CHECKING:

    def wrapping_step(total: Any, x: Any, y: Any) -> Any:
        """total + x y modulo 2^32."""

    def saturating_step(total: Any, x: Any, y: Any, low: Any, high: Any) -> Any:
        """total + x y, held in 32 bits and between the limits; x y has 32 bits."""
else:

    def _call(builder: ir.IRBuilder, name: str, *args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)] * 2)
        return builder.call(builder.module.declare_intrinsic(f"llvm.{name}.i32", (), kind), args)

    @intrinsic
    def wrapping_step(typing: Any, total: Any, x: Any, y: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.add(args[0], builder.mul(args[1], args[2]))

        return types.int32(types.int32, types.int32, types.int32), build

    @intrinsic
    def saturating_step(typing: Any, total: Any, x: Any, y: Any, low: Any, high: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            total, x, y, low, high = args
            held = _call(builder, "sadd.sat", total, builder.mul(x, y))
            return _call(builder, "smin", _call(builder, "smax", held, low), high)

        return types.int32(*[types.int32] * 5), build


@cache
def lanes32(wrap: bool) -> Kernel:
    """acc = acc + a b in 32-bit lanes: modulo 2^32, then 2^bits, or held between the limits after every term."""

    @njit(cache=True, nogil=True)
    def kernel(a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, low: Any, high: Any, bits: int) -> None:
        rows, n = acc.shape
        panel = np.empty((DEPTH, COLUMNS), np.int32)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            for kb in range(k0, k1, DEPTH):
                ke = min(kb + DEPTH, k1)
                for k in range(kb, ke):
                    for j in range(je - jb):
                        panel[k - kb, j] = b[k, j0 + jb + j]
                for i in range(rows):
                    row = acc[i, jb:je]
                    for k in range(kb, ke):
                        x, line = a[i0 + i, k], panel[k - kb, : je - jb]
                        for j in range(row.size):
                            row[j] = wrapping_step(row[j], x, line[j]) if wrap else saturating_step(row[j], x, line[j], low, high)
        if wrap:
            for i in range(rows):
                for j in range(n):
                    acc[i, j] = np.int32(acc[i, j] << (32 - bits)) >> (32 - bits)

    return kernel


@njit(cache=True, nogil=True)
def saturating64(a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, low: Any, high: Any) -> None:
    """acc = acc + a b, held between the limits after every term, for products of up to 62 bits."""
    rows, n = acc.shape
    for i in range(rows):
        row = acc[i]
        for k in range(k0, k1):
            x, line = a[i0 + i, k], b[k, j0 : j0 + n]
            for j in range(n):
                row[j] = min(max(row[j] + x * line[j], low), high)


@dataclass(frozen=True)
class Integers:
    """The innermost sum in integers; `step` is the accumulator's unit, `wrap` says that sums wrap or never leave the range."""

    a: Whole
    b: Whole
    step: float
    low: int
    high: int
    bits: int
    wrap: bool

    @classmethod
    def of(cls, a: Port, b: Port, c: Array | None, mac: Mac) -> Integers | None:
        """The integer sum of these operands, or None where something has to be rounded."""
        fmt = mac.accumulator.format
        if not isinstance(fmt, Integer | Fixed) or mac.product != "exact" or mac.tree or not a.values.size or not b.values.size:
            return None
        step = fmt.grid.smallest_positive
        unit_a, unit_b = (p.format.grid.smallest_positive if isinstance(p.format, Integer | Fixed) else 1.0 for p in (a, b))
        x, y, z = a.values / unit_a, b.values / unit_b, np.zeros(1) if c is None else c / step
        largest, start = float(np.abs(x).max()) * float(np.abs(y).max()), float(np.abs(z).max())
        if unit_a * unit_b != step or not max(largest, start) < INT64_PRODUCT:
            return None
        if any((np.floor(values) != values).any() for values in (x, y, z)):
            return None
        wrap = mac.accumulator.projection.overflow == "wrap"
        if wrap and not fmt.signed:
            return None
        low, high = round(fmt.min / step), round(fmt.max / step)
        fits = start + largest * x.shape[1] <= min(high, -low)
        narrow = wrap or fits or max(largest, start) < INT32_PRODUCT
        kind: Any = np.int32 if narrow else np.int64
        return cls(x.astype(np.int64).astype(kind), y.astype(np.int64).astype(kind), step, low, high, fmt.bits, wrap or fits)

    def advance(self, acc: Array, block: Block, ks: range, with_c: bool, width: int) -> None:
        """acc taken on over ks."""
        total = (acc / self.step).astype(np.int64).astype(self.a.dtype)
        where = block.i0, block.j0, ks.start, ks.stop
        if self.a.dtype == np.int64:
            saturating64(self.a, self.b, total, *where, self.low, self.high)
        else:
            lanes32(self.wrap)(self.a, self.b, total, *where, np.int32(self.low), np.int32(self.high), self.bits)
        np.multiply(total, self.step, out=acc)
