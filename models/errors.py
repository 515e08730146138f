"""The error of this package, and the words its texts share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TaskError(ValueError):
    """A task, one of its options, or what it was given is not what it has to be.

    `field` names the option at fault, so that a file loader can point at its line.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`'; did you mean X?'` for the allowed word closest to `given`, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def not_allowed(what: str, given: object, allowed: Iterable[str]) -> str:
    """The text of an error about a word outside a closed list."""
    words = sorted(allowed)
    return f"{what}: got {given!r}; allowed: {', '.join(words) or 'nothing'}{nearest(str(given), words)}"
