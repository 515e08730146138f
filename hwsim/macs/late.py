"""Fused groups whose running sum joins late, in float64 lanes (see LateSum)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from .fused import add_cut, cut, inverse, largest_powers, power
from .lanes import AT_RUN_TIME, STOCHASTIC_A, round_lane
from .sums import COLUMNS, Kernel
from .words import word_at


@njit(forceinline=True)
def add_limited(a: Any, b: Any, j0: int, k0: int, k1: int, limit: float, scale: Any, total: Any, how: int) -> None:
    """As `add_cut`, with products from `limit` on infinite."""
    for k in range(k0, k1):
        x, line = a[k], b[k, j0 : j0 + total.size]
        for j in range(total.size):
            p = x * line[j]
            p = np.copysign(np.inf, p) if abs(p) >= limit else p
            total[j] += cut(p * scale[j], how)


@cache
def joined_late(mode: int, how: int, halves: int) -> Kernel:
    """acc = round(the aligned products, then the running sum), group by group.

    With two `halves` a group holds its even terms first; each half is aligned to its own largest exponent, and the two are
    joined with floor. limit: the magnitude from which on a product is infinite. drop: as a power of two, 0 for never.
    """

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any, b: Any, pa: Any, pb: Any, acc: Any, i0: int, j0: int, edges: Any, unit: float, limit: float,
        dot_unit: float, sum_unit: float, total_unit: float, drop: float, low: float, at: Any, first: int, width: int, s: Any,
    ) -> None:  # fmt: skip
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        step, dot_step, sum_step = 1.0 / unit, 1.0 / dot_unit, 1.0 / sum_unit
        tops, totals, spare, scales = np.empty((2, COLUMNS)), np.empty((2, COLUMNS)), np.empty(COLUMNS), np.empty(COLUMNS)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            for g in range(edges.size - 1):
                middle = edges[g] + (edges[g + 1] - edges[g] + halves - 1) // halves
                for i in range(rows):
                    row = acc[i, jb:je]
                    for h in range(halves):
                        k0, k1 = (edges[g], middle) if h == 0 else (middle, edges[g + 1])
                        top, total, scale = tops[h, : je - jb], totals[h, : je - jb], scales[: je - jb]
                        top[:] = 0.0
                        largest_powers(pa[i0 + i], pb, j0 + jb, k0, k1, top, spare[: je - jb])
                        for j in range(row.size):
                            scale[j] = unit * inverse(top[j] if top[j] > 0.0 else 1.0)
                            total[j] = 0.0
                        if limit < np.inf:
                            add_limited(a[i0 + i], b, j0 + jb, k0, k1, limit, scale, total, how)
                        else:
                            add_cut(a[i0 + i], b, j0 + jb, k0, k1, scale, total, how)
                    for j in range(row.size):
                        dot = totals[0, j] * ((tops[0, j] if tops[0, j] > 0.0 else 1.0) * step)
                        largest = tops[0, j]
                        if halves == 2:
                            other = totals[1, j] * ((tops[1, j] if tops[1, j] > 0.0 else 1.0) * step)
                            largest = max(largest, tops[1, j])
                            joint = unit * inverse(largest if largest > 0.0 else 1.0)
                            dot = (np.floor(dot * joint) + np.floor(other * joint)) * inverse(joint)
                        e = power(row[j], low, low)
                        largest = max(largest, e)
                        largest = largest if largest > 0.0 else 1.0
                        kept = 0.0 if abs(row[j]) < np.inf and e < largest * drop else row[j]
                        shrink = inverse(largest)
                        both = np.floor(dot * (dot_unit * shrink)) * (largest * dot_step)
                        both += np.floor(kept * (sum_unit * shrink)) * (largest * sum_step)
                        e = power(both, low, low)
                        fine = total_unit * inverse(e if e > 0.0 else 1.0)
                        word = word_at(s, 0, first + i * width + jb + j, edges[g]) if rule >= STOCHASTIC_A else 0
                        row[j] = round_lane(np.floor(both * fine) * inverse(fine) + 0.0, at, rule, word)

    return kernel
