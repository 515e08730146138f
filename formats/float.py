"""Floating-point formats of any width, bias and set of special values."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal, get_args

from .base import Format
from .errors import FormatError, not_allowed
from .grid import Grid

Specials = Literal["ieee", "fn", "fnuz", "finite", "p3109"]
Domain = Literal["extended", "finite"]

MAX_EXPONENT_BITS = 11
"""Those of fp64, which carries the values."""


@dataclass(frozen=True)
class Float(Format):
    """Values (-1)^s 2^(e - bias) 1.f, with subnormals (-1)^s 2^(1 - bias) 0.f at exponent field 0.

    Special values, by `specials`:

    - `ieee`: the all-ones exponent is infinity (f = 0) and NaN (IEEE 754-2019 section 3.4);
    - `fn`: no infinity; the all-ones code of either sign is NaN (OCP OFP8 E4M3);
    - `fnuz`: no infinity, no -0; the code of -0 is NaN; the default bias is one more;
    - `finite`: every code is a number (OCP MX E2M1, E2M3, E3M2);
    - `p3109`: one NaN (signed: the code of -0; unsigned: the all-ones code), no -0, and the largest codes are the
      infinities where `domain` is `extended`; the default bias is 2^(K-P-1) signed, 2^(K-P) unsigned (IEEE P3109 v4.0).

    Args:
        exponent_bits: 1..11.
        mantissa_bits: explicit fraction bits, 0..52.
        bias: exponent bias; by default 2^(exponent_bits - 1) - 1, one more for `fnuz`.
        subnormals: without them exponent field 0 is zero, whatever the fraction.
        signed: whether there is a sign bit.
        zero: without a zero (E8M0) exponent field 0 is a normal binade; needs `subnormals` false and an unsigned format.
        negative_zero: by default present in signed `ieee`, `fn` and `finite` formats.
        domain: `extended` (with infinities) or `finite`; only for `p3109`.

    Raises:
        FormatError: a width out of range, values beyond float64, specials that leave no number.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    specials: Specials = "ieee"
    subnormals: bool = True
    signed: bool = True
    zero: bool = True
    negative_zero: bool | None = None
    domain: Domain = "extended"
    kind: Literal["float"] = field(default="float", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_int("exponent_bits", self.exponent_bits, 1, MAX_EXPONENT_BITS)
        _check_int("mantissa_bits", self.mantissa_bits, 0, 52)
        if self.specials not in get_args(Specials):
            raise FormatError(not_allowed("specials", self.specials, get_args(Specials)), "specials")
        if self.domain not in get_args(Domain):
            raise FormatError(not_allowed("domain", self.domain, get_args(Domain)), "domain")
        if self.bias is not None:
            _check_int("bias", self.bias, -1100, 1200)
        if not self.zero and (self.subnormals or self.signed):
            raise FormatError("zero: got false; allowed only where `subnormals` and `signed` are false, as in E8M0", "zero")
        if self.specials == "fnuz" and not self.signed:
            raise FormatError("specials: got 'fnuz' for an unsigned format, which has no code of -0 for its NaN", "specials")
        if self.negative_zero and (not self.signed or self.specials in ("fnuz", "p3109")):
            raise FormatError(
                f"negative_zero: got true, which a {self._sign} {self.specials} format cannot have", "negative_zero"
            )
        if self._largest_code < self._smallest_code:
            raise FormatError(f"specials: {self.specials} leaves no positive number in {self.bits} bits", "specials")
        top, bottom = self._largest_exponent, self.grid.smallest_exponent
        if top > 1023 or bottom < -1074:
            raise FormatError(
                f"bias: values from 2^{bottom} to 2^{top} do not fit float64 (2^-1074 to 2^1023); got bias {self.resolved_bias}",
                "bias",
            )

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Sign, exponent and fraction."""
        return self.exponent_bits + self.mantissa_bits + self.signed

    @property
    def resolved_bias(self) -> int:
        """The bias, given or by default."""
        if self.bias is not None:
            return self.bias
        if self.specials == "p3109":
            return 1 << (self.exponent_bits - 1)
        return (1 << (self.exponent_bits - 1)) - 1 + (self.specials == "fnuz")

    @property
    def smallest_normal(self) -> float:
        """2^(smallest exponent of a normal value)."""
        return 2.0**self.grid.min_exponent

    @cached_property
    def grid(self) -> Grid:
        """The grid of the finite values."""
        largest = float(self._magnitude(self._largest_code))
        negative_zero = self.signed and self.specials in ("ieee", "fn", "finite") and self.negative_zero is not False
        return Grid(
            mantissa_bits=self.mantissa_bits,
            min_exponent=(1 if self.zero else 0) - self.resolved_bias,
            max_value=largest,
            min_value=-largest if self.signed else (0.0 if self.zero else float(self._magnitude(0))),
            bits=self.bits,
            subnormals=self.subnormals,
            zero=self.zero,
            negative_zero=negative_zero,
            nan_code=self._nan_code,
            infinity_code=self._infinity_code,
            sign_bit=self._magnitude_bits if self.signed else None,
        )

    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code (see the class for NaN, infinities and -0)."""
        negative = self.signed and bool(code >> self._magnitude_bits)
        magnitude = code & ((1 << self._magnitude_bits) - 1)
        if self.specials in ("fnuz", "p3109") and self.signed and code == 1 << self._magnitude_bits:
            return float("nan")
        if magnitude > self._largest_code:
            return (float("-inf") if negative else float("inf")) if magnitude == self._infinity_code else float("nan")
        value = self._magnitude(magnitude)
        if value == 0 and negative:
            return -0.0 if self.grid.negative_zero else Fraction(0)
        return -value if negative else value

    def __str__(self) -> str:
        return self.name or f"float(e{self.exponent_bits}m{self.mantissa_bits}, {self.specials})"

    @property
    def _sign(self) -> str:
        return "signed" if self.signed else "unsigned"

    @property
    def _magnitude_bits(self) -> int:
        return self.exponent_bits + self.mantissa_bits

    @property
    def _infinity_code(self) -> int | None:
        top = (1 << self._magnitude_bits) - 1
        if self.specials == "ieee":
            return top - (1 << self.mantissa_bits) + 1
        if self.specials == "p3109" and self.domain == "extended":
            return top if self.signed else top - 1
        return None

    @property
    def _nan_code(self) -> int | None:
        top = (1 << self._magnitude_bits) - 1
        if self.specials == "ieee":
            return top - (1 << self.mantissa_bits) + 1 + (1 << (self.mantissa_bits - 1)) if self.mantissa_bits else None
        if self.specials in ("fnuz", "p3109") and self.signed:
            return 1 << self._magnitude_bits
        return None if self.specials == "finite" else top

    @property
    def _largest_code(self) -> int:
        """The magnitude code of the largest finite value."""
        top = (1 << self._magnitude_bits) - 1
        if self.specials == "ieee":
            return top - (1 << self.mantissa_bits)
        if self.specials == "fn":
            return top - 1
        if self.specials == "p3109":
            return top - (self.domain == "extended") - (not self.signed)
        return top

    @property
    def _smallest_code(self) -> int:
        """The magnitude code of the smallest positive value."""
        if not self.zero:
            return 0
        return 1 if self.subnormals and self.mantissa_bits else 1 << self.mantissa_bits

    @property
    def _largest_exponent(self) -> int:
        magnitude = self._magnitude(self._largest_code)
        return magnitude.numerator.bit_length() - magnitude.denominator.bit_length()

    def _magnitude(self, code: int) -> Fraction:
        exponent, fraction = code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1)
        one = 1 << self.mantissa_bits
        if exponent == 0 and self.zero:
            significand, exponent = (fraction if self.subnormals else 0), 1
        else:
            significand = one + fraction
        return significand * Fraction(2) ** (exponent - self.resolved_bias - self.mantissa_bits)


def _check_int(name: str, given: object, low: int, high: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
        raise FormatError(f"{name}: got {given!r}; allowed: a whole number from {low} to {high}", name)
