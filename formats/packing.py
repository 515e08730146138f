"""Codes of any width in bytes, without a gap."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import FormatError, not_allowed

Order = Literal["low_first", "high_first"]
ORDERS: tuple[str, ...] = get_args(Order)
BYTE = 8
WORD = 64


def pack(codes: Tensor, bits: int, order: Order = "low_first") -> Tensor:
    """The codes of each row (the last axis) as one run of bits, cut into bytes; the last byte is filled with zero bits.

    `low_first`: the first code takes the lowest bits of the first byte (so torch and TransformerEngine pack FP4); `high_first`:
    the highest, its most significant bit first. Codes wider than a byte are little-endian and big-endian accordingly.

    Args:
        codes: any integer dtype, 0 .. 2^bits - 1, shape (..., n); int64 codes of 64 bits are taken as they are.
        bits: 1..64.
        order: which end of a byte is filled first.

    Returns:
        uint8, shape (..., ceil(n bits / 8)).

    Raises:
        FormatError: a scalar, a code out of range (the first is named), bits or order that do not exist.
    """
    _check(bits, order)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype is torch.bool or not codes.dim():
        given = f"{codes.dtype} and shape {tuple(codes.shape)}"
        raise FormatError(f"pack: got a tensor of {given}; allowed: integers with an axis to pack")
    code = codes.to(torch.int64)
    if bits < WORD and bool(((code < 0) | (code >= 1 << bits)).any()):
        index = [int(i) for i in ((code < 0) | (code >= 1 << bits)).nonzero()[0]]
        raise FormatError(f"pack: code {index} is {int(code[tuple(index)])}; allowed: 0 to 2^{bits} - 1")
    stream = ((code[..., None] >> _places(bits, order, code.device)) & 1).flatten(-2)
    padded = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % BYTE))
    grouped = padded.view(*padded.shape[:-1], -1, BYTE)
    return (grouped << _places(BYTE, order, code.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int | None = None, order: Order = "low_first") -> Tensor:
    """The codes (int64) of bytes that `pack` made.

    Args:
        packed: uint8, shape (..., bytes).
        bits, order: as given to `pack`.
        count: codes a row; by default as many whole codes as the bytes hold.

    Raises:
        FormatError: no bytes, or a count that they do not hold.
    """
    _check(bits, order)
    if packed.dtype is not torch.uint8 or not packed.dim():
        given = f"{packed.dtype} and shape {tuple(packed.shape)}"
        raise FormatError(f"unpack: got a tensor of {given}; allowed: uint8 with an axis to unpack")
    held = packed.shape[-1] * BYTE // bits
    count = held if count is None else count
    if not 0 <= count <= held:
        raise FormatError(f"count: got {count}; allowed: 0 to {held}, what {packed.shape[-1]} bytes hold", "count")
    stream = ((packed.to(torch.int64)[..., None] >> _places(BYTE, order, packed.device)) & 1).flatten(-2)
    grouped = stream[..., : count * bits].reshape(*packed.shape[:-1], count, bits)
    return (grouped << _places(bits, order, packed.device)).sum(-1)


def _places(bits: int, order: Order, device: torch.device) -> Tensor:
    """The place of each bit of a code in the order of the stream."""
    places = torch.arange(bits, device=device)
    return places if order == "low_first" else places.flip(0)


def _check(bits: int, order: str) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= WORD:
        raise FormatError(f"bits: got {bits!r}; allowed: a whole number from 1 to {WORD}", "bits")
    if order not in ORDERS:
        raise FormatError(not_allowed("order", order, ORDERS), "order")
