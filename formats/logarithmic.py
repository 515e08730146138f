"""Logarithmic numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from math import isqrt, nextafter
from typing import Literal

import numpy as np

from .base import Format
from .errors import FormatError
from .levels import Levels

GUARD_BITS = 80


@dataclass(frozen=True)
class Logarithmic(Format):
    """Values (-1)^s 2^(L / 2^fraction_bits), L an integer in two's complement beside the sign bit; its lowest code is zero.

    A value that is no power of two is irrational: the tensor carries it correctly rounded to float32, while the codes are exact.
    Nearest is nearest in log2 |x|, as a logarithmic converter rounds: it changes at the geometric mean of two neighbours, so
    there are no ties; below the smallest value it changes at half of it in log2 steps too, and zero takes what is smaller.
    There is no NaN, no infinity and no -0.

    Args:
        bits: 3..16, the whole width.
        fraction_bits: fraction bits of the exponent, 0..bits - 3.

    Raises:
        FormatError: a width out of range, or values beyond float32's normal range.
    """

    bits: int
    fraction_bits: int
    kind: Literal["logarithmic"] = field(default="logarithmic", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)
    signed = True

    def __post_init__(self) -> None:
        for name, given, low, high in (("bits", self.bits, 3, 16), ("fraction_bits", self.fraction_bits, 0, 13)):
            if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
                raise FormatError(f"{name}: got {given!r}; allowed: a whole number from {low} to {high}", name)
        if self.bits - 2 - self.fraction_bits not in range(1, 8):
            raise FormatError(
                f"fraction_bits: got {self.fraction_bits} of {self.bits} bits; allowed: 1 to 7 whole bits in the exponent",
                "fraction_bits",
            )

    @cached_property
    def lattice(self) -> Levels:
        """The values in ascending order."""
        half = 1 << (self.bits - 2)
        logs = range(1 - half, half)
        positive = [self._value(log) for log in logs]
        limits = [exp2_below(2 * log - 1, self.fraction_bits + 1) for log in logs]
        sign = 1 << (self.bits - 1)
        code = [log % (2 * half) for log in logs]
        zero = half
        return Levels(
            values=tuple([-v for v in reversed(positive)] + [0.0] + positive),
            codes=tuple([c + sign for c in reversed(code)] + [zero] + code),
            boundaries=tuple([-v for v in reversed(limits)] + limits),
            bits=self.bits,
        )

    def decode_code(self, code: int) -> Fraction | float:
        """The carried value of one code; both codes of zero are zero."""
        half = 1 << (self.bits - 2)
        log = code % (2 * half)
        log -= 2 * half if log >= half else 0
        if log == -half:
            return Fraction(0)
        value = Fraction(self._value(log))
        return -value if code >> (self.bits - 1) else value

    def _value(self, log: int) -> float:
        return float(np.float32(exp2_below(log, self.fraction_bits)))

    def __str__(self) -> str:
        return self.name or f"lns{self.bits}.{self.fraction_bits}"


@cache
def exp2_below(numerator: int, fraction_bits: int) -> float:
    """The largest float64 not above 2^(numerator / 2^fraction_bits), by repeated integer square roots."""
    whole, part = numerator >> fraction_bits, numerator & ((1 << fraction_bits) - 1)
    root = 1 << (part + (GUARD_BITS << fraction_bits))
    for _ in range(fraction_bits):
        root = isqrt(root)
    exact = Fraction(root, 1 << GUARD_BITS) * Fraction(2) ** whole
    near = float(exact)
    return near if Fraction(near) <= exact else nextafter(near, 0.0)
