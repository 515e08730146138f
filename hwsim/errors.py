"""The errors of the hardware and study layers; those of number formats are re-exported."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.formats.errors import FormatError, HwsimError, nearest, not_allowed

__all__ = ["ConfigError", "FormatError", "HwsimError", "Problem", "StudyError", "nearest", "not_allowed"]

MAX_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a configuration.

    Args:
        message: what was given, what is allowed, and the nearest match.
        file: the file's name as the user gave it, or empty.
        line: counted from 1; 0 where there is none.
        path: the place as a YAML path, such as `study.grid.datapath[2]`.
    """

    message: str
    file: str = ""
    line: int = 0
    path: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigError(HwsimError, ValueError):
    """A configuration is refused; one line of text a problem, ten at most and a count of the rest.

    `file`, `line`, `path` and `message` are those of the first of its `problems`.
    """

    def __init__(self, first: Problem | str, *others: Problem) -> None:
        first = Problem(first) if isinstance(first, str) else first
        super().__init__(first, *others)
        self.problems = (first, *others)
        self.file, self.line, self.path, self.message = first.file, first.line, first.path, first.message

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        hidden = len(self.problems) - MAX_SHOWN
        return "\n".join([*lines, f"... and {hidden} more"] if hidden > 0 else lines)


class StudyError(HwsimError):
    """A study cannot be run, resumed or read."""
