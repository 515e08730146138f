"""Sequential and pairwise sums over blocks of results: numba loops over k, rows and columns, vectorised over columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .directions import NEAREST, add_directed, round_directed, set_direction, unequal
from .lanes import (
    AT_RUN_TIME,
    DOWN,
    EVEN,
    ODD,
    STOCHASTIC_A,
    ZERO,
    add_to_odd,
    fused_multiply_add,
    round_lane,
    round_plain,
    round_steady,
    within,
)
from .words import draw, word_at

COLUMNS = 128
DEPTH = 16
WORDS = 64
EXACT = -1
Kernel = Callable[..., None]

# Slices are copied by loops: assigning one array to another compiles the text of an error message, at the price of a kernel.
# Every kernel works on acc, the contiguous block of results that starts at row i0 and column j0, and on the terms k0 .. k1 - 1;
# `first` is the logical index of result (i0, j0), `width` the number of columns of the whole result.


class Shape(NamedTuple):
    """What is compiled into a sequential kernel.

    Args:
        mode, product_mode: a mode or AT_RUN_TIME; EXACT products are not rounded.
        plain, product_plain: whether the place is `plain` (see the rounding that the direction takes).
        exact: whether the accumulator plus a product, in float64, rounds to the accumulator as the exact sum does.
        direction: in which the processor rounds meanwhile.
        clamps: whether finite sums beyond the largest value become it.
        steady, product_steady: whether the place has to cut no subnormal, and its mode is in STEADY.
        bounded: whether no sum can overflow, looked at where it is steady.
    """

    mode: int
    product_mode: int = EXACT
    plain: bool = False
    product_plain: bool = False
    exact: bool = False
    direction: int = NEAREST
    clamps: bool = False
    steady: bool = False
    product_steady: bool = False
    bounded: bool = False


@njit(forceinline=True)
def added(total: float, x: float, y: float, at: Any, at_product: Any, shape: Any, word: Any, product_word: Any) -> float:
    """round(total + round(x y)); `shape` is a constant of the kernel."""
    mode, product_mode, plain, product_plain, exact, _, clamps, steady, product_steady, bounded = shape
    if product_mode == EXACT and exact:
        t = fused_multiply_add(x, y, total)
    else:
        p = x * y
        if product_mode != EXACT:
            if product_steady:
                p = round_steady(p, 0, at_product, product_mode)
            elif product_plain:
                p = round_plain(p, at_product, product_mode, product_word)
            else:
                p = round_lane(p, at_product, product_mode, product_word)
        t = total + p if exact else add_to_odd(total, p, mode == DOWN)
    if steady:
        r = round_steady(t, 0, at, mode)
        return r if bounded else within(r, at, clamps)
    return round_plain(t, at, mode, word) if plain else round_lane(t, at, mode, word)


@njit(forceinline=True)
def added_directed(total: float, x: float, y: float, at: Any, at_product: Any, shape: Any, word: Any, product_word: Any) -> float:
    """The same where the processor rounds in the direction of the unit."""
    mode, product_mode, plain, product_plain, _, _, clamps, steady, product_steady, bounded = shape
    p = x * y
    if product_steady:
        p = round_steady(p, 0, at_product, product_mode)
    elif product_mode == EVEN or product_mode == ODD or product_mode == ZERO:  # noqa: SIM109
        p = add_directed(-0.0, p, at_product, product_mode, product_plain, False)
    elif product_mode != EXACT:
        p = round_directed(p, at_product, product_mode, product_plain, product_word)
    if steady:
        t = total + p
        r = round_steady(t, -1 if unequal(t - p, total) else 0, at, mode)
        return r if bounded else within(r, at, clamps)
    if mode == EVEN or mode == ODD or mode == ZERO:  # noqa: SIM109
        return add_directed(total, p, at, mode, plain, clamps)
    t = fused_multiply_add(x, y, total) if product_mode == EXACT else total + p
    return round_directed(t, at, mode, plain, word)


@cache
def sequential(shape: Shape) -> Kernel:
    """acc = round(acc + product), term by term; a panel of b is copied, as rows of b may share their places in the cache."""
    mode, product_mode, *_ = shape
    direction, rest = shape.direction, tuple(shape)[2:]

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, at: Any, at_product: Any, first: int, width: int, s: Any
    ) -> None:
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        product_rule = at_product.mode if product_mode == AT_RUN_TIME else product_mode
        how = (rule, product_rule, *rest)
        panel = np.empty((DEPTH, COLUMNS))
        set_direction(direction)
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
                            word = 0
                            if product_mode != EXACT and product_rule >= STOCHASTIC_A:
                                word = word_at(s, 1, first + i * width + jb + j, k)
                            if direction == NEAREST:  # decided before it is compiled
                                row[j] = added(row[j], x, line[j], at, at_product, how, 0, word)
                            else:
                                row[j] = added_directed(row[j], x, line[j], at, at_product, how, 0, word)
        set_direction(NEAREST)

    return kernel


@cache
def stochastic(shape: Shape) -> Kernel:
    """As `sequential`, with the random words of 64 terms and a block of columns drawn ahead."""
    mode, product_mode, *_ = shape
    direction, rest = shape.direction, tuple(shape)[2:]

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int, at: Any, at_product: Any, first: int, width: int, s: Any
    ) -> None:
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        product_rule = at_product.mode if product_mode == AT_RUN_TIME else product_mode
        how = (rule, product_rule, *rest)
        drawn = np.empty((WORDS, COLUMNS), np.uint32)
        set_direction(direction)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            for kb in range(k0, k1, WORDS):
                ke = min(kb + WORDS, k1)
                for i in range(rows):
                    draw(s, 0, first + i * width + jb, kb, ke - kb, je - jb, drawn)
                    row = acc[i, jb:je]
                    for k in range(kb, ke):
                        x, line, random = a[i0 + i, k], b[k, j0 + jb : j0 + je], drawn[k - kb]
                        for j in range(row.size):
                            word = 0
                            if product_mode != EXACT and product_rule >= STOCHASTIC_A:
                                word = word_at(s, 1, first + i * width + jb + j, k)
                            if direction == NEAREST:
                                row[j] = added(row[j], x, line[j], at, at_product, how, np.int64(random[j]), word)
                            else:
                                row[j] = added_directed(row[j], x, line[j], at, at_product, how, np.int64(random[j]), word)
        set_direction(NEAREST)

    return kernel


@cache
def double(fused: bool) -> Kernel:
    """The accumulator is float64 itself: one fused multiply-add a term, or a product and a sum."""

    @njit(cache=True, nogil=True)
    def kernel(a: Any, b: Any, acc: Any, i0: int, j0: int, k0: int, k1: int) -> None:
        rows, n = acc.shape
        for i in range(rows):
            row = acc[i]
            for k in range(k0, k1):
                x = a[i0 + i, k]
                line = b[k, j0 : j0 + n]
                for j in range(n):
                    row[j] = fused_multiply_add(x, line[j], row[j]) if fused else row[j] + x * line[j]

    return kernel


@cache
def tree(mode: int, product_mode: int) -> Kernel:
    """acc = the tree over the products, acc itself being the leftmost leaf where `with_c`; equal subtrees merge at once."""

    @njit(cache=True, nogil=True)
    def kernel(
        a: Any,
        b: Any,
        acc: Any,
        i0: int,
        j0: int,
        k0: int,
        k1: int,
        at: Any,
        at_product: Any,
        first: int,
        width: int,
        s: Any,
        with_c: bool,
    ) -> None:
        rows, n = acc.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        product_rule = at_product.mode if product_mode == AT_RUN_TIME else product_mode
        stack = np.empty((64, COLUMNS))
        leaves, begin = np.empty(64, np.int64), np.empty(64, np.int64)
        for jb in range(0, n, COLUMNS):
            je = min(jb + COLUMNS, n)
            for i in range(rows):
                output = first + i * width + jb
                size, top = je - jb, 0
                if with_c:
                    for j in range(size):
                        stack[0, j] = acc[i, jb + j]
                    leaves[0], begin[0], top = 1, k0, 1
                for k in range(k0, k1 + 1):
                    if k < k1:
                        leaf = stack[top, :size]
                        line = b[k, j0 + jb : j0 + je]
                        x = a[i0 + i, k]
                        for j in range(size):
                            p = x * line[j]
                            if product_mode != EXACT:
                                word = word_at(s, 1, output + j, k) if product_rule >= STOCHASTIC_A else 0
                                p = round_lane(p, at_product, product_rule, word)
                            leaf[j] = p
                        leaves[top], begin[top] = 1, k
                        top += 1
                    while top > 1 and (k == k1 or leaves[top - 2] == leaves[top - 1]):
                        top -= 1
                        left, right = stack[top - 1, :size], stack[top, :size]
                        for j in range(size):
                            word = word_at(s, 0, output + j, begin[top]) if rule >= STOCHASTIC_A else 0
                            left[j] = round_lane(add_to_odd(left[j], right[j], rule == DOWN), at, rule, word)
                        leaves[top - 1] *= 2
                result = acc[i, jb:je]
                for j in range(size):
                    word = word_at(s, 0, output + j, k0) if rule >= STOCHASTIC_A else 0
                    result[j] = stack[0, j] if k1 - k0 + with_c > 1 else round_lane(stack[0, j] if top else 0.0, at, rule, word)

    return kernel


@cache
def outer_sum(mode: int, scaled: bool) -> Kernel:
    """outer = round(outer + inner), and inner = +0; inner times the two scales' rounded product where `scaled`."""

    @njit(cache=True, nogil=True)
    def kernel(outer: Any, inner: Any, scale: Any, at: Any, level: int, k: int, first: int, width: int, s: Any) -> None:
        rows, n = outer.shape
        rule = at.mode if mode == AT_RUN_TIME else mode
        for i in range(rows):
            for j in range(n):
                x = inner[i, j] * scale[i, j] if scaled else inner[i, j]
                word = word_at(s, level, first + i * width + j, k) if rule >= STOCHASTIC_A else 0
                outer[i, j] = round_lane(add_to_odd(outer[i, j], x, rule == DOWN), at, rule, word)
                inner[i, j] = 0.0

    return kernel
