"""What every number format can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field
from fractions import Fraction
from typing import Any, ClassVar

import torch

from .errors import FormatError
from .grid import Grid
from .levels import Levels
from .packing import Order, pack, unpack

MAX_LISTED_BITS = 16


class Format(ABC):
    """A set of values and their bit codes.

    A Format is a frozen dataclass. It says what its values are (`decode_code`, exactly) and which grid its rounding works on
    (`grid`); the algorithms that round, encode and decode tensors are elsewhere and take the format as an argument.
    Attributes every format has: `kind`, `name` (a label, no part of its identity), `bits`, `signed`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: str
    name: str
    bits: int
    signed: bool

    @property
    def grid(self) -> Grid:
        """The uniform-in-binade grid that its finite values lie on.

        Raises:
            FormatError: they lie on none.
        """
        raise FormatError(f"{self}: its values lie on no uniform grid; allowed here: floats, integers and fixed point")

    @property
    def lattice(self) -> Grid | Levels:
        """Its finite values as a grid, or one by one."""
        return self.grid

    @abstractmethod
    def decode_code(self, code: int) -> Fraction | float:
        """The exact value of one code; a float only for NaN, the infinities and -0."""

    @property
    def max(self) -> float:
        """The largest finite value."""
        return self.lattice.max_value

    @property
    def min(self) -> float:
        """The smallest (most negative) finite value."""
        return self.lattice.min_value

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value."""
        return self.lattice.smallest_positive

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value with a full significand (for integers and fixed point: the smallest positive value)."""
        return self.lattice.smallest_positive

    @property
    def has_nan(self) -> bool:
        """Whether a code is NaN."""
        return self.lattice.nan_code is not None

    @property
    def has_infinity(self) -> bool:
        """Whether a code is +infinity."""
        return self.lattice.infinity_code is not None

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 has a code."""
        return self.lattice.negative_zero

    @property
    def carrier(self) -> torch.dtype:
        """The smaller of float32 and float64 that holds every value."""
        return torch.float32 if self.lattice.fits(24, -149, 127) else torch.float64

    def holds(self, dtype: torch.dtype) -> bool:
        """Whether a tensor of `dtype` holds every value of the format."""
        info = torch.finfo(dtype)
        digits = 1 - round_log2(info.eps)
        return self.lattice.fits(digits, round_log2(info.tiny) - digits + 1, round_log2(info.max))

    def values(self) -> torch.Tensor:
        """The finite values, ascending, zero once.

        Raises:
            FormatError: the format has more than 16 bits.
        """
        if isinstance(self.lattice, Levels):
            return torch.tensor(self.lattice.values, dtype=self.carrier)
        if self.bits > MAX_LISTED_BITS:
            raise FormatError(f"values of {self}: it has {self.bits} bits; allowed: formats of up to {MAX_LISTED_BITS} bits")
        finite = {v for v in map(self.decode_code, range(1 << self.bits)) if isinstance(v, Fraction)}
        return torch.tensor([float(v) for v in sorted(finite) if self.min <= v <= self.max], dtype=self.carrier)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The bit codes (int64, x's shape) of a tensor of exact values of the format.

        Raises:
            FormatError: an element is not a value of the format; the first such element is named.
        """
        from .codes import encode

        return encode(x, self)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The values (in the carrier's dtype) of a tensor of codes of any integer dtype.

        Raises:
            FormatError: a code lies outside 0 .. 2^bits - 1.
        """
        from .codes import decode

        return decode(codes, self)

    def pack(self, codes: torch.Tensor, order: Order = "low_first") -> torch.Tensor:
        """Codes in bytes without a gap, row by row (see `hwsim.formats.packing.pack`)."""
        return pack(codes, self.bits, order)

    def encode_packed(self, x: torch.Tensor, order: Order = "low_first") -> torch.Tensor:
        """`pack(encode(x), order)`, on a CPU mostly at the speed of memory.

        Raises:
            FormatError: as `encode` and `pack`.
        """
        from .codes import encode_packed

        return encode_packed(x, self, order)

    def unpack(self, packed: torch.Tensor, count: int | None = None, order: Order = "low_first") -> torch.Tensor:
        """The codes of bytes, `count` a row; by default all that they hold (see `hwsim.formats.packing.unpack`)."""
        return unpack(packed, self.bits, count, order)


def round_log2(x: float) -> int:
    """floor(log2 x) of a positive float, exactly."""
    from math import frexp

    return frexp(x)[1] - 1
