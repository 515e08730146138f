"""Posits."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal

from .base import Format
from .errors import FormatError
from .levels import Levels

MAX_BITS = 16


@dataclass(frozen=True)
class Posit(Format):
    """Values (1 + f) 2^(r 2^es + e): a run of equal bits codes the regime r, then es exponent bits e, the rest is f.

    Negative values are the two's complement of the code; code 0 is zero, and the code 100...0 is NaR, here NaN.
    Rounding to nearest happens on the code string (the standard's rule): between two neighbours it changes at the value of
    the longer code that appends a 1, and a positive value never rounds to zero nor overflows.

    Args:
        bits: 3..16.
        es: exponent bits, 0..4 (2 in the standard).

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
        for name, given, low, high in (("bits", self.bits, 3, MAX_BITS), ("es", self.es, 0, 4)):
            if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
                raise FormatError(f"{name}: got {given!r}; allowed: a whole number from {low} to {high}", name)

    @cached_property
    def lattice(self) -> Levels:
        """The values in ascending order."""
        nar = 1 << (self.bits - 1)
        positive = [posit_magnitude(code, self.bits, self.es) for code in range(1, nar)]
        limits = [Fraction(0)] + [posit_magnitude(2 * code + 1, self.bits + 1, self.es) for code in range(1, nar - 1)]
        return Levels(
            values=tuple(float(v) for v in [-v for v in reversed(positive)] + [Fraction(0)] + positive),
            codes=tuple([*range(nar + 1, 2 * nar), *range(nar)]),
            boundaries=tuple(float(v) for v in [-v for v in reversed(limits)] + limits),
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
        return -posit_magnitude(2 * nar - code, self.bits, self.es) if code > nar else posit_magnitude(code, self.bits, self.es)

    def __str__(self) -> str:
        return self.name or f"posit{self.bits}_{self.es}"


def posit_magnitude(code: int, bits: int, es: int) -> Fraction:
    """The value of a positive posit code."""
    string = format(code, f"0{bits}b")[1:]
    run = len(string) - len(string.lstrip(string[0]))
    regime = run - 1 if string[0] == "1" else -run
    rest = string[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)
    fraction = rest[es:]
    significand = 1 + Fraction(int(fraction or "0", 2), 1 << len(fraction))
    return significand * Fraction(2) ** (regime * (1 << es) + exponent)
