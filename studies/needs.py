"""What a run takes of the machine that performs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """What to reserve for one run.

    Args:
        cpus: cores.
        gpus: devices.
        seconds: after which it has failed; None where there is no limit.
        memory_gib: above which it has failed.
    """

    cpus: int = 1
    gpus: int = 0
    seconds: float | None = None
    memory_gib: float | None = None


MODEST = Needs()
