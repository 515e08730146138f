"""Philox words in blocks of 64 elements, so that the ten rounds run in vector registers (see formats/philox.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats.philox import MULTIPLIERS, WEYL

from .compiling import inlined

BLOCK = 64
COUNTERS = 16
M0, M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
W0, W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@inlined
def fill_words(words: Any, first_block: Any, count: Any, draw: Any) -> None:
    """Write the words of `count` blocks of 64 elements, from block `first_block` on."""
    key0, key1 = np.uint64(draw[0]), np.uint64(draw[1])
    high0, high1 = np.uint64(draw[2]), np.uint64(draw[3])
    for block in range(count):
        counter = np.uint64(COUNTERS * (first_block + block))
        low, carry = counter & LOW, counter >> HALF
        page = words[BLOCK * block : BLOCK * block + BLOCK]
        for j in range(COUNTERS):
            c0, c1, c2, c3 = low + np.uint64(j), carry, high0, high1
            k0, k1 = key0, key1
            for _ in range(10):
                p0, p1 = M0 * (c0 & LOW), M1 * (c2 & LOW)
                c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1, (p0 >> HALF) ^ c3 ^ k1, p0
                k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
            page[j] = np.uint32(c0)
            page[j + COUNTERS] = np.uint32(c1)
            page[j + 2 * COUNTERS] = np.uint32(c2)
            page[j + 3 * COUNTERS] = np.uint32(c3)
