"""Codebooks: any list of levels, and the sums of powers of two."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import isfinite
from typing import Literal

from .base import Format
from .errors import FormatError
from .levels import Levels, by_rank

MAX_LEVELS = 1 << 16
LARGEST_FLOAT32 = 2.0**128 - 2.0**104


@dataclass(frozen=True)
class Codebook(Format):
    """The listed levels; the code of a level is its place in the list, and codes beyond the list are NaN to `decode`.

    Levels are rounded to the nearest float32 numbers, which are what tensors carry. Nearest changes at the midpoint of two
    neighbours. There is no NaN, no infinity and no -0; what lies beyond the levels takes the last one.

    Args:
        levels: 2..65536 distinct finite numbers, in the order of their codes.

    Raises:
        FormatError: too few or too many levels, a level twice in float32, NaN, infinity or beyond float32.
    """

    levels: tuple[float, ...]
    kind: Literal["codebook"] = field(default="codebook", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 2 <= len(self.levels) <= MAX_LEVELS:
            raise FormatError(f"levels: got {len(self.levels)} levels; allowed: 2 to {MAX_LEVELS}", "levels")
        bad = next((v for v in self.levels if not isfinite(v) or abs(v) > LARGEST_FLOAT32), None)
        if bad is not None:
            raise FormatError(f"levels: got {bad!r}; allowed: finite numbers within float32", "levels")
        single = tuple(struct.unpack("f", struct.pack("f", v))[0] + 0.0 for v in self.levels)
        often = Counter(single).most_common(1)[0]
        if often[1] > 1:
            raise FormatError(f"levels: got {often[0]!r} twice; allowed: numbers that are distinct in float32", "levels")
        object.__setattr__(self, "levels", single)

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The fewest bits that number the levels."""
        return (len(self.levels) - 1).bit_length()

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether a level is negative."""
        return min(self.levels) < 0

    @cached_property
    def lattice(self) -> Levels:
        """The levels in ascending order."""
        return by_rank(list(self.levels), self.bits)

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; codes past the last level are NaN."""
        return Fraction(self.levels[code]) if code < len(self.levels) else float("nan")

    def __str__(self) -> str:
        return self.name or f"codebook({len(self.levels)} levels)"


@dataclass(frozen=True)
class AdditivePowersOfTwo(Format):
    """Sums of n = magnitude bits div k terms, term i being 0 or 2^-(i + j n), j = 0 .. 2^k - 2, and their negatives.

    With k = 2 and an odd number of magnitude bits a further term is 0 or 2^-2n, and the terms' last powers come one later.
    Levels have their place in ascending order as code; the clipping threshold of the source is the tensor's scale, here left
    out. Nearest, NaN, infinities and -0 are as for a Codebook.

    Args:
        bits: 2..9, the sign included.
        base_bits: k, 1..4; it divides the magnitude bits, unless it is 2.
        signed: whether the negatives are levels.

    Raises:
        FormatError: a width out of range, or that k does not divide.

    Source: Li, Dong, Wang, "Additive Powers-of-Two Quantization", ICLR 2020, equations 4 and 5 and section 2.2; the odd widths
    as in its released code (yhhhli/APoT_Quantization, `build_power_value`).
    """

    bits: int
    base_bits: int = 2
    signed: bool = True
    kind: Literal["apot"] = field(default="apot", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for name, given, low, high in (("bits", self.bits, 2, 9), ("base_bits", self.base_bits, 1, 4)):
            if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
                raise FormatError(f"{name}: got {given!r}; allowed: a whole number from {low} to {high}", name)
        width = self.bits - self.signed
        if width < self.base_bits or (width % self.base_bits and self.base_bits != 2):
            raise FormatError(f"base_bits: got {self.base_bits}; allowed: 2, or what divides {width} magnitude bits", "base_bits")

    @cached_property
    def codebook(self) -> Codebook:
        """The levels, ascending."""
        terms, odd = divmod(self.bits - self.signed, self.base_bits)
        powers = [2.0**-e for e in range(terms * ((1 << self.base_bits) - 1) + odd)]
        extra = [powers.pop(2 * terms)] if odd else []
        choices = [[0.0, *powers[i::terms]] for i in range(terms)] + [[0.0, *extra]]
        magnitudes = {sum(choice) for choice in product(*choices)}
        return Codebook(tuple(sorted(magnitudes | {-m for m in magnitudes} if self.signed else magnitudes)))

    @property
    def lattice(self) -> Levels:
        """The levels in ascending order."""
        return self.codebook.lattice

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; codes past the last level are NaN."""
        return self.codebook.decode_code(code)

    def __str__(self) -> str:
        return self.name or f"{'' if self.signed else 'u'}apot{self.bits}.{self.base_bits}"
