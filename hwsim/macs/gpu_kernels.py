"""Triton kernels that sum a block of results each: term by term, by trees, or in aligned groups.

A unit comes as tables that the host has made (see gpu.py), so that a new unit compiles nothing but its kind of sum.
Operands are contiguous float64: a (rows, terms), b (terms, columns), c and out (rows, columns).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .gpu_sums import close, cut, inverse, join, power, settle

STEP = tl.constexpr(8)


@triton.jit  # type: ignore[untyped-decorator]
def place(rows: tl.tensor, columns: tl.tensor, M: tl.constexpr, N: tl.constexpr) -> Any:
    """The row and column indices of this program's block, and which of them exist."""
    across = (columns + N - 1) // N
    program = tl.program_id(0).to(tl.int64)
    i = (program // across * M + tl.arange(0, M))[:, None]
    j = (program % across * N + tl.arange(0, N))[None, :]
    return i, j, (i < rows) & (j < columns)


@triton.jit  # type: ignore[untyped-decorator]
def product_of(
    a: tl.tensor, b: tl.tensor, i: tl.tensor, j: tl.tensor, k: tl.tensor, rows: tl.tensor, columns: tl.tensor, terms: tl.tensor
) -> Any:
    """The factors of term k: a column of a and a row of b."""
    return tl.load(a + i * terms + k, mask=i < rows, other=0), tl.load(b + k * columns + j, mask=j < columns, other=0)


@triton.jit  # type: ignore[untyped-decorator]
def promotion_scale(
    scale_a: tl.tensor, scale_b: tl.tensor, i: tl.tensor, j: tl.tensor, n: tl.tensor, blocks: tl.tensor, rows: tl.tensor,
    columns: tl.tensor, rule: tl.tensor, output: tl.tensor, stream: tl.tensor,
) -> Any:  # fmt: skip
    """The product of the n-th scales, rounded to the outer sum's format."""
    x, y = product_of(scale_a, scale_b, i, j, n, rows, columns, blocks)
    return settle(x * y, rule, output, 0, n, stream)


@triton.jit  # type: ignore[untyped-decorator]
def entering(c: tl.tensor, at: tl.tensor, inside: tl.tensor, zero: tl.tensor, C_FIRST: tl.constexpr, LEVELS: tl.constexpr) -> Any:
    """The four sums before the first term, the outermost of which may start at C, and a scale of one."""
    s0, s1, s2, s3 = zero, zero, zero, zero
    if C_FIRST:
        start = tl.load(c + at, mask=inside, other=0)
        if LEVELS == 0:
            s0 = start
        elif LEVELS == 1:
            s1 = start
        elif LEVELS == 2:
            s2 = start
        else:
            s3 = start
    return s0, s1, s2, s3, zero + 1.0


@triton.jit  # type: ignore[untyped-decorator]
def outermost(s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, s3: tl.tensor, LEVELS: tl.constexpr) -> Any:
    """The outermost of the sums."""
    total = s0
    if LEVELS == 1:
        total = s1
    elif LEVELS == 2:
        total = s2
    elif LEVELS == 3:
        total = s3
    return total


@triton.jit  # type: ignore[untyped-decorator]
def finish(
    s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, s3: tl.tensor, c: tl.tensor, out: tl.tensor, at: tl.tensor, inside: tl.tensor,
    rules: tl.tensor, output: tl.tensor, stream: tl.tensor, LEVELS: tl.constexpr, C_LAST: tl.constexpr, FIELDS: tl.constexpr,
) -> None:  # fmt: skip
    """Store the outermost sum, C added to it where it enters last."""
    total = outermost(s0, s1, s2, s3, LEVELS)
    if C_LAST:
        total = join(total, tl.load(c + at, mask=inside, other=0), rules + 5 * FIELDS, output, LEVELS + 2, 0, stream)
    tl.store(out + at, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def sum_terms(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, scale_a: tl.tensor, scale_b: tl.tensor, out: tl.tensor, rules: tl.tensor,
    steps: tl.tensor, merges: tl.tensor, stream: tl.tensor, rows: tl.int64, columns: tl.int64, terms: tl.int64, first: tl.int64,
    width: tl.int64, every: tl.int64, blocks: tl.int64, ROUNDS: tl.constexpr, TREE: tl.constexpr, DEPTH: tl.constexpr,
    LEVELS: tl.constexpr, C_FIRST: tl.constexpr, C_LAST: tl.constexpr, SCALED: tl.constexpr, FIELDS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Sequential sums, or trees over runs of terms.

    steps: for each term how many outer sums end with it, and where their runs began; then (top, first merge, last merge, whether
    the run's one leaf is to be rounded). merges: (left place, first term on the right) of each.
    """
    i, j, inside = place(rows, columns, M, N)
    output, at = first + i * width + j, i * columns + j
    s0, s1, s2, s3, scale = entering(c, at, inside, tl.zeros([M, N], tl.float64), C_FIRST, LEVELS)
    depth = tl.arange(0, DEPTH)[:, None, None]
    stack = tl.zeros([DEPTH, M, N], tl.int64)
    if C_FIRST and TREE:
        stack = tl.where(depth == 0, s0.to(tl.int64, bitcast=True)[None, :, :], stack)
    for k in range(0, terms):
        step = steps + STEP * k
        x, y = product_of(a, b, i, j, k, rows, columns, terms)
        p = x * y
        if ROUNDS:
            p = settle(p, rules + FIELDS, output, 1, k, stream)
        if TREE:
            stack = tl.where(depth == tl.load(step + 4), p.to(tl.int64, bitcast=True)[None, :, :], stack)
            for n in range(tl.load(step + 5), tl.load(step + 6)):
                left = tl.load(merges + 2 * n)
                x0 = tl.sum(tl.where(depth == left, stack, 0), 0).to(tl.float64, bitcast=True)
                x1 = tl.sum(tl.where(depth == left + 1, stack, 0), 0).to(tl.float64, bitcast=True)
                joined = join(x0, x1, rules, output, 0, tl.load(merges + 2 * n + 1), stream)
                stack = tl.where(depth == left, joined.to(tl.int64, bitcast=True)[None, :, :], stack)
            s0 = tl.sum(tl.where(depth == 0, stack, 0), 0).to(tl.float64, bitcast=True)
            if tl.load(step + 7) != 0:
                s0 = settle(s0, rules, output, 0, k, stream)
        else:
            s0 = join(s0, p, rules, output, 0, k, stream)
        if SCALED:
            n = tl.load(step + 1) // every
            scale = promotion_scale(scale_a, scale_b, i, j, n, blocks, rows, columns, rules + 6 * FIELDS, output, stream)
        s0, s1, s2, s3 = close(s0, s1, s2, s3, step, scale, rules, output, stream, LEVELS, FIELDS)
    finish(s0, s1, s2, s3, c, out, at, inside, rules, output, stream, LEVELS, C_LAST, FIELDS)


@triton.jit  # type: ignore[untyped-decorator]
def term_of(
    a: tl.tensor, b: tl.tensor, pa: tl.tensor, pb: tl.tensor, scale_a: tl.tensor, scale_b: tl.tensor, qa: tl.tensor,
    qb: tl.tensor, i: tl.tensor, j: tl.tensor, k: tl.tensor, stop: tl.tensor, of_zero: tl.tensor, rows: tl.tensor,
    columns: tl.tensor, terms: tl.tensor, every: tl.tensor, blocks: tl.tensor, SIZE: tl.constexpr, PROMOTED: tl.constexpr,
) -> Any:  # fmt: skip
    """One aligned term and its power of two: a product, or the exact sum of SIZE products, scaled unless PROMOTED."""
    x, y = product_of(a, b, i, j, k, rows, columns, terms)
    if SIZE == 1:
        e, f = product_of(pa, pb, i, j, k, rows, columns, terms)
        return x * y, tl.where((x == 0) | (y == 0), of_zero, e * f)
    else:
        total = x * y
        seen = tl.abs(total)
        for t in range(k + 1, tl.minimum(k + SIZE, stop)):
            x, y = product_of(a, b, i, j, t, rows, columns, terms)
            p = x * y
            total += p
            seen += tl.abs(p)
        if PROMOTED:
            return total, tl.where(seen == 0, of_zero, tl.full(total.shape, 1.0, tl.float64))
        x, y = product_of(scale_a, scale_b, i, j, k // every, rows, columns, blocks)
        e, f = product_of(qa, qb, i, j, k // every, rows, columns, blocks)
        power_of_term = e * f
        return total * (x * y), tl.where((seen == 0) | (power_of_term == 0), of_zero, power_of_term)


@triton.jit  # type: ignore[untyped-decorator]
def half_group(
    a: tl.tensor, b: tl.tensor, pa: tl.tensor, pb: tl.tensor, i: tl.tensor, j: tl.tensor, k0: tl.tensor, k1: tl.tensor,
    zero: tl.tensor, unit: tl.tensor, limit: tl.tensor, rows: tl.tensor, columns: tl.tensor, terms: tl.tensor, HOW: tl.constexpr,
) -> Any:  # fmt: skip
    """The sum of products aligned to the largest, those from `limit` on infinite, and the largest power of two, 0 for none."""
    top, total = zero, zero
    for k in range(k0, k1):
        x, y = product_of(pa, pb, i, j, k, rows, columns, terms)
        top = tl.maximum(top, x * y)
    shrink = inverse(tl.where(top > 0, top, 1.0)) * unit
    for k in range(k0, k1):
        x, y = product_of(a, b, i, j, k, rows, columns, terms)
        p = x * y
        infinite = tl.where(p < 0, float("-inf"), float("inf"))
        total += cut(tl.where(tl.abs(p) >= limit, infinite, p) * shrink, HOW)
    return total * inverse(shrink), top


@triton.jit  # type: ignore[untyped-decorator]
def join_late(
    a: tl.tensor, b: tl.tensor, pa: tl.tensor, pb: tl.tensor, s0: tl.tensor, i: tl.tensor, j: tl.tensor, k0: tl.tensor,
    k1: tl.tensor, numbers: tl.tensor, rows: tl.tensor, columns: tl.tensor, terms: tl.tensor, HOW: tl.constexpr,
    HALVES: tl.constexpr,
) -> Any:  # fmt: skip
    """The products of a group, or of its two halves joined with floor, then the running sum (see LateSum).

    numbers, from the fourth on: the product that is infinite; 2^dot_bits, 2^sum_bits, 2^total_bits; 2^-drop_below or 0.
    """
    unit, low, limit = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 3)
    dot_unit, sum_unit = tl.load(numbers + 4), tl.load(numbers + 5)
    zero, middle = tl.zeros_like(s0), k0 + (k1 - k0 + HALVES - 1) // HALVES
    dot, largest = half_group(a, b, pa, pb, i, j, k0, middle, zero, unit, limit, rows, columns, terms, HOW)
    if HALVES == 2:
        other, top = half_group(a, b, pa, pb, i, j, middle, k1, zero, unit, limit, rows, columns, terms, HOW)
        largest = tl.maximum(largest, top)
        joint = inverse(tl.where(largest > 0, largest, 1.0)) * unit
        dot = (tl.floor(dot * joint) + tl.floor(other * joint)) * inverse(joint)
    e = power(s0, low, low)
    largest = tl.maximum(largest, e)
    largest = tl.where(largest > 0, largest, 1.0)
    kept = tl.where((tl.abs(s0) < float("inf")) & (e < largest * tl.load(numbers + 7)), 0.0, s0)
    shrink = inverse(largest)
    both = tl.floor(dot * (dot_unit * shrink)) * (largest * inverse(dot_unit))
    both += tl.floor(kept * (sum_unit * shrink)) * (largest * inverse(sum_unit))
    e = power(both, low, low)
    fine = inverse(tl.where(e > 0, e, 1.0)) * tl.load(numbers + 6)
    return tl.floor(both * fine) * inverse(fine)


@triton.jit  # type: ignore[untyped-decorator]
def sum_groups(
    a: tl.tensor, b: tl.tensor, pa: tl.tensor, pb: tl.tensor, qa: tl.tensor, qb: tl.tensor, c: tl.tensor, scale_a: tl.tensor,
    scale_b: tl.tensor, out: tl.tensor, rules: tl.tensor, steps: tl.tensor, bounds: tl.tensor, numbers: tl.tensor,
    stream: tl.tensor, rows: tl.int64, columns: tl.int64, terms: tl.int64, first: tl.int64, width: tl.int64, every: tl.int64,
    blocks: tl.int64, groups: tl.int64, HOW: tl.constexpr, SIZE: tl.constexpr, LATE: tl.constexpr, LEVELS: tl.constexpr,
    C_FIRST: tl.constexpr, C_LAST: tl.constexpr, SCALED: tl.constexpr, FIELDS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Fused groups: the running sum and a group's products aligned to the largest, cut, summed exactly and rounded once.

    a, b are in the order of the groups; pa, pb: their powers of two, qa, qb: those of the scales. steps: as in `sum_terms`, for
    each group, then its first term. numbers: 2^fraction_bits, the least power of two of a running sum, and that of a zero term;
    then those of `join_late`. LATE: in how many halves a group is summed before the running sum joins; 0 where it is a term.
    """
    i, j, inside = place(rows, columns, M, N)
    output, at = first + i * width + j, i * columns + j
    unit, low, of_zero = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    s0, s1, s2, s3, scale = entering(c, at, inside, tl.zeros([M, N], tl.float64), C_FIRST, LEVELS)
    for g in range(0, groups):
        step, k0, k1 = steps + STEP * g, tl.load(bounds + g), tl.load(bounds + g + 1)
        if LATE:
            total = join_late(a, b, pa, pb, s0, i, j, k0, k1, numbers, rows, columns, terms, HOW, LATE)
        else:
            top = power(s0, low, of_zero)
            for k in range(k0, k1, SIZE):
                x, e = term_of(
                    a, b, pa, pb, scale_a, scale_b, qa, qb, i, j, k, k1, of_zero, rows, columns, terms, every, blocks, SIZE,
                    SCALED,
                )  # fmt: skip
                top = tl.maximum(top, e)
            shrink = inverse(tl.where(top > 0, top, 1.0)) * unit
            total = cut(s0 * shrink, HOW)
            for k in range(k0, k1, SIZE):
                x, e = term_of(
                    a, b, pa, pb, scale_a, scale_b, qa, qb, i, j, k, k1, of_zero, rows, columns, terms, every, blocks, SIZE,
                    SCALED,
                )  # fmt: skip
                total += cut(x * shrink, HOW)
            total *= inverse(shrink)
        s0 = settle(total + 0.0, rules, output, 0, tl.load(step + 4), stream)
        if SCALED:
            n = tl.load(step + 1) // every
            scale = promotion_scale(scale_a, scale_b, i, j, n, blocks, rows, columns, rules + 6 * FIELDS, output, stream)
        s0, s1, s2, s3 = close(s0, s1, s2, s3, step, scale, rules, output, stream, LEVELS, FIELDS)
    finish(s0, s1, s2, s3, c, out, at, inside, rules, output, stream, LEVELS, C_LAST, FIELDS)
