"""Work in pieces on the threads that the backends use; the functions have to let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hwsim.formats.backends import threads

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], pieces: Sequence[S]) -> list[T]:
    """[work(piece) for piece in pieces], side by side."""

    def part(low: int, high: int) -> list[tuple[int, T]]:
        return [(number, work(pieces[number])) for number in range(low, high)]

    found = threads.in_threads(part, len(pieces), len(pieces) * threads.THREADED)
    return [done for _, done in sorted((one for several in found for one in several), key=lambda one: one[0])]


def ranges(count: int, size: int) -> list[tuple[int, int]]:
    """0 .. count in pieces of `size`, the last one possibly short."""
    return [(low, min(low + size, count)) for low in range(0, count, size)]
