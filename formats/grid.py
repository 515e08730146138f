"""The uniform-in-binade grid: the one shape of floating-point, integer and fixed-point values that kernels round to."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import frexp, isinf


@dataclass(frozen=True)
class Grid:
    """Where the finite values of a format lie, with what its codes reserve.

    A positive real x with 2^e <= x < 2^(e+1) has ulp(x) = 2^(max(e, min_exponent) - mantissa_bits); its neighbours are
    the multiples k ulp and (k + 1) ulp. The magnitude code of k ulp is (max(e, min_exponent) - min_exponent) 2^mantissa_bits + k.
    Integers and fixed point are `uniform`: their values lie below 2^min_exponent, and the ulp there is everyone's, however large.

    Where `subnormals` is false the only value below 2^min_exponent is zero, so that ulp(x) = 2^min_exponent there.
    Where `zero` is false there is no zero either, and codes count from 2^min_exponent = code 0.

    Attributes:
        mantissa_bits: explicit significand bits of a normal value.
        min_exponent: exponent of the smallest normal value.
        max_value, min_value: the largest and the most negative finite value.
        subnormals, zero, negative_zero: which of these exist.
        nan_code: the canonical NaN, or None. infinity_code: the code of +infinity, or None.
        sign_bit: the code bit that negates a value, or None; `twos_complement` codes have none.
        uniform: whether the ulp is the same everywhere.
    """

    mantissa_bits: int
    min_exponent: int
    max_value: float
    min_value: float
    bits: int
    subnormals: bool = True
    zero: bool = True
    negative_zero: bool = True
    nan_code: int | None = None
    infinity_code: int | None = None
    sign_bit: int | None = None
    twos_complement: bool = False
    uniform: bool = False

    @property
    def last_exponent(self) -> int:
        """The exponent of the power of two of which all values are multiples."""
        return self.min_exponent - self.mantissa_bits

    @property
    def smallest_exponent(self) -> int:
        """The exponent of the smallest positive value's ulp."""
        return self.min_exponent - self.mantissa_bits if self.subnormals else self.min_exponent

    @property
    def smallest_positive(self) -> float:
        """The smallest positive value."""
        return 2.0**self.smallest_exponent

    def ulp_exponent(self, magnitude: Fraction) -> int:
        """log2 of the distance between the neighbours of a non-negative real number."""
        if self.uniform or magnitude < power_of_two(self.min_exponent):
            return self.smallest_exponent
        e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        e -= magnitude < power_of_two(e)
        return e - self.mantissa_bits

    def fits(self, digits: int, smallest_exponent: int, max_exponent: int) -> bool:
        """Whether binary floating point with these significand digits and exponents holds every value."""
        largest = max(abs(self.max_value), abs(self.min_value))
        if isinf(largest) or frexp(largest)[1] - 1 > max_exponent or self.smallest_exponent < smallest_exponent:
            return False
        top_exponent = max(frexp(largest)[1] - 1, self.smallest_exponent)
        return min(self.mantissa_bits + 1, top_exponent - self.smallest_exponent + 1) <= digits


@cache
def power_of_two(exponent: int) -> Fraction:
    """2^exponent, exactly."""
    return Fraction(2) ** exponent
