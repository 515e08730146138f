"""Work in pieces on as many threads as torch uses; the functions have to let go of the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], pieces: Sequence[S]) -> list[T]:
    """[work(piece) for piece in pieces], side by side."""
    threads = torch.get_num_threads()
    if threads == 1 or len(pieces) == 1:
        return [work(piece) for piece in pieces]
    return list(_pool(os.getpid(), threads).map(work, pieces))


def ranges(count: int, size: int) -> list[tuple[int, int]]:
    """0 .. count in pieces of `size`, the last one possibly short."""
    return [(low, min(low + size, count)) for low in range(0, count, size)]


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"hwsim-training-{process}")
