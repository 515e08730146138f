"""Formats whose elements share a scale, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import frexp
from typing import Literal, NoReturn, get_args

import torch

from .base import Format, round_log2
from .errors import FormatError, not_allowed
from .float import Float
from .grid import Grid
from .levels import Levels

ScaleRule = Literal["floor", "ceil", "rceil", "even", "absmax", "mse", "two_level"]
Remainder = Literal["fill", "error"]
Special = Literal["nan", "error", "element"]

SCALE_RULES: tuple[str, ...] = get_args(ScaleRule)
POWERS_OF_TWO = ("floor", "ceil", "rceil", "even")
FLOAT32 = Float(8, 23)


@dataclass(frozen=True)
class Block(Format):
    """Elements of one format that share a scale: x becomes s round(x / s), the exact quotient rounded once (but see `two_level`).

    The scale s of a block, from amax, the largest finite |x| in it; emax is the element format's largest exponent, max its
    largest value, and logarithms are exact:

    - `floor`: 2^(floor(log2 amax) - emax) (OCP Microscaling Formats v1.0, section 6.3);
    - `ceil`: 2^(ceil(log2 amax) - emax);
    - `rceil`: 2^ceil(log2(amax / max)) (NVIDIA cuBLAS, "1D block scaling"; TransformerEngine);
    - `even`: as `floor`, of amax rounded to nearest even at the element's mantissa bits;
    - `absmax`: amax / max, rounded to nearest even in the scale format, at least its smallest positive value;
    - `mse`: of the candidates amax (i/16) / max, i = 8..24, rounded as in `absmax`, the one with the smallest sum of
      (x - s round(x / s))^2, elements rounded to nearest even and saturated; the sum is in float64, in row-major order, and
      the first of equal candidates wins;
    - `two_level`: beside a scale t of the whole tensor, as TransformerEngine's NVFP4 converter, of which every operation is one
      in float32: S = (max scale_max) / amax of the tensor, at most float32's largest number, 1 where amax is zero; t = 1 / S;
      s = amax (S (1 / max)), rounded to nearest even in the scale format, saturated; e = 1 / (s t), at most float32's
      largest number. Elements are round(x e), the product (of x in float32) rounded to float32 before, and values s t times that.

    Powers of two beyond the scale format become the largest or smallest that it has; a block of zeros gets the smallest (under
    `absmax` and `mse` the smallest positive value, under `two_level` zero).

    Args:
        element: any format but a block: a float, integers, fixed point, or levels (NF4 in blocks is QLoRA's storage).
        scale: the scales' format, a float.
        size: elements a block, along the axis that the caller names. Either this or `tile`.
        rule: how the scale is found; by default `floor` where the scale format has no mantissa, `two_level` with a tensor
            scale, else `absmax`.
        tensor_scale: float32 for `two_level`, and only there.
        tile: (rows, columns) of a 2-D block over the last two axes.
        remainder: `fill` a short last block with zeros, or refuse one (`error`).
        special: NaN or an infinity in a block makes its scale and all its values `nan` (its elements zeros), is refused
            (`error`), or is left out of amax and becomes what the projection says, alone (`element`).

    Raises:
        FormatError: formats that cannot be elements or scales, a size and a tile or neither, a rule that does not fit.
    """

    element: Format
    scale: Format
    size: int | None = None
    rule: ScaleRule | None = None
    tensor_scale: Format | None = None
    tile: tuple[int, int] | None = None
    remainder: Remainder = "fill"
    special: Special = "nan"
    kind: Literal["block"] = field(default="block", kw_only=True, repr=False)
    name: str = field(default="", compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.element, Block):
            raise FormatError(f"element: got {self.element}; allowed: any format but blocks", "element")
        if not self.element.max > 0:
            raise FormatError(
                f"element: got {self.element}, whose largest value is {self.element.max}; allowed: a positive one", "element"
            )
        if not isinstance(self.scale, Float):
            raise FormatError(f"scale: got {self.scale}; allowed: a float format", "scale")
        if (self.size is None) == (self.tile is None):
            raise FormatError(f"size: got size {self.size} and tile {self.tile}; allowed: one of the two", "size")
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.shape):
            where = "tile" if self.tile else "size"
            raise FormatError(f"{where}: got {getattr(self, where)!r}; allowed: whole numbers from 1 on", where)
        for name, allowed in (("rule", SCALE_RULES), ("remainder", get_args(Remainder)), ("special", get_args(Special))):
            if getattr(self, name) not in (*allowed, None):
                raise FormatError(not_allowed(name, getattr(self, name), allowed), name)
        if self.scale_rule == "even" and isinstance(self.element.lattice, Levels):
            given = f"got 'even' with {self.element}, whose values have no number of mantissa bits"
            raise FormatError(f"rule: {given}; allowed: {', '.join(r for r in SCALE_RULES if r != 'even')}", "rule")
        if (self.tensor_scale is not None) != (self.scale_rule == "two_level"):
            given = f"got {self.tensor_scale} with the rule {self.scale_rule!r}"
            raise FormatError(f"tensor_scale: {given}; allowed: fp32, with `two_level` and only there", "tensor_scale")
        if self.tensor_scale not in (None, FLOAT32):
            raise FormatError(f"tensor_scale: got {self.tensor_scale}; allowed: fp32", "tensor_scale")
        if self.special == "nan" and not self.scale.has_nan:
            given = f"got 'nan' with scales of {self.scale}, which has no NaN"
            raise FormatError(f"special: {given}; allowed: error, element", "special")

    @property
    def scale_rule(self) -> ScaleRule:
        """The rule, the default resolved."""
        if self.rule is not None:
            return self.rule
        if self.tensor_scale is not None:
            return "two_level"
        return "floor" if self.scale.grid.mantissa_bits == 0 else "absmax"

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,) or the tile's (rows, columns)."""
        return self.tile if self.tile is not None else (self.size or 0,)

    @property
    def elements(self) -> int:
        """Elements of a full block."""
        rows, columns = self.shape if self.tile else (1, *self.shape)
        return rows * columns

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Width of an element's code (the scales' share is in `bits_per_element`)."""
        return self.element.bits

    @property
    def bits_per_element(self) -> float:
        """Storage an element: its own bits and its share of the block's scale; a scale of the whole tensor is not counted."""
        return self.element.bits + self.scale.bits / self.elements

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether elements have a sign."""
        return self.element.signed

    @property
    def grid(self) -> Grid:
        """Refused: a value's neighbours depend on its block's scale."""
        raise FormatError(f"{self}: its values lie on no grid of their own; allowed: its element's")

    @property
    def max(self) -> float:
        """The largest element times the largest scale (and tensor scale)."""
        return self.element.max * self._scale_range[1]

    @property
    def min(self) -> float:
        """The most negative element times the largest scale (and tensor scale)."""
        return self.element.min * self._scale_range[1]

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive element times the smallest scale (and tensor scale)."""
        return self.element.smallest_subnormal * self._scale_range[0]

    @property
    def smallest_normal(self) -> float:
        """The element's smallest normal value times the smallest scale (and tensor scale)."""
        return self.element.smallest_normal * self._scale_range[0]

    @property
    def has_nan(self) -> bool:
        """Whether scales or elements have a NaN."""
        return self.scale.has_nan or self.element.has_nan

    @property
    def has_infinity(self) -> bool:
        """Whether elements have infinities."""
        return self.element.has_infinity

    @property
    def has_negative_zero(self) -> bool:
        """Whether elements have a -0."""
        return self.element.has_negative_zero

    @property
    def carrier(self) -> torch.dtype:
        """The smaller of float32 and float64 that holds every element; values are rounded into it once."""
        return self.element.carrier

    def holds(self, dtype: torch.dtype) -> bool:
        """Whether a tensor of `dtype` holds every element."""
        return self.element.holds(dtype)

    @cached_property
    def element_exponent(self) -> int:
        """The exponent of the largest element."""
        return round_log2(self.element.max)

    @cached_property
    def element_mantissa_bits(self) -> int:
        """The fraction bits of the largest element; none are counted of levels, which the rule `even` refuses."""
        if isinstance(self.element.lattice, Levels):
            return 0
        return min(self.element.grid.mantissa_bits, self.element_exponent - self.element.grid.smallest_exponent)

    @cached_property
    def scale_exponents(self) -> tuple[int, int]:
        """The exponents of the smallest and the largest power of two that the scale format has."""
        return frexp(self.scale.smallest_subnormal)[1] - 1, round_log2(self.scale.max)

    @property
    def _scale_range(self) -> tuple[float, float]:
        low, high = self.scale.smallest_subnormal, self.scale.max
        if self.scale_rule in POWERS_OF_TWO:
            low, high = (2.0**e for e in self.scale_exponents)
        if self.tensor_scale is None:
            return low, high
        return low / FLOAT32.max, high * FLOAT32.max

    def decode_code(self, code: int) -> Fraction | float:
        """Refused: a code says nothing without its block's scale."""
        self._refuse("decode")

    def values(self) -> torch.Tensor:
        """Refused: the values depend on the scales; those of the element format are a list."""
        self._refuse("values")

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Refused: a tensor of values does not say its scales."""
        self._refuse("encode")

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Refused: a code says nothing without its block's scale."""
        self._refuse("decode")

    def _refuse(self, what: str) -> NoReturn:
        raise FormatError(
            f"{what} with {self}: its codes come with scales; allowed: quantize(..., return_parts=True), dequantize_blocks, "
            f"or {what} of its element format"
        )

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return self.name or f"block({self.element} by {shape}, scale {self.scale} {self.scale_rule})"


def element_format(fmt: Format) -> Format:
    """The format that single elements are rounded to: a block's element format, or the format itself."""
    return fmt.element if isinstance(fmt, Block) else fmt
