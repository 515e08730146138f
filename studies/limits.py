"""Limits of a run's time and memory, watched from beside it."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .choices import Resources

PERIOD = 0.05
"""Seconds between looks."""
PAGE = os.sysconf("SC_PAGE_SIZE")
GIB = 1 << 30


class OverLimit(Exception):
    """A run took more than it may."""


@contextmanager
def limited(resources: Resources) -> Iterator[None]:
    """Run the block under a limit of time and of this process' resident memory.

    Raises:
        OverLimit: it went over one; it ends at the next line of Python that it comes to.
    """
    if resources.seconds is None and resources.memory_gib is None:
        yield
        return
    watch = _Watch(resources, threading.get_ident())
    watch.start()
    try:
        yield
    except OverLimit:
        raise OverLimit(watch.reason) from None
    finally:
        watch.stop()


def resident_gib() -> float:
    """The memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / GIB


def peak_gib() -> float:
    """The most memory that this process, or one that it started and that has ended, has ever had in use."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20


class _Watch(threading.Thread):
    """Looks now and then; on the first breach it raises `OverLimit` in the thread that it watches, once."""

    def __init__(self, resources: Resources, watched: int) -> None:
        super().__init__(daemon=True)
        self.resources, self.watched = resources, watched
        self.reason = ""
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        started = time.monotonic()
        while not self.ended.wait(PERIOD):
            self.reason = self._breach(time.monotonic() - started)
            if self.reason:
                with self.lock:
                    if not self.ended.is_set():
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.watched), ctypes.py_object(OverLimit))
                return

    def stop(self) -> None:
        with self.lock:
            self.ended.set()
        self.join()

    def _breach(self, seconds: float) -> str:
        most = self.resources
        if most.seconds is not None and seconds > most.seconds:
            return f"took more than the {most.seconds:g} seconds of resources.seconds"
        if most.memory_gib is not None and (used := resident_gib()) > most.memory_gib:
            return f"used {used:.2f} GiB, more than the {most.memory_gib:g} of resources.memory_gib"
        return ""
