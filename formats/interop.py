"""Codes as torch's own low-precision dtypes, and back: the same bits under another name, with no rounding."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .base import Format
from .errors import FormatError
from .float import Float
from .integer import Integer
from .packing import pack, unpack
from .scaled import CARRIERS

FP4_PAIRS = "float4_e2m1fn_x2"


def to_torch(codes: Tensor, fmt: Format) -> Tensor:
    """The codes as a tensor of the torch dtype that has the format's bits.

    Args:
        codes: any integer dtype. FP4 codes are packed in pairs along the last axis, the first in the low half of the byte.
        fmt: a format that torch has (see `torch_dtype`).

    Raises:
        FormatError: torch has no such dtype, a code is out of range, an odd number of FP4 codes.
    """
    dtype = torch_dtype(fmt)
    if dtype is _dtype(FP4_PAIRS):
        if not codes.dim() or codes.shape[-1] % 2:
            raise FormatError(f"to_torch: got codes of shape {tuple(codes.shape)}; allowed for {dtype}: an even last axis")
        return pack(codes, fmt.bits).view(dtype)
    whole = pack(codes.reshape(-1, 1), fmt.bits)
    return whole.view(dtype).reshape(codes.shape)


def from_torch(x: Tensor, fmt: Format) -> Tensor:
    """The codes (int64) of a tensor of the torch dtype that has the format's bits; FP4 pairs double the last axis.

    Raises:
        FormatError: torch has no such dtype, or x is of another one.
    """
    dtype = torch_dtype(fmt)
    if x.dtype is not dtype:
        raise FormatError(f"from_torch: got a tensor of {x.dtype} for {fmt}; allowed: {dtype}")
    if dtype is _dtype(FP4_PAIRS):
        return unpack(x.view(torch.uint8), fmt.bits)
    return unpack(x.reshape(-1, 1).view(torch.uint8), fmt.bits).reshape(x.shape)


def torch_dtype(fmt: Format) -> torch.dtype:
    """The torch dtype whose bits are the format's codes.

    Raises:
        FormatError: there is none in this torch.
    """
    found = _known().get(fmt)
    if found is None:
        raise FormatError(f"{fmt}: this torch has no dtype of its bits; allowed: {', '.join(str(d) for d in _known().values())}")
    return found


def _dtype(name: str) -> torch.dtype | None:
    return getattr(torch, name, None)


@cache
def _known() -> dict[Format, torch.dtype]:
    small = {
        "float8_e4m3fn": Float(4, 3, specials="fn"),
        "float8_e5m2": Float(5, 2),
        "float8_e4m3fnuz": Float(4, 3, specials="fnuz"),
        "float8_e5m2fnuz": Float(5, 2, specials="fnuz"),
        "float8_e8m0fnu": Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False),
        FP4_PAIRS: Float(2, 1, specials="finite"),
    }
    known: dict[Format, torch.dtype] = {fmt: dtype for name, fmt in small.items() if (dtype := _dtype(name)) is not None}
    known |= {fmt: dtype for dtype, fmt in CARRIERS.items()}
    known |= {Integer(8): torch.int8, Integer(16): torch.int16, Integer(32): torch.int32}
    return known | {Integer(8, signed=False): torch.uint8}
