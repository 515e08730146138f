"""Who performs a run: a lock on a file, which the kernel takes back from a process that dies."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES, PAUSE = 5, 0.01
"""`is_claimed` holds a lock for a moment, which is no claim."""


class Claimed(Exception):
    """Another process has it; the text says which."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold a claim while the block runs; its file says who holds it, and goes with it.

    A file that a dead process left is nobody's: the lock is the claim, and it ended with its process.

    Raises:
        Claimed: another process, or another thread, holds it.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_claimed(path: Path) -> bool:
    """Whether a process holds a claim."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path) -> int:
    for _ in range(TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            time.sleep(PAUSE)
            continue
        # Whoever held it before may have removed the file between our opening and our locking it.
        if _is(descriptor, path):
            return descriptor
        os.close(descriptor)
        holder = ""
    raise Claimed(holder or "another process")


def _is(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
