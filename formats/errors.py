"""Errors of the framework: each says where, what was given, what is allowed, and the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HwsimError(Exception):
    """Base of every error that hwsim raises on purpose."""


class FormatError(HwsimError, ValueError):
    """A number format, or a value given to one, is not what it has to be.

    `field` names the parameter at fault, so that a file loader can point at its line.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NanError(FormatError):
    """A NaN met a format that has none, under the rule `nan: error`."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`'; did you mean X?'` for the allowed word closest to `given`, or an empty string."""
    folded = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(str(given).lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def not_allowed(what: str, given: object, allowed: Iterable[str]) -> str:
    """The text of an error about a word outside a closed list."""
    words = sorted(allowed)
    return f"{what}: got {given!r}; allowed: {', '.join(words)}{nearest(str(given), words)}"
