"""The Philox words of a unit's additions, inside numba loops: layout as in formats/philox.py, indices as in reference.dot."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hwsim.formats import Draw

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
BLOCK = 64
LANES = 16


class Stream(NamedTuple):
    """The key, the counter's upper half, and the numbering of results: what the words of one matmul depend on.

    The word of an addition is that of the element index offset + ((level outputs + output) terms + k).
    """

    key0: int
    key1: int
    high0: int
    high1: int
    offset: int
    outputs: int
    terms: int


def stream(draw: Draw, outputs: int, terms: int) -> Stream:
    """The stream of a draw for a matmul of so many results, of so many terms each."""
    return Stream(*draw.key, *draw.counter_high, draw.offset, outputs, terms)


@njit(forceinline=True)
def _rounds(b: np.uint64, s: Stream) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Four words, each in the lower half of a number whose upper half is anything."""
    c0, c1, c2, c3 = b, b >> HALF, np.uint64(s.high0), np.uint64(s.high1)
    k0, k1 = np.uint64(s.key0), np.uint64(s.key1)
    for _ in range(10):
        # The masks are the multiplication of 32-bit numbers, which looks at lower halves only.
        p0, p1 = M0 * (c0 & LOW), M1 * (c2 & LOW)
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1, (p0 >> HALF) ^ c3 ^ k1, p0
        k0, k1 = k0 + W0, k1 + W1
    return c0, c1, c2, c3


@njit(nogil=True, cache=True)
def word_at(s: Stream, level: int, output: int, k: int) -> Any:
    """The word of one addition."""
    index = s.offset + (level * s.outputs + output) * s.terms + k
    c0, c1, c2, c3 = _rounds(np.uint64(16 * (index // 64) + index % 16), s)
    lane = (index // 16) % 4
    return np.int64((c0 if lane == 0 else c1 if lane == 1 else c2 if lane == 2 else c3) & LOW)


@njit(nogil=True, cache=True)
def draw(s: Stream, level: int, output: int, k0: int, count: int, columns: int, out: npt.NDArray[np.uint32]) -> None:
    """out[k, j] = the word of addition k0 + k of result output + j, for k < count <= 64, j < columns; `out` is contiguous."""
    start = s.offset + (level * s.outputs + output) * s.terms + k0
    if start % BLOCK or s.terms % BLOCK or count < BLOCK:
        room = np.empty(2 * BLOCK, np.uint32)
        for j in range(columns):
            begin = start + j * s.terms
            page = begin // BLOCK
            for p in range((begin + count - 1) // BLOCK - page + 1):
                for t in range(LANES):
                    c0, c1, c2, c3 = _rounds(np.uint64(LANES * (page + p) + t), s)
                    q = p * BLOCK + t
                    room[q], room[q + 16] = np.uint32(c0), np.uint32(c1)
                    room[q + 32], room[q + 48] = np.uint32(c2), np.uint32(c3)
            begin -= page * BLOCK
            for k in range(count):
                out[k, j] = room[begin + k]
        return
    # Whole pages: a counter gives the words of four additions of one result, and lanes are results.
    base, stride = np.uint64(start // BLOCK * LANES), np.uint64(s.terms // BLOCK * LANES)
    for t in range(LANES):
        w0, w1, w2, w3 = out[t], out[t + 16], out[t + 32], out[t + 48]
        for j in range(columns):
            c0, c1, c2, c3 = _rounds(base + np.uint64(t) + np.uint64(j) * stride, s)
            w0[j], w1[j], w2[j], w3[j] = np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)
