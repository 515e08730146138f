"""Blocks of results over torch's number of threads; kernels release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"hwsim-macs-{process}")


def spread(work: Callable[[T], None], jobs: Iterable[T]) -> None:
    """Do the work for every job, on torch.get_num_threads() threads; the jobs must not depend on one another."""
    jobs, threads = list(jobs), torch.get_num_threads()
    if threads == 1 or len(jobs) < 2:
        for job in jobs:
            work(job)
        return
    for done in [_pool(os.getpid(), threads).submit(work, job) for job in jobs]:
        done.result()
