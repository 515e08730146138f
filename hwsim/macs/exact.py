"""Exact sums in an array of 32-bit digits (a Kulisch accumulator), rounded once: for what float64 lanes cannot hold."""

from __future__ import annotations

from math import ldexp
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from hwsim.formats import Rounding
from hwsim.formats.grid import Grid

from .lanes import AWAY, DOWN, EVEN, EXPONENT_MASK, ODD, STOCHASTIC_A, STOCHASTIC_B, STOCHASTIC_C, UP, ZERO, bounded, float_bits
from .words import word_at

DIGIT = 32
# The lowest digit and the number of digits that the products and sums of any float64 numbers need.
LOWEST, DIGITS = -2200, 142
LOW = (1 << DIGIT) - 1
FRACTION = (1 << 52) - 1
HALF = np.uint64(1 << 63)


class Wide(NamedTuple):
    """A grid in integers, and the random bits."""

    mantissa_bits: int
    min_exponent: int
    smallest_exponent: int
    random_bits: int


def wide(grid: Grid, rounding: Rounding) -> Wide:
    """The run-time arguments of a place of rounding."""
    return Wide(grid.mantissa_bits, grid.min_exponent, grid.smallest_exponent, rounding.random_bits)


@njit(cache=True, nogil=True)
def split(x: float) -> tuple[int, int]:
    """The significand of |x| as an integer, and the exponent of its last bit."""
    bits = float_bits(x)
    e = (bits & EXPONENT_MASK) >> 52
    f = bits & FRACTION
    return (f, -1074) if e == 0 else (f | (1 << 52), e - 1075)


@njit(cache=True, nogil=True)
def add_integer(digits: Any, value: int, position: int, sign: int) -> None:
    """Add sign value 2^position, 0 <= value < 2^62."""
    w, shift = position // DIGIT, position % DIGIT
    x, y = (value & LOW) << shift, (value >> DIGIT) << shift
    digits[w] += sign * (x & LOW)
    digits[w + 1] += sign * (((x >> DIGIT) & LOW) + (y & LOW))
    digits[w + 2] += sign * ((y >> DIGIT) & LOW)


@njit(cache=True, nogil=True)
def add_product(digits: Any, a: float, b: float) -> None:
    """Add a b exactly; the first digit counts 2^LOWEST."""
    if a == 0.0 or b == 0.0:
        return
    sign = -1 if (float_bits(a) ^ float_bits(b)) < 0 else 1
    x, ex = split(a)
    y, ey = split(b)
    position, part = ex + ey - LOWEST, (1 << 27) - 1
    x1, x0, y1, y0 = x >> 27, x & part, y >> 27, y & part
    add_integer(digits, x0 * y0, position, sign)
    add_integer(digits, x0 * y1, position + 27, sign)
    add_integer(digits, x1 * y0, position + 27, sign)
    add_integer(digits, x1 * y1, position + 54, sign)


@njit(cache=True, nogil=True)
def carry(digits: Any) -> bool:
    """Make every digit 0 .. 2^32 - 1 and the number non-negative; whether it was negative."""
    for _ in range(2):
        c = 0
        for w in range(digits.size - 1):
            v = digits[w] + c
            digits[w], c = v & LOW, v >> DIGIT
        digits[-1] += c
        if digits[-1] >= 0:
            return _ == 1
        for w in range(digits.size):
            digits[w] = -digits[w]
    return True


@njit(cache=True, nogil=True)
def round_digits(digits: Any, negative: bool, to: Wide, mode: int, word: int) -> float:
    """The magnitude in `digits`, not zero, rounded to the grid with an unbounded exponent."""
    w = digits.size - 1
    while digits[w] == 0:
        w -= 1
    length = 0
    while digits[w] >> length:
        length += 1
    window = np.uint64(0)
    for t in range(3):
        d = np.uint64(digits[w - t]) if w >= t else np.uint64(0)
        up = 64 - length - DIGIT * t
        window |= (d << np.uint64(up)) if up >= 0 else (d >> np.uint64(-up))
    sticky = w >= 2 and (digits[w - 2] & ((1 << length) - 1)) != 0
    for t in range(w - 2):
        sticky = sticky or digits[t] != 0
    e = LOWEST + DIGIT * w + length - 1
    q = e - to.mantissa_bits if e >= to.min_exponent else to.smallest_exponent
    drop = 63 - (e - q)
    k, rest = np.uint64(0), window
    if drop < 64:
        k, rest = window >> np.uint64(drop), window << np.uint64(64 - drop)
    elif drop > 64:
        over = min(drop - 64, 64)
        sticky = sticky or (window != 0 if over == 64 else (window & ((np.uint64(1) << np.uint64(over)) - np.uint64(1))) != 0)
        rest = np.uint64(0) if over == 64 else window >> np.uint64(over)
    even = (k & np.uint64(1)) == 0
    return ldexp(float(k + np.uint64(1 if goes_up(rest, sticky, even, negative, to.random_bits, mode, word) else 0)), q)


@njit(cache=True, nogil=True)
def goes_up(rest: Any, sticky: Any, even: Any, negative: bool, n: int, mode: int, word: int) -> Any:
    """The rule of `Rounding` on v = (rest + sticky) / 2^64."""
    inexact = rest != 0 or sticky
    if mode == EVEN:
        return rest > HALF or (rest == HALF and (sticky or not even))
    if mode == AWAY:
        return rest >= HALF
    if mode == ZERO:
        return rest > HALF or (rest == HALF and sticky)
    if mode == UP or mode == DOWN:  # noqa: SIM109
        return inexact and (negative == (mode == DOWN))
    if mode == ODD:
        return inexact and even
    r = np.uint64(word) >> np.uint64(32 - n)
    one = np.uint64(1)
    v = rest >> np.uint64(64 - n)
    if mode == STOCHASTIC_A:
        return v + r >= one << np.uint64(n)
    if mode == STOCHASTIC_B:
        return (rest >> np.uint64(63 - n)) + np.uint64(2) * r + one >= one << np.uint64(n + 1)
    if mode == STOCHASTIC_C:
        below = rest << np.uint64(n)
        up = below > HALF or (below == HALF and (sticky or (v & one) == one))
        return v + np.uint64(1 if up else 0) + r >= one << np.uint64(n)
    return False


@njit(cache=True, nogil=True)
def settle(digits: Any, special: float, zero: float, at: Any, to: Wide, word: int) -> float:
    """The sum in `digits`, a special value if there is one, or the zero if it is zero, as a value of the format."""
    if not abs(special) < np.inf:
        return bounded(special, special, at)
    negative = carry(digits)
    if not digits.any():
        return bounded(zero, zero, at)
    r = round_digits(digits, negative, to, at.mode, word)
    return bounded(-r if negative else r, 1.0, at)


@njit(cache=True, nogil=True)
def add_term(digits: Any, a: float, b: float) -> float:
    """Add a b: to the digits, exactly, where it is finite; otherwise it is returned (0 if not)."""
    if abs(a) < np.inf and abs(b) < np.inf:
        add_product(digits, a, b)
        return 0.0
    return a * b


@njit(cache=True, nogil=True)
def exact_groups(
    a: Any, b: Any, acc: Any, i0: int, j0: int, bounds: Any, firsts: Any, at: Any, to: Any, at_product: Any, to_product: Any,
    rounds_products: bool, ieee_zero: bool, first: int, width: int, s: Any,
) -> None:  # fmt: skip
    """acc = round(acc + the exact sum of a group's products), group by group.

    firsts: the terms that number the groups' random words. A zero sum is +0, or with `ieee_zero` signed as by IEEE 754 6.3.
    """
    rows, n = acc.shape
    digits, product = np.zeros(DIGITS, np.int64), np.zeros(DIGITS, np.int64)
    for i in range(rows):
        for j in range(n):
            output, x = first + i * width + j, acc[i, j]
            for g in range(bounds.size - 1):
                digits[:] = 0
                special = add_term(digits, x, 1.0)
                plus, minus = float_bits(x) >= 0, float_bits(x) < 0
                for k in range(bounds[g], bounds[g + 1]):
                    p, q = a[i0 + i, k], b[k, j0 + j]
                    below = (float_bits(p) ^ float_bits(q)) < 0
                    plus, minus = plus or not below, minus or below
                    if rounds_products:
                        product[:] = 0
                        outside = add_term(product, p, q)
                        word = word_at(s, 1, output, k) if at_product.mode >= STOCHASTIC_A else 0
                        p = settle(product, outside, -0.0 if below else 0.0, at_product, to_product, word)
                        q = 1.0
                    special += add_term(digits, p, q)
                zero = -0.0 if ieee_zero and minus and (at.mode == DOWN or not plus) else 0.0
                word = word_at(s, 0, output, firsts[g]) if at.mode >= STOCHASTIC_A else 0
                x = settle(digits, special, zero, at, to, word)
            acc[i, j] = x


@njit(cache=True, nogil=True)
def exact_outer_sum(
    outer: Any, inner: Any, scale: Any, at: Any, to: Any, level: int, k: int, first: int, width: int, s: Any
) -> None:
    """outer = round(outer + inner scale), and inner = +0, where float64 lanes cannot hold the sum."""
    rows, n = outer.shape
    digits = np.zeros(DIGITS, np.int64)
    for i in range(rows):
        for j in range(n):
            x, y = outer[i, j], inner[i, j]
            digits[:] = 0
            special = add_term(digits, x, 1.0) + add_term(digits, y, scale[i, j])
            both, either = float_bits(x) < 0 and float_bits(y) < 0, float_bits(x) < 0 or float_bits(y) < 0
            word = word_at(s, level, first + i * width + j, k) if at.mode >= STOCHASTIC_A else 0
            outer[i, j] = settle(digits, special, -0.0 if both or (either and at.mode == DOWN) else 0.0, at, to, word)
            inner[i, j] = 0.0
