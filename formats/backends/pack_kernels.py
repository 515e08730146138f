"""Values of a format of up to 8 bits to codes in bytes, in loops that run in vector registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import inlined, kept
from .nearest_loops import MAGNITUDE

CHUNK = 2048
GROUP = 8


@inlined
def float_codes(x: Any, codes: Any, numbers: Any) -> Any:
    """The codes of float32 bits. Returns whether all are finite values of the format.

    Above the smallest normal value they are float32 bits with their end cut off, less an offset; below, multiples of the ulp.
    """
    cut, offset, normal = np.int32(numbers[0] & 31), np.int32(numbers[1]), np.int32(numbers[2])
    top, sign, unsigned = np.int32(numbers[3]), np.int32(numbers[4]), np.int32(0 if numbers[6] else -1)
    lowest_negative = np.int32(0 if numbers[5] else 1)
    rest = np.int32((1 << numbers[0]) - 1)
    magic = np.float32(1.5 * 2.0 ** (numbers[7] + 23))
    magic_bits = np.float32(magic).view(np.int32)
    wrong, above = np.int32(0), np.int32(0)
    for i in range(x.size):
        a, negative = np.int32(x[i] & MAGNITUDE), np.int32(x[i] >> np.int32(31))
        shifted = np.float32(np.int32(a).view(np.float32) + magic)
        low, low_wrong = np.int32(shifted.view(np.int32) - magic_bits), np.int32(np.float32(shifted - magic).view(np.int32) ^ a)
        high, high_wrong = np.int32(np.int32(a >> cut) - offset), np.int32(a & rest)
        code, inexact = (low, low_wrong) if a < normal else (high, high_wrong)
        wrong = np.int32(wrong | np.int32(inexact | np.int32(np.int32(negative & a) & unsigned)))
        above = np.int32(above | np.int32(top - a))
        unsigned_zero = np.int32(np.int32(a - lowest_negative) >> np.int32(31))
        codes[i] = np.uint8(np.int32(code | np.int32(np.int32(negative & sign) & np.int32(~unsigned_zero))))
    return wrong == 0 and above >= 0


@inlined
def fixed_codes(x: Any, codes: Any, numbers: Any, low: Any, high: Any) -> Any:
    """The two's complement or unsigned codes of float32 numbers. Returns whether all are values of the format."""
    per_unit, unit, mask = np.float32(2.0 ** -numbers[7]), np.float32(2.0 ** numbers[7]), np.int32(numbers[4])
    first, last = np.float32(low * per_unit), np.float32(high * per_unit)
    wrong = np.int32(0)
    for i in range(x.size):
        units = np.float32(x[i] * per_unit)
        units = units if units < last else last
        k = np.int32(units if units > first else first)
        wrong = np.int32(wrong | (np.int32(1) if np.float32(np.float32(k) * unit) != x[i] else np.int32(0)))
        codes[i] = np.uint8(np.int32(k & mask))
    return wrong == 0


@inlined
def fill_bytes(codes: Any, out: Any, bits: Any, low_first: Any) -> Any:
    """Codes of `bits` bits as a run of bits; every 8 codes make `bits` bytes."""
    if bits == 4:
        first, second = np.uint8(0 if low_first else 4), np.uint8(4 if low_first else 0)
        for i in range(codes.size >> 1):
            out[i] = np.uint8((codes[2 * i] << first) | (codes[2 * i + 1] << second))
    else:
        for g in range(codes.size // GROUP):
            word = np.uint64(0)
            for j in range(GROUP):
                place = bits * (j if low_first else GROUP - 1 - j)
                word |= np.uint64(codes[GROUP * g + j]) << np.uint64(place)
            for j in range(bits):
                place = 8 * (j if low_first else bits - 1 - j)
                out[bits * g + j] = np.uint8((word >> np.uint64(place)) & np.uint64(255))


@kept
def pack_range(x: Any, out: Any, low: Any, high: Any, numbers: Any, uniform: Any, ends: Any, bits: Any, low_first: Any) -> Any:
    """Pack the codes of the elements low .. high - 1 (multiples of 8, but for the end). Returns whether all are values.

    Args:
        x: float32, contiguous. out: uint8.
        numbers: how far float32 bits are cut, the offset of codes, the bits of the smallest normal and of the largest value,
            the sign bit (for fixed point the mask of a code), whether there is a -0 and a sign, the exponent of the smallest ulp.
        uniform: whether the format is fixed point. ends: its smallest and largest value.
        bits: of a code. low_first: the order in a byte.
    """
    codes = np.empty(CHUNK, np.uint8)
    while low < high:
        stop = min(low + CHUNK, high)
        piece = out[low:stop] if bits == 8 else codes[: stop - low]
        if uniform:
            known = fixed_codes(x[low:stop], piece, numbers, ends[0], ends[1])
        else:
            known = float_codes(x[low:stop].view(np.int32), piece, numbers)
        if not known:
            return False
        if bits != 8:
            fill_bytes(piece, out[low * bits // 8 : stop * bits // 8], bits, low_first)
        low = stop
    return True
