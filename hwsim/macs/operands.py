"""What a unit is given: element values that are checked against its ports, and the scales of block operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hwsim.errors import FormatError
from hwsim.formats import Fixed, Float, Format, Integer, Rounding
from hwsim.formats.reference import not_a_number

from .exact import exact_outer_sum, wide
from .lanes import compiled_mode, edges, lanes_hold
from .record import Mac, Rounded
from .sums import outer_sum
from .words import Stream

Array = npt.NDArray[np.float64]
SMALLEST_NORMAL_EXPONENT = -126
LANE_DIGITS = 26
SHORT_DIGITS, DOUBLE_DIGITS = 12, 53
SHORT_TAIL = (1 << (DOUBLE_DIGITS - SHORT_DIGITS)) - 1
NO_STREAM = Stream(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Port:
    """A checked operand.

    Args:
        values: float64, A (rows, K) or B (K, columns), flushed where the unit flushes.
        scales: float64, one for each block along K, or None.
        format: the port's format for this operand, or None where the unit declares none.
    """

    values: Array
    scales: Array | None
    format: Format | None

    @property
    def min_exponent(self) -> int:
        """The exponent of the format's smallest normal value: that of its subnormals in an alignment."""
        return self.format.grid.min_exponent if self.format else SMALLEST_NORMAL_EXPONENT

    @property
    def digits(self) -> int:
        """Significant bits that every element fits in, by the declared format or, without one, by the elements: 12 or 53."""
        if self.format is not None:
            return self.format.grid.mantissa_bits + 1
        return SHORT_DIGITS if not (self.values.view(np.int64) & SHORT_TAIL).any() else DOUBLE_DIGITS

    def fits_lanes(self, mac: Mac) -> bool:
        """Whether a product of two such values, with the scales that the unit applies to products, is exact in float64."""
        digits = LANE_DIGITS - (scale_digits(mac) if self.scales is not None else 0)
        if self.format is not None:
            return self.format.grid.fits(digits, -450, 450)
        with np.errstate(over="ignore"):
            short = self.values.astype(np.float32)
        return digits == LANE_DIGITS and bool(np.all((short == self.values) | np.isnan(self.values)))


def scale_digits(mac: Mac) -> int:
    """Significant bits that a product's scale adds to it: none where scales are powers of two or act elsewhere."""
    scales = mac.scales
    if scales is None or scales.applied != "product" or not scales.format.grid.mantissa_bits:
        return 0
    return scales.format.grid.mantissa_bits + 1


def holds_groups(mac: Mac, a: Format | None, b: Format | None) -> bool:
    """Whether float64 is exact for every sum of `exact_terms` products, its scaled value, and the aligned sum of them all.

    By the declared formats alone. Aligned terms have the exponent of their scales, whatever their sum is.
    """
    how = mac.fused
    if how is None or how.exact_terms == 1 or how.fraction_bits == "exact" or how.terms is None:
        return True
    if a is None or b is None:
        return False
    last = sum(fmt.grid.last_exponent for fmt in (a, b))
    largest_a, largest_b = (Fraction(max(fmt.grid.max_value, -fmt.grid.min_value)) for fmt in (a, b))
    product = largest_a * largest_b
    scaled = mac.scales is not None and mac.scales.applied == "group"
    digits = mac.scales.format.grid.mantissa_bits if mac.scales is not None and scaled else 0
    significands = 4 if digits else 1
    exact = how.exact_terms * product * significands / Fraction(2) ** (last - 2 * digits)
    # The running sum is one more term, and `sticky` needs another bit.
    aligned = (how.terms * product * significands + 2) * 2 ** (how.fraction_bits + 1)
    limit = 1 << DOUBLE_DIGITS
    return exact <= limit and aligned <= limit


def holds_promoted(mac: Mac) -> bool:
    """Whether float64 is exact for the partial sums that are multiplied by scales when they are promoted."""
    if mac.promote is None or mac.scales is None or mac.scales.applied != "promotion":
        return True
    grids = mac.accumulator.format.grid, mac.promote.format.grid
    fits = all(grid.fits(DOUBLE_DIGITS, -450, 450) for grid in grids)
    return fits and sum(grid.mantissa_bits + 1 for grid in grids) <= DOUBLE_DIGITS


def holds_scale_products(mac: Mac) -> bool:
    """Whether float64 is exact for the product of two scales."""
    return mac.scales is None or mac.scales.format.grid.fits(LANE_DIGITS, -450, 450)


def port(mac: Mac, name: str, values: torch.Tensor, scales: torch.Tensor | None, fmt: Format | None = None) -> Port:
    """An operand checked against the unit's port of that name (`input` or `weight`).

    Raises:
        FormatError: an element is no value of any of the port's formats; the first one is named.
    """
    data = values.detach().to(torch.float64).numpy()
    found = fmt or chosen_format(mac, name, values, lambda allowed: first_foreign(data, allowed))
    if mac.flush_inputs != "none":
        data = flushed(data, 2.0 ** (found.grid.min_exponent if found else SMALLEST_NORMAL_EXPONENT), mac.flush_inputs)
    scale = None if scales is None else np.ascontiguousarray(scales.detach().to(torch.float64).numpy())
    if scales is not None and scale is not None and mac.scales is not None:
        foreign_scale(mac, name, scales, first_foreign(scale, mac.scales.format))
    return Port(np.ascontiguousarray(data), scale, found)


def foreign_scale(mac: Mac, name: str, scales: torch.Tensor, index: int | None) -> None:
    """Refuse the scale of this flat index, where there is one."""
    if index is not None and mac.scales is not None:
        given = f"scale [{_place(index, scales.shape)}] is {float(scales.reshape(-1)[index])!r}"
        raise FormatError(f"{name} operand of {mac.name or 'the unit'}: {given}; allowed: values of {mac.scales.format}")


def _place(index: int, shape: Sequence[int]) -> str:
    return ", ".join(map(str, np.unravel_index(index, shape)))


def c_place(mac: Mac) -> Rounded:
    """What C is rounded to on its way in: a NaN becomes what one becomes in the sum that C joins."""
    return Rounded(format=mac.c_format, nan=mac.outermost.nan)


def check_nan(data: Any, place: Rounded) -> None:
    """Refuse a NaN among data, an array or a tensor, that is to become a value of a place without one.

    Raises:
        NanError: as the reference does.
    """
    if not place.format.has_nan and place.nan == "error" and bool((data != data).any()):
        not_a_number(place.format, place.projection)


def flushed(data: Array, smallest_normal: float, how: str) -> Array:
    """The data with subnormals replaced by zero, signed or positive."""
    zeros = np.copysign(0.0, data) if how == "signed" else np.zeros_like(data)
    return np.where(np.abs(data) < smallest_normal, zeros, data)


def chosen_format(mac: Mac, name: str, values: torch.Tensor, foreign: Callable[[Format], int | None]) -> Format | None:
    """The first of the port's formats that has all values; `foreign` gives the flat index of the first value it lacks.

    Raises:
        FormatError: none has; the element that the last one to fail lacks is named.
    """
    if mac.operands is None:
        return None
    allowed: tuple[Format, ...] = getattr(mac.operands, name)
    missing = []
    for fmt in allowed:
        index = foreign(fmt)
        if index is None:
            return fmt
        missing.append(index)
    index = max(missing)
    given = f"element [{_place(index, values.shape)}] is {float(values.reshape(-1)[index])!r}"
    names = " or ".join(map(str, allowed))
    raise FormatError(f"{name} operand of {mac.name or 'the unit'}: {given}; allowed: values of {names}")


def first_foreign(data: Array, fmt: Format) -> int | None:
    """The flat index of the first element that is no value of the format, or None."""
    flat = data.reshape(1, data.size)
    if isinstance(fmt, Float | Fixed | Integer):
        known = rounded(flat, _truncated(fmt)) == flat
    else:
        known = np.isin(flat, fmt.values().double().numpy())
    known = np.where(np.isnan(flat), fmt.has_nan, np.where(np.isinf(flat), fmt.has_infinity, known))
    return None if known.all() else int(np.argmin(known))


@cache
def _truncated(fmt: Format) -> Rounded:
    """Any float, fixed-point or integer format, unsigned ones too, as a place of rounding."""
    return Rounded.model_construct(format=fmt, rounding=Rounding("toward_zero"), overflow="saturate", nan="zero")


def rounded(x: Array, place: Rounded) -> Array:
    """x (rows, columns) rounded at a place of the unit that is not stochastic."""
    total, ones = np.full(x.shape, -0.0), np.ones((1, 1))
    if lanes_hold(place):
        outer_sum(compiled_mode(place.rounding), False)(total, np.array(x), ones, edges(place), 0, 0, 0, 0, NO_STREAM)
    else:
        to = wide(place.format.grid, place.rounding)
        exact_outer_sum(total, np.array(x), np.ones_like(x), edges(place), to, 0, 0, 0, 0, NO_STREAM)
    return total
