"""Values to bit codes and back, as tensor operations on any device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Format
from .bits import DIGITS, power_of_two, significand
from .errors import FormatError
from .grid import Grid
from .levels import Levels
from .packing import ORDERS, Order, pack
from .steps import levels_of

WORD = 64


def encode(x: Tensor, fmt: Format) -> Tensor:
    """The codes (int64, x's shape) of exact values of the format.

    NaN gives the canonical code. -0 gives the code of 0 where the format has no -0. A code of 64 bits is the int64 of its bits.
    `encode(decode(c))` is c, but for the exceptions that `properties.canonical_codes` lists.

    Raises:
        FormatError: x is no floating tensor, or an element is no value of the format; the first such element is named.
    """
    if not x.is_floating_point():
        raise FormatError(f"encode: got a tensor of {x.dtype}; allowed: floating dtypes")
    value = x.to(torch.float64)
    if isinstance(fmt.lattice, Levels):
        return _level_codes(x, value, fmt)
    grid = fmt.grid
    ordinary = value.isfinite() & (value != 0)
    m, q = significand(torch.where(ordinary, value.abs(), 1.0))
    exponent = q + (DIGITS - 1)
    normal = exponent >= grid.min_exponent
    places = (torch.where(normal, exponent - grid.mantissa_bits, grid.smallest_exponent) - q).clamp(0, 62)
    k = m >> places
    known = (value >= grid.min_value) & (value <= grid.max_value) & (~ordinary | (k << places == m))
    binade = torch.where(normal, exponent - grid.min_exponent - int(not grid.zero), 0)
    codes = _signed(torch.where(ordinary, (binade << grid.mantissa_bits) + k, 0), value.signbit(), grid)
    if grid.nan_code is not None:
        codes = torch.where(value.isnan(), int64_code(grid.nan_code), codes)
        known |= value.isnan()
    if grid.infinity_code is not None:
        infinite = value.isinf() & (value > 0 if grid.sign_bit is None else True)
        codes = torch.where(infinite, _signed(torch.full_like(codes, grid.infinity_code), value.signbit(), grid), codes)
        known |= infinite
    _check(known, x, f"encode with {fmt}", f"its values, from {fmt.min} to {fmt.max}")
    return codes


def encode_packed(x: Tensor, fmt: Format, order: Order = "low_first") -> Tensor:
    """The codes of exact values in bytes (see `packing.pack`): without a tensor of codes in between where a compiled loop can.

    Raises:
        FormatError: as `encode` and `pack`.
    """
    if isinstance(fmt.lattice, Grid) and order in ORDERS:
        from .backends.pack_cpu import pack_values

        packed = pack_values(x, fmt.lattice, order == "low_first")
        if packed is not None:
            return packed
    return pack(encode(x, fmt), fmt.bits, order)


def decode(codes: Tensor, fmt: Format) -> Tensor:
    """The values (in the format's carrier dtype, codes' shape) of codes of any integer dtype.

    Raises:
        FormatError: codes are no integers, or one lies outside 0 .. 2^bits - 1; the first such code is named.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype is torch.bool:
        raise FormatError(f"decode: got a tensor of {codes.dtype}; allowed: integer dtypes")
    code = codes.to(torch.int64)
    if fmt.bits < WORD:
        _check((code >= 0) & (code < 1 << fmt.bits), codes, f"decode with {fmt}", f"codes from 0 to 2^{fmt.bits} - 1")
    if isinstance(fmt.lattice, Levels):
        return _table(fmt).values_by_code.to(code.device)[code].to(fmt.carrier)
    grid = fmt.grid
    value = _fixed(code, grid) if grid.uniform else _floating(code, grid)
    return value.to(fmt.carrier)


class _Table(NamedTuple):
    """The levels ascending, their codes, and what each code stands for."""

    values: Tensor
    codes: Tensor
    values_by_code: Tensor


@lru_cache(maxsize=64)
def _table(fmt: Format) -> _Table:
    levels = levels_of(fmt)
    by_code = torch.full((1 << fmt.bits,), torch.nan, dtype=torch.float64)
    values, codes = torch.tensor(levels.values, dtype=torch.float64), torch.tensor(levels.codes)
    by_code[codes] = values
    for code in by_code.isnan().nonzero().flatten().tolist():
        by_code[code] = float(fmt.decode_code(code))
    return _Table(values, codes, by_code)


def _level_codes(x: Tensor, value: Tensor, fmt: Format) -> Tensor:
    table, nan_code = _table(fmt), fmt.lattice.nan_code
    values = table.values.to(x.device)
    place = torch.searchsorted(values, value.contiguous()).clamp(max=len(values) - 1)
    known, codes = values[place] == value, table.codes.to(x.device)[place]
    if nan_code is not None:
        codes = torch.where(value.isnan(), nan_code, codes)
        known |= value.isnan()
    _check(known, x, f"encode with {fmt}", f"its {len(values)} values, from {fmt.min} to {fmt.max}")
    return codes


def _fixed(code: Tensor, grid: Grid) -> Tensor:
    if grid.twos_complement:
        code = code - ((code >> (grid.bits - 1)) << grid.bits)
    return code.to(torch.float64) * 2.0**grid.smallest_exponent


def _floating(code: Tensor, grid: Grid) -> Tensor:
    magnitude_bits = grid.bits if grid.sign_bit is None else grid.sign_bit
    magnitude = code & ((1 << magnitude_bits) - 1)
    one = 1 << grid.mantissa_bits
    binade = (magnitude >> grid.mantissa_bits) + int(not grid.zero)
    fraction = magnitude & (one - 1)
    k = torch.where(binade > 0, fraction + one, fraction if grid.subnormals else 0)
    value = k.to(torch.float64) * power_of_two(binade.clamp(min=1) + (grid.min_exponent - 1 - grid.mantissa_bits))
    value = torch.where(value > grid.max_value, torch.nan, value)
    if grid.infinity_code is not None:
        value = torch.where(magnitude == grid.infinity_code, torch.inf, value)
    if grid.sign_bit is not None:
        negative = (code >> grid.sign_bit) & 1 != 0
        value = torch.where(negative & ((k != 0) | grid.negative_zero), -value, value)
    return value if grid.nan_code is None else torch.where(code == int64_code(grid.nan_code), torch.nan, value)


def _signed(magnitude: Tensor, negative: Tensor, grid: Grid) -> Tensor:
    """The codes of magnitudes with a sign: two's complement, a sign bit, or none."""
    if grid.twos_complement:
        return torch.where(negative, -magnitude, magnitude) & ((1 << grid.bits) - 1)
    if grid.sign_bit is None:
        return magnitude
    return torch.where(negative & ((magnitude != 0) | grid.negative_zero), magnitude | int64_code(1 << grid.sign_bit), magnitude)


def int64_code(code: int) -> int:
    """A code as the int64 of the same 64 bits."""
    return code - (1 << WORD) if code >> (WORD - 1) else code


def _check(known: Tensor, given: Tensor, where: str, allowed: str) -> None:
    if bool(known.all()):
        return
    index = [int(i) for i in (~known).nonzero()[0]]
    raise FormatError(f"{where}: element {index} is {given[tuple(index)].item()}; allowed: {allowed}")
