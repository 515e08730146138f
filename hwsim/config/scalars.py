"""Plain YAML scalars by the YAML 1.2.2 core schema (section 10.3.2), less what reads differently under YAML 1.1."""

from __future__ import annotations

import re

Scalar = None | bool | int | float | str

MAX_DIGITS = 100
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NAMED: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar: null, true/false, a number, or else the text itself.

    `1e-3` and `5e2` are numbers; `yes`, `no`, `on`, `off`, `1:30` and dates are text; `.nan` and `.inf` are floats.

    Raises:
        ValueError: a number that YAML 1.1 and 1.2 read differently (`010`, `1_000`), or of more than 100 characters.
    """
    if text in _NAMED:
        return _NAMED[text]
    plain = text.replace("_", "")
    number, based = NUMBER.fullmatch(plain), _BASED.fullmatch(plain)
    if text.startswith("_") or not (number or based):
        return float(text.replace(".", "")) if _SPECIAL.fullmatch(text) else text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"got a number of {len(text)} characters; allowed: {MAX_DIGITS} at most")
    if plain != text:
        raise ValueError(f"got {text}, a number with an underscore; allowed: {plain}, or {text!r} for text")
    if based:
        return int(text, 0)
    if not _INTEGER.fullmatch(text):
        return float(text)
    if text.lstrip("+-").startswith("0") and len(text.lstrip("+-")) > 1:
        raise ValueError(f"got {text}, octal to some readers; allowed: {int(text)}, 0o... for octal, or {text!r} for text")
    return int(text)
