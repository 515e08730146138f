"""What is needed to repeat a run, beside its configuration."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("hwsim", "torch", "torchvision", "numpy", "numba", "scikit-learn", "pyarrow", "qtorch")


def origin() -> dict[str, Any]:
    """Who asks for runs: the command line of this process, and the commit of its working directory.

    The commit has `-dirty` where there are changes, and is None outside a repository.
    """
    return {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "git_commit": git_commit()}


@cache
def surroundings() -> dict[str, Any]:
    """Where and with what this process performs runs: versions of Python and packages, hardware, the machine's name."""
    return {"versions": versions(), "hardware": hardware(), "host": platform.node()}


@cache
def versions() -> dict[str, str]:
    """Names to versions, of what is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The processor of this machine."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_commit() -> str | None:
    """The commit of the working directory, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
