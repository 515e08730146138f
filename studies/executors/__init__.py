"""Where runs are performed, by name: processes of this machine, or an engine that spreads them over many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from hwsim.errors import StudyError

from ..needs import Needs
from .dask import Dask
from .executor import Executor, Work
from .local import Local
from .ray import Ray
from .slurm import Slurm

ENTRY_POINTS = "hwsim.executors"
Make = Callable[[int | None, Needs], Executor]


@cache
def executors() -> Mapping[str, Make]:
    """The executors by name: the built-in ones, then those of the entry-point group `hwsim.executors`.

    Raises:
        StudyError: a plug-in takes a name that exists.
    """
    found: dict[str, Make] = {"local": Local, "ray": Ray, "dask": Dask, "slurm": Slurm}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in found:
            raise StudyError(f"executor: {entry.name!r} of {entry.value} exists already; allowed: a new name")
        found[entry.name] = entry.load()
    return MappingProxyType(found)


__all__ = ["Dask", "Executor", "Local", "Needs", "Ray", "Slurm", "Work", "executors"]
