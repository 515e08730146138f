"""How error texts name a place in a file and a value found there."""

from __future__ import annotations

import re
from itertools import islice
from math import isfinite

Path = tuple[str | int, ...]

MAX_TEXT = 60
MAX_KEYS = 6


def path_text(path: Path) -> str:
    """`study.grid.datapath[2]`; keys that are no plain words are quoted in brackets: `overrides['head.*']`."""
    text = ""
    for part in path:
        if isinstance(part, str) and re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def given(value: object, kind: bool = True) -> str:
    """The value as a YAML author knows it, with its kind in brackets where the kind is at issue."""
    match value:
        case None:
            return "null"
        case bool():
            text, note = str(value).lower(), "a truth value"
        case int():
            text, note = repr(value), "a whole number"
        case float():
            text, note = repr(value) if isfinite(value) else f"{'-' * (value < 0)}.{abs(value)}", "a floating-point number"
        case str():
            text, note = repr(value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "..."), "text"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            more = [f"{len(value) - MAX_KEYS} more"] if len(value) > MAX_KEYS else []
            return f"a mapping ({', '.join([*map(str, islice(value, MAX_KEYS)), *more])})" if value else "an empty mapping"
        case _:
            return f"a Python {type(value).__name__}"
    return f"{text} ({note})" if kind else text
