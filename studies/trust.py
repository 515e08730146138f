"""Which code a study may name: a file is data, and runs nothing that its user did not allow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hwsim.models import TaskError

ENTRY_POINTS = "hwsim.tasks"


def installed() -> frozenset[str]:
    """The modules that installed packages offer as tasks, by the entry-point group `hwsim.tasks`."""
    return frozenset(entry.module for entry in entry_points(group=ENTRY_POINTS))


def allow_imports(trusted: tuple[str, ...]) -> None:
    """Let modules of the working directory be imported where any module is trusted."""
    if trusted and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def check_trust(options: Mapping[str, Any], trusted: tuple[str, ...]) -> None:
    """Refuse options of a task that name code which nobody allowed; nothing has been imported yet.

    Args:
        options: of which those that hold a colon are `module:function`.
        trusted: modules; what is inside of them is trusted too.

    Raises:
        TaskError: with the option's name.
    """
    allowed = {*trusted, *installed()}
    for field, path in _paths(options):
        module = path.partition(":")[0]
        if not any(module == name or module.startswith(f"{name}.") for name in allowed):
            given = ", ".join(sorted(allowed)) or "none so far"
            message = f"got {path!r}, code that nobody allowed; allowed: modules of --trust ({given}); add --trust {module}"
            raise TaskError(message, field)


def _paths(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in ("model", "data", "loss"):
        if isinstance(options.get(field), str) and ":" in options[field]:
            yield field, options[field]
    metrics = options.get("metrics")
    if isinstance(metrics, Mapping):
        yield from ((f"metrics.{name}", path) for name, path in metrics.items() if isinstance(path, str) and ":" in path)
