"""Fused groups in float64 lanes: every aligned term is an integer below 2^52, so that plain sums are exact in any order.

An exponent is carried as its power of two: the largest exponent is a largest product, and aligning is one multiplication.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from .lanes import AT_RUN_TIME, EXPONENT_MASK, INVERSE, STOCHASTIC_A, bits_float, float_bits, round_lane
from .sums import COLUMNS, Kernel
from .words import word_at

CUTS = {"truncate": 0, "floor": 1, "nearest": 2, "sticky": 3}
TRUNCATE, FLOOR, NEAREST, STICKY = range(4)


@njit(forceinline=True)
def cut(x: Any, how: int) -> Any:
    """x cut at one (see Alignment)."""
    if how == FLOOR:
        return np.floor(x)
    if how == NEAREST:
        return np.rint(x)
    whole = np.trunc(x)
    if how == STICKY:
        return whole + (0.0 if whole == x or x != x else np.copysign(0.5, x))
    return whole


@njit(forceinline=True)
def power(x: float, low: float, of_zero: float) -> float:
    """2^exponent of x, at least `low`; `of_zero` for zero, 0 for NaN and the infinities."""
    m = abs(x)
    e = max(bits_float(float_bits(x) & EXPONENT_MASK), low)
    return (of_zero if m == 0.0 else e) if m < np.inf else 0.0


@njit(forceinline=True)
def inverse(x: float) -> float:
    """1 / x of a power of two from 2^-1022 to 2^1022: a subtraction of exponents, where a division takes many cycles."""
    return bits_float(INVERSE - float_bits(x))


@njit(forceinline=True)
def largest_powers(pa: Any, pb: Any, j0: int, k0: int, k1: int, top: Any, spare: Any) -> None:
    """top = the larger of top and every pa pb, lane by lane.

    Four terms a pass, by way of `spare`: a maximum in place becomes masked stores, which are slow.
    """
    k, j1 = k0, j0 + top.size
    while k < k1:
        if k + 4 <= k1:
            x0, x1, x2, x3 = pa[k], pa[k + 1], pa[k + 2], pa[k + 3]
            l0, l1, l2, l3 = pb[k, j0:j1], pb[k + 1, j0:j1], pb[k + 2, j0:j1], pb[k + 3, j0:j1]
            for j in range(top.size):
                spare[j] = larger(larger(x0 * l0[j], x1 * l1[j]), larger(x2 * l2[j], x3 * l3[j]))
            k += 4
        else:
            x0, l0 = pa[k], pb[k, j0:j1]
            for j in range(top.size):
                spare[j] = x0 * l0[j]
            k += 1
        # The maximum as a sum, which is exact for powers of two.
        for j in range(top.size):
            top[j] += larger(spare[j] - top[j], 0.0)


@njit(forceinline=True)
def larger(x: float, y: float) -> float:
    """The larger of two numbers, as one machine instruction."""
    return x if x > y else y


@njit(forceinline=True)
def add_cut(a: Any, b: Any, j0: int, k0: int, k1: int, scale: Any, total: Any, how: int) -> None:
    """total += the products a b, scaled and cut at one, lane by lane."""
    k, j1 = k0, j0 + total.size
    while k < k1:
        if k + 4 <= k1:
            x0, x1, x2, x3 = a[k], a[k + 1], a[k + 2], a[k + 3]
            l0, l1, l2, l3 = b[k, j0:j1], b[k + 1, j0:j1], b[k + 2, j0:j1], b[k + 3, j0:j1]
            for j in range(total.size):
                s = scale[j]
                low = cut(x0 * l0[j] * s, how) + cut(x1 * l1[j] * s, how)
                total[j] += low + (cut(x2 * l2[j] * s, how) + cut(x3 * l3[j] * s, how))
            k += 4
        else:
            x0, l0 = a[k], b[k, j0:j1]
            for j in range(total.size):
                total[j] += cut(x0 * l0[j] * scale[j], how)
            k += 1


@cache
def aligned(mode: int, how: int) -> Kernel:
    """acc = round(the running sum and a group's products, aligned together), group by group.

    pa, pb: the operands' powers of two, 0 for zero. za, zb: for each group 2^e_zero where it has a zero operand, else 0.
    firsts: each group's first term.
    """

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any, b: Any, pa: Any, pb: Any, za: Any, zb: Any, acc: Any, i0: int, j0: int, edges: Any, firsts: Any, g0: int,
        unit: float, low: float, of_zero: float, at: Any, first: int, width: int, s: Any,
    ) -> None:  # fmt: skip
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        room_top, room_spare, room_sum = np.empty(COLUMNS), np.empty(COLUMNS), np.empty(COLUMNS)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            top, spare, total = room_top[: je - jb], room_spare[: je - jb], room_sum[: je - jb]
            for g in range(edges.size - 1):
                zeros = zb[g0 + g, j0 + jb : j0 + je]
                for i in range(rows):
                    row = acc[i, jb:je]
                    zero = za[i0 + i, g0 + g]
                    for j in range(row.size):
                        top[j] = max(max(zero, zeros[j]), power(row[j], low, of_zero))
                    largest_powers(pa[i0 + i], pb, j0 + jb, edges[g], edges[g + 1], top, spare)
                    for j in range(row.size):
                        top[j] = unit * inverse(top[j] if top[j] > 0.0 else 1.0)
                        total[j] = cut(row[j] * top[j], how)
                    add_cut(a[i0 + i], b, j0 + jb, edges[g], edges[g + 1], top, total, how)
                    for j in range(row.size):
                        word = word_at(s, 0, first + i * width + jb + j, firsts[g]) if rule >= STOCHASTIC_A else 0
                        row[j] = round_lane(total[j] * inverse(top[j]) + 0.0, at, rule, word)

    return kernel


@cache
def scaled_groups(mode: int, how: int) -> Kernel:
    """As `aligned`, where a term is the exact sum of `size` products times the scales sa sb, with the scales' exponent.

    qa, qb: the scales' powers of two, 0 for zero.
    """

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any, b: Any, sa: Any, sb: Any, qa: Any, qb: Any, size: int, block: int, acc: Any, i0: int, j0: int, edges: Any,
        unit: float, low: float, of_zero: float, at: Any, first: int, width: int, s: Any,
    ) -> None:  # fmt: skip
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        depth = 1
        for g in range(edges.size - 1):
            depth = max(depth, (edges[g + 1] - edges[g] + size - 1) // size)
        room = np.empty((depth, COLUMNS))
        room_top, room_seen = np.empty(COLUMNS), np.empty(COLUMNS)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            top, seen = room_top[: je - jb], room_seen[: je - jb]
            for g in range(edges.size - 1):
                for i in range(rows):
                    row = acc[i, jb:je]
                    for j in range(row.size):
                        top[j] = power(row[j], low, of_zero)
                    terms = 0
                    for k0 in range(edges[g], edges[g + 1], size):
                        term = room[terms, : je - jb]
                        term[:] = 0.0
                        seen[:] = 0.0
                        for k in range(k0, min(k0 + size, edges[g + 1])):
                            x = a[i0 + i, k]
                            line = b[k, j0 + jb : j0 + je]
                            for j in range(row.size):
                                p = x * line[j]
                                term[j] += p
                                seen[j] += abs(p)
                        x, y = sa[i0 + i, k0 // block], qa[i0 + i, k0 // block]
                        line, powers = sb[k0 // block, j0 + jb : j0 + je], qb[k0 // block, j0 + jb : j0 + je]
                        for j in range(row.size):
                            e = y * powers[j]
                            term[j] *= x * line[j]
                            top[j] = max(top[j], of_zero if seen[j] == 0.0 or e == 0.0 else e)
                        terms += 1
                    for j in range(row.size):
                        top[j] = unit * inverse(top[j] if top[j] > 0.0 else 1.0)
                        row[j] = cut(row[j] * top[j], how)
                    for t in range(terms):
                        term = room[t, : je - jb]
                        for j in range(row.size):
                            row[j] += cut(term[j] * top[j], how)
                    for j in range(row.size):
                        word = word_at(s, 0, first + i * width + jb + j, edges[g]) if rule >= STOCHASTIC_A else 0
                        row[j] = round_lane(row[j] * inverse(top[j]) + 0.0, at, rule, word)

    return kernel
