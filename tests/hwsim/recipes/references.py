"""The rules of the recipes written out in exact rational arithmetic, apart from the code that they test."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor

import numpy as np

from hwsim.formats import Draw
from hwsim.formats.philox import word

Round = Callable[[Fraction, int], Fraction]

E4M3, E5M2, E3M2, E2M1 = (3, -6, 448), (2, -14, 57344), (2, -2, 28), (1, 0, 6)
TF32, BF16, FP16 = (10, -126, None), (7, -126, None), (10, -14, 65504)


def exponent(x: Fraction) -> int:
    """floor(log2 x)."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def to_float(mantissa_bits: int, min_exponent: int, largest: int | None) -> Round:
    """To nearest even, saturated."""

    def rounded(x: Fraction, index: int) -> Fraction:
        if x == 0:
            return x
        ulp = Fraction(2) ** (max(exponent(abs(x)), min_exponent) - mantissa_bits)
        y = round(x / ulp) * ulp
        return y if largest is None else max(min(y, Fraction(largest)), Fraction(-largest))

    return rounded


def to_half(x: np.ndarray) -> np.ndarray:
    """To fp16 as numpy converts: nearest even, infinite from 65520 on."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_integer(low: int, high: int) -> Round:
    """To nearest even, saturated."""
    return lambda x, index: Fraction(max(low, min(high, round(x))))


def stochastic(low: int | None, high: int, draw: Draw, ulp_of: Callable[[Fraction], Fraction], bits: int = 24) -> Round:
    """|x| = (k + v) ulp becomes k + 1 where floor(v 2^bits) + R >= 2^bits, R the top bits of the element's Philox word."""

    def rounded(x: Fraction, index: int) -> Fraction:
        ulp = ulp_of(abs(x))
        k = floor(abs(x) / ulp)
        v = abs(x) / ulp - k
        k += floor(v * 2**bits) + (word(index, draw) >> (32 - bits)) >= 2**bits
        y = k * ulp * (1 if x >= 0 else -1)
        return max(min(y, Fraction(high)), Fraction(-high if low is None else low))

    return rounded


def float32(x: Fraction) -> Fraction:
    """To nearest even in float32's normal range."""
    return to_float(23, -126, None)(x, 0)


def scaled(x: np.ndarray, where: np.ndarray, scale_of: Callable[[Fraction], Fraction], element: Round) -> np.ndarray:
    """fp32(s round(x / s)) with a scale for each number of `where`, from the largest |x| there."""
    values = [Fraction(float(v)) for v in x.flat]
    places = where.flatten().tolist()
    scales = {p: scale_of(max(abs(v) for v, q in zip(values, places, strict=True) if p == q)) for p in set(places)}
    out = [float32(scales[p] * element(v / scales[p], i)) for i, (v, p) in enumerate(zip(values, places, strict=True))]
    return np.array([float(v) for v in out], dtype=np.float32).reshape(x.shape)


def per_tensor(x: np.ndarray) -> np.ndarray:
    return np.zeros(x.shape, dtype=int)


def per_row(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(x.shape[0])[:, None], x.shape)


def per_column(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(x.shape[1]), x.shape)


def tiles(rows: int, columns: int) -> Callable[[np.ndarray], np.ndarray]:
    """Tiles of rows x columns, numbered."""

    def where(x: np.ndarray) -> np.ndarray:
        i, j = np.indices(x.shape)
        return (i // rows) * 10000 + j // columns

    return where


def over(largest: int, minimum: float = 0.0) -> Callable[[Fraction], Fraction]:
    """fp32(amax / largest)."""
    return lambda amax: float32(max(amax, Fraction(np.float32(minimum).item())) / largest)


def power_of_two(largest: int) -> Callable[[Fraction], Fraction]:
    """The smallest power of two s with amax / s <= largest: 2^ceil(log2(amax / largest))."""

    def scale(amax: Fraction) -> Fraction:
        e = exponent(amax / largest)
        return Fraction(2) ** (e if Fraction(2) ** e == amax / largest else e + 1)

    return scale


def ocp(element_exponent: int) -> Callable[[Fraction], Fraction]:
    """2^(floor(log2 amax) - emax)."""
    return lambda amax: Fraction(2) ** (exponent(amax) - element_exponent)


def hadamard(x: np.ndarray, draw: Draw) -> np.ndarray:
    """Down each column, 16 rows at a time (zeros fill the last): signs, then Sylvester's matrix / 4, in float32.

    H_2n = [[H_n, H_n], [H_n, -H_n]]: the halves of what the smaller matrix gives are added and subtracted.
    """
    rows = np.zeros((-(-len(x) // 16) * 16, x.shape[1]), dtype=np.float32)
    rows[: len(x)] = x
    turn = np.array([-1 if word(i, draw) >> 31 else 1 for i in range(16)], dtype=np.float32)

    def sylvester(y: np.ndarray) -> np.ndarray:
        if len(y) == 1:
            return y
        top, bottom = sylvester(y[: len(y) // 2]), sylvester(y[len(y) // 2 :])
        return np.concatenate([top + bottom, top - bottom])

    parts = [sylvester(rows[i : i + 16] * turn[:, None]) / np.float32(4) for i in range(0, len(rows), 16)]
    return np.concatenate(parts)


def nvfp4(x: np.ndarray, where: np.ndarray, e2m1: Round = to_float(*E2M1)) -> np.ndarray:
    """NVIDIA's two levels, every operation one in float32 (TransformerEngine, reference_nvfp4)."""
    f = np.float32
    e4m3 = to_float(*E4M3)
    encode = f(448 * 6) / f(np.abs(x).max())
    decode = f(1) / encode
    out = np.empty(x.shape, dtype=f)
    for place in np.unique(where):
        inside = where == place
        block = f(float(e4m3(Fraction(float(f(np.abs(x[inside]).max()) * f(encode * f(f(1) / f(6))))), 0)))
        factor = f(1) / f(block * decode)
        for index in np.argwhere(inside):
            number = int(np.ravel_multi_index(index, x.shape))
            element = float(e2m1(Fraction(float(f(x[tuple(index)] * factor))), number))
            exact = Fraction(element) * Fraction(float(block)) * Fraction(float(decode))
            out[tuple(index)] = float(float32(exact))
    return out
