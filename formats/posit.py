"""Posits."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import ldexp
from typing import Literal

from .base import Format
from .errors import FormatError
from .levels import Levels

MAX_BITS = 16
MAX_ES = 3


@dataclass(frozen=True)
class Posit(Format):
    """Values (1 + f) 2^(r 2^es + e): a run of equal bits codes the regime r, then es exponent bits e, the rest is f.

    Negative values are the two's complement of the code; code 0 is zero, and the code 100...0 is NaR, here NaN. There is no
    infinity and no -0. Rounding to nearest happens on the code string: between two neighbours it changes at the value of the
    longer code that appends a 1, ties go to the even code, and a positive value never rounds to zero nor overflows. The other
    modes go by value. Infinities become NaR under `overflow: nan` (the standard's rule), the largest value otherwise.

    Args:
        bits: 3..16.
        es: exponent bits, 0..3 (2 in the standard).

    Raises:
        FormatError: a width out of range.

    Source: Standard for Posit Arithmetic (2022), sections 3 and 4.1.
    """

    bits: int
    es: int = 2
    kind: Literal["posit"] = field(default="posit", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)
    signed = True

    def __post_init__(self) -> None:
        for name, given, low, high in (("bits", self.bits, 3, MAX_BITS), ("es", self.es, 0, MAX_ES)):
            if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
                raise FormatError(f"{name}: got {given!r}; allowed: a whole number from {low} to {high}", name)

    @cached_property
    def lattice(self) -> Levels:
        """The values in ascending order."""
        nar = 1 << (self.bits - 1)
        longer = [posit_magnitude(code, self.bits + 1, self.es) for code in range(1, 2 * nar)]
        positive, limits = longer[1::2], [0.0, *longer[2:-1:2]]
        return Levels(
            values=tuple([-v for v in reversed(positive)] + [0.0] + positive),
            codes=(*range(nar + 1, 2 * nar), *range(nar)),
            boundaries=tuple([-v + 0.0 for v in reversed(limits)] + limits),
            bits=self.bits,
            nan_code=nar,
        )

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; NaR is NaN."""
        nar = 1 << (self.bits - 1)
        if code == nar:
            return float("nan")
        if code == 0:
            return Fraction(0)
        magnitude = posit_magnitude(2 * nar - code if code > nar else code, self.bits, self.es)
        return Fraction(-magnitude if code > nar else magnitude)

    def __str__(self) -> str:
        return self.name or f"posit{self.bits}_{self.es}"


def posit_magnitude(code: int, bits: int, es: int) -> float:
    """The value of a positive posit code, exact in float64."""
    width = bits - 1
    inverted = code if code >> (width - 1) == 0 else ~code & ((1 << width) - 1)
    run = width - inverted.bit_length()
    regime = -run if inverted == code else run - 1
    rest_bits = max(width - run - 1, 0)
    rest = code & ((1 << rest_bits) - 1)
    fraction_bits = max(rest_bits - es, 0)
    exponent = rest >> fraction_bits << max(es - rest_bits, 0)
    fraction = rest & ((1 << fraction_bits) - 1)
    return ldexp((1 << fraction_bits) + fraction, (regime << es) + exponent - fraction_bits)
