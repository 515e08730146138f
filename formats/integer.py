"""Integers and fixed point in two's complement."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal

from .base import Format
from .errors import FormatError
from .grid import Grid

MAX_BITS = 32


@dataclass(frozen=True)
class Integer(Format):
    """The integers -2^(bits-1) .. 2^(bits-1) - 1 (unsigned: 0 .. 2^bits - 1), coded in two's complement.

    There is no NaN, no infinity and no -0.

    Args:
        bits: 1..32.
        signed: two's complement, or unsigned.
        symmetric: leave the most negative code unused; needs a signed format of at least 2 bits.

    Raises:
        FormatError: bits out of range, or `symmetric` where it cannot be.
    """

    bits: int
    signed: bool = True
    symmetric: bool = False
    kind: Literal["integer"] = field(default="integer", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_width(self.bits, self.signed, self.symmetric)

    @cached_property
    def grid(self) -> Grid:
        """The grid of the values."""
        return fixed_grid(self.bits, 0, self.signed, self.symmetric)

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; the unused code of a symmetric format decodes to -2^(bits-1) all the same."""
        return Fraction(signed_code(code, self.bits) if self.signed else code)

    def __str__(self) -> str:
        return self.name or f"{'' if self.signed else 'u'}int{self.bits}{'_symmetric' if self.symmetric else ''}"


@dataclass(frozen=True)
class Fixed(Format):
    """The integers of the same width times 2^-fraction_bits.

    There is no NaN, no infinity and no -0.

    Args:
        bits: 1..32, the whole width.
        fraction_bits: how many of them stand behind the point, up to all of them; -n is n zeros before it, to -64.
        signed, symmetric: as for Integer.

    Raises:
        FormatError: as for Integer, or fraction_bits out of range.
    """

    bits: int
    fraction_bits: int
    signed: bool = True
    symmetric: bool = False
    kind: Literal["fixed"] = field(default="fixed", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_width(self.bits, self.signed, self.symmetric)
        f = self.fraction_bits
        if isinstance(f, bool) or not isinstance(f, int) or not -64 <= f <= self.bits:
            raise FormatError(
                f"fraction_bits: got {f!r}; allowed: a whole number from -64 to {self.bits}, all bits", "fraction_bits"
            )

    @cached_property
    def grid(self) -> Grid:
        """The grid of the values."""
        return fixed_grid(self.bits, self.fraction_bits, self.signed, self.symmetric)

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code."""
        value = signed_code(code, self.bits) if self.signed else code
        return value / Fraction(2) ** self.fraction_bits

    def __str__(self) -> str:
        return (
            self.name
            or f"{'' if self.signed else 'u'}fixed{self.bits}.{self.fraction_bits}{'_symmetric' if self.symmetric else ''}"
        )


def signed_code(code: int, bits: int) -> int:
    """The two's complement number of a code."""
    return code - (1 << bits) if code >> (bits - 1) else code


def check_width(bits: object, signed: bool, symmetric: bool) -> None:
    """Refuse a width or a symmetry that two's complement cannot have."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MAX_BITS:
        raise FormatError(f"bits: got {bits!r}; allowed: a whole number from 1 to {MAX_BITS}", "bits")
    if symmetric and (not signed or bits < 2):
        raise FormatError("symmetric: got true; allowed only for signed formats of at least 2 bits", "symmetric")


def fixed_grid(bits: int, fraction_bits: int, signed: bool, symmetric: bool) -> Grid:
    """The grid of integers times 2^-fraction_bits."""
    step = 2.0**-fraction_bits
    high = (1 << (bits - signed)) - 1
    low = (-high if symmetric else -high - 1) if signed else 0
    return Grid(
        mantissa_bits=bits,
        min_exponent=bits - fraction_bits,
        max_value=high * step,
        min_value=low * step,
        bits=bits,
        negative_zero=False,
        twos_complement=signed,
        uniform=True,
    )
