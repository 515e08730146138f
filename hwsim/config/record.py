"""The base of every noun that a YAML file declares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Record(BaseModel):
    """A frozen record with exactly its declared keys, no coercion between kinds, and no NaN or infinity.

    Sequences are tuples, so that a record is immutable throughout; lists given for them become tuples before the strict
    check, which would refuse them. Error texts say `a list` for both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _freeze(cls, data: Any) -> Any:
        return frozen(data)


def frozen(value: Any) -> Any:
    """The value with every list in it, at any depth of dicts and lists, made a tuple."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return tuple(frozen(item) for item in value)
    return value
