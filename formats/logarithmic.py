"""Logarithmic numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from math import isqrt, ldexp
from typing import Literal

from .base import Format
from .errors import FormatError
from .levels import Levels

GUARD_BITS = 160
CARRIED_BITS = 24
BOUNDARY_BITS = 53


@dataclass(frozen=True)
class Logarithmic(Format):
    """Values (-1)^s 2^(L / 2^fraction_bits), L an integer in two's complement beside the sign bit; its lowest code is zero.

    A value that is no power of two is irrational: tensors carry it rounded to the nearest float32, the codes are exact.
    Nearest is nearest in log2 |x|, as a converter that rounds the logarithm: it changes at the geometric mean of two
    neighbours, cut to float64, so that there are no ties; below the smallest value at half a step of L too, and zero takes what
    is smaller. The other modes go by carried value. There is no NaN, no infinity and no -0; what lies beyond takes the largest.

    Args:
        bits: 3..16, the whole width.
        fraction_bits: fraction bits of L, 0..bits - 3; 1 to 7 bits of L stand before the point, its sign not counted.

    Raises:
        FormatError: a width out of range.
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
        whole = self.bits - 2 - self.fraction_bits
        if not 1 <= whole <= 6 + (self.fraction_bits == 0):
            split = f"got {self.fraction_bits} of {self.bits} bits"
            raise FormatError(f"fraction_bits: {split}; allowed: 1 to 6 bits before the point", "fraction_bits")

    @cached_property
    def lattice(self) -> Levels:
        """The values in ascending order."""
        half = 1 << (self.bits - 2)
        logs = range(1 - half, half)
        positive = [self._value(log) for log in logs]
        limits = [exp2(2 * log - 1, self.fraction_bits + 1, BOUNDARY_BITS, nearest=False) for log in logs]
        code = [log % (2 * half) for log in logs]
        sign = 2 * half
        return Levels(
            values=tuple([-v for v in reversed(positive)] + [0.0] + positive),
            codes=tuple([c + sign for c in reversed(code)] + [half] + code),
            boundaries=tuple([-v for v in reversed(limits)] + limits),
            bits=self.bits,
            ties=False,
        )

    def decode_code(self, code: int) -> Fraction | float:
        """The carried value of one code; both codes of zero are zero."""
        half = 1 << (self.bits - 2)
        log = (code + half) % (2 * half) - half
        if log == -half:
            return Fraction(0)
        value = self._value(log)
        return Fraction(-value if code >> (self.bits - 1) else value)

    def _value(self, log: int) -> float:
        return exp2(log, self.fraction_bits, CARRIED_BITS, nearest=True)

    def __str__(self) -> str:
        return self.name or f"lns{self.bits}.{self.fraction_bits}"


def exp2(numerator: int, fraction_bits: int, digits: int, nearest: bool) -> float:
    """2^(numerator / 2^fraction_bits) to so many significant digits, rounded to nearest or cut."""
    whole, part = numerator >> fraction_bits, numerator & ((1 << fraction_bits) - 1)
    significand = _roots(fraction_bits)[part] >> (GUARD_BITS - digits)
    significand = (significand + 1) >> 1 if nearest else significand >> 1
    return ldexp(significand, whole + 1 - digits)


@cache
def _roots(fraction_bits: int) -> tuple[int, ...]:
    """2^(GUARD_BITS + part / 2^fraction_bits) for every part, at most 2 fraction_bits too small."""
    if fraction_bits == 0:
        return (1 << GUARD_BITS,)
    shorter = _roots(fraction_bits - 1)
    step = isqrt(shorter[1] << GUARD_BITS) if fraction_bits > 1 else isqrt(2 << 2 * GUARD_BITS)
    return tuple(root for short in shorter for root in (short, short * step >> GUARD_BITS))
