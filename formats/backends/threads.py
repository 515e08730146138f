"""Parts of a tensor in as many threads as torch uses; the compiled loops release the interpreter's lock."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch

Found = TypeVar("Found")
THREADED = 1 << 19
"""Elements from which on a second thread brings more than handing over to it costs, by a cast of float32."""
LEAST = 1 << 17
"""Elements of the smallest part."""
HOME = os.getpid()
BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def divided(elements: int) -> bool:
    """Whether so many elements are done in several threads."""
    return elements >= THREADED and torch.get_num_threads() > 1


def in_threads(work: Callable[[int, int], Found], count: int, elements: int, granule: int = 1) -> list[Found]:
    """What `work(low, high)` gives for parts of 0 .. count - 1, whole granules, in no order, in as many threads as torch uses.

    `elements` says whether that is worth while: how many casts take as long. The threads are torch's own where it has them by
    OpenMP, else (and in forked processes, which OpenMP does not survive) a pool of Python's.
    """
    if count <= granule or not divided(elements):
        return [work(0, count)]
    threads = torch.get_num_threads()
    least = min(count * LEAST // elements, count // threads)
    parts, found = deque(_parts(count, threads, least, granule)), list[Found]()

    def take() -> None:
        while True:
            try:
                low, high = parts.popleft()
            except IndexError:
                return
            found.append(work(low, high))

    team = _team()
    if team is None or os.getpid() != HOME:
        helpers = [_pool(os.getpid(), threads - 1).submit(take) for _ in range(threads - 1)]
        take()
        for helper in helpers:
            helper.result()
    else:
        _run(team, take, threads)
    return found


def _parts(count: int, threads: int, least: int, granule: int) -> Iterator[tuple[int, int]]:
    """Ever smaller parts: a thread that is held up leaves what follows to the others, and all end at about the same time."""
    low = 0
    while low < count:
        size = max((count - low) // (2 * threads), least, 1)
        high = min(low + -(-size // granule) * granule, count)
        yield low, high
        low = high


def _run(team: Callable[..., None], take: Callable[[], None], threads: int) -> None:
    """Call `take` in every thread of a team; what it raises is raised here, for it cannot pass through C."""
    raised: list[BaseException] = []

    def body(_: Any) -> None:
        try:
            take()
        except BaseException as error:
            raised.append(error)

    team(BODY(body), None, threads, 0)
    if raised:
        raise raised[0]


@cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP that torch uses; None where it uses none, and in processes that may be forked ones.

    After each of torch's operations its threads wait for the next one for some milliseconds, spinning: threads of another pool
    would share the cores with them.
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = (BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel if multiprocessing.parent_process() is None else None


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"hwsim-{process}")
