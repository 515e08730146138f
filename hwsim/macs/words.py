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
    # The masks tell the compiler that 32-bit multiplications will do.
    c0, c1, c2, c3 = b & LOW, b >> HALF, np.uint64(s.high0) & LOW, np.uint64(s.high1) & LOW
    k0, k1 = np.uint64(s.key0) & LOW, np.uint64(s.key1) & LOW
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@njit(nogil=True, cache=True)
def word_at(s: Stream, level: int, output: int, k: int) -> Any:
    """The word of one addition."""
    index = s.offset + (level * s.outputs + output) * s.terms + k
    c0, c1, c2, c3 = _rounds(np.uint64(16 * (index // 64) + index % 16), s)
    lane = (index // 16) % 4
    return np.int64(c0 if lane == 0 else c1 if lane == 1 else c2 if lane == 2 else c3)


@njit(nogil=True, cache=True)
def fill_words(s: Stream, level: int, output: int, k0: int, out: npt.NDArray[np.int64], block: npt.NDArray[np.int64]) -> None:
    """The words of one result's additions k0, k0 + 1, ...; `block` is room for 64 words."""
    start = s.offset + (level * s.outputs + output) * s.terms + k0
    count, done = out.size, 0
    while done < count:
        first = start + done
        inside = first % BLOCK
        base = np.uint64(16 * (first // BLOCK))
        for t in range(LANES):
            c0, c1, c2, c3 = _rounds(base + np.uint64(t), s)
            block[t], block[t + 16], block[t + 32], block[t + 48] = np.int64(c0), np.int64(c1), np.int64(c2), np.int64(c3)
        take = min(BLOCK - inside, count - done)
        out[done : done + take] = block[inside : inside + take]
        done += take
