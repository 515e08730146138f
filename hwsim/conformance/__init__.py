"""hwsim against outside oracles: the checks that `hwsim conform` and the tests in tests/conformance perform."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from hwsim.errors import ConfigError

from . import blocks, exhaustive, roundings, stochastic, units
from .registry import Check, Depth, Oracle, Outcome, Result, package, perform

SOURCES: tuple[Callable[[], Iterable[Check]], ...] = (
    roundings.checks,
    stochastic.checks,
    blocks.checks,
    exhaustive.checks,
    units.checks,
)
"""Each gives the checks of one subject; a subject's module joins by its line here."""


def checks(pattern: str = "*", depths: tuple[Depth, ...] = ("quick", "full")) -> list[Check]:
    """The checks of these depths whose names the shell-like pattern matches.

    Raises:
        ConfigError: none does.
    """
    every = [check for source in SOURCES for check in source() if check.depth in depths]
    found = [check for check in every if fnmatchcase(check.name, pattern)]
    if not found:
        subjects = ", ".join(f"{subject}/*" for subject in sorted({check.name.partition("/")[0] for check in every}))
        raise ConfigError(f"--only: got {pattern!r}, which no check matches; allowed: patterns of names such as {subjects}")
    return found


__all__ = ["Check", "Depth", "Oracle", "Outcome", "Result", "checks", "package", "perform"]
