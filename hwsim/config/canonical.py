"""One text for each configuration, and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII, floats by their shortest repr, tuples as lists, records by their fields.

    -0.0 stays apart from 0.0, and 1 from 1.0 (a Record has already made numbers of one kind); NaN and the infinities are
    `NaN`, `Infinity` and `-Infinity`. Fields of a dataclass that are no part of its equality (labels) are left out.

    Raises:
        TypeError: a value that is neither data nor a record.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def content_hash(value: Any) -> str:
    """The SHA-256 of `canonical(value)`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


class Plain(dict[str, Any]):
    """A mapping that holds data only, at any depth, with text for keys: `canonical` takes it as it is, which is quick."""


_AS_THEY_ARE = frozenset({str, int, float, bool, type(None), Plain})


def _plain(value: Any) -> Any:
    # Nearly everything is one of these, and asking for the types of records first takes most of the time of a large study.
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.compare}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        if stray := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"canonical: got the key {stray[0]!r}; allowed: text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"canonical: got a {type(value).__name__}; allowed: data (mappings, lists, text, numbers) and records of it")
