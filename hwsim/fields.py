"""Field types of YAML-facing records: a format by name or by mapping, a rounding by name or by mapping."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema, create_model

from hwsim.catalogue import Catalogue, shipped
from hwsim.config import Document, Record, validate
from hwsim.errors import FormatError, not_allowed
from hwsim.formats import Format, Rounding, format_kinds, named_format

FORMAT_HINT = "a format's name or a mapping with `kind`"


def format_record(given: Format | str | dict[str, Any], catalogue: Catalogue | None = None) -> Format:
    """A Format from itself, a name of the catalogue, or a mapping as in YAML.

    Raises:
        FormatError: no such name or kind; the text names the nearest match.
        ConfigError: parameters that make no format.
    """
    if isinstance(given, Format):
        return given
    if isinstance(given, str):
        own = catalogue.formats if catalogue else {}
        found = _own_format(given, catalogue) if catalogue and given in own else _shipped_format(given)
        if found is None:
            raise FormatError(not_allowed("format", given, {*own, *shipped("formats")}))
        return found
    if isinstance(given, dict):
        return _from_mapping(given, catalogue)
    raise FormatError(f"got {given!r}; allowed: {FORMAT_HINT}")


def _own_format(name: str, catalogue: Catalogue) -> Format:
    """A format that the user's file declares; in its declaration its name stands for nothing: no format is its own part."""
    others = {key: declaration for key, declaration in catalogue.formats.items() if key != name}
    return _declared(name, catalogue.formats[name].data, replace(catalogue, formats=others))


@cache
def _shipped_format(name: str) -> Format | None:
    if name in shipped("formats"):
        return _declared(name, shipped("formats")[name].data, None)
    return named_format(name)


def _declared(name: str, data: Any, catalogue: Catalogue | None) -> Format:
    if isinstance(data, str):
        return format_record(data, catalogue)
    if not isinstance(data, dict):
        raise FormatError(f"got {data!r}; allowed: {FORMAT_HINT}")
    return replace(_from_mapping(data, catalogue), name=name)


def _from_mapping(data: dict[str, Any], catalogue: Catalogue | None) -> Format:
    kinds = format_kinds()
    if "kind" not in data:
        raise FormatError(f"kind: missing; allowed: {', '.join(sorted(kinds))}", "kind")
    if not isinstance(data["kind"], str) or data["kind"] not in kinds:
        raise FormatError(not_allowed("kind", data["kind"], kinds), "kind")
    record = kinds[data["kind"]]
    declared = validate(Document(data, ""), declaration(record), context=catalogue)
    return record(**{f.name: getattr(declared, f.name) for f in fields(record)})


@cache
def declaration(record: type[Format]) -> type[Record]:
    """The YAML-facing twin of a format's record: its fields, strictly typed; formats among them may be names."""
    hints = get_type_hints(record)
    columns = {f.name: (_by_name(hints[f.name]), ... if f.default is MISSING else f.default) for f in fields(record)}
    return create_model(record.__name__, __base__=Record, **columns)  # type: ignore[call-overload, no-any-return]


def _by_name(hint: Any) -> Any:
    if hint is Format:
        return FormatField
    return FormatField | None if hint == Format | None else hint


def format_mapping(fmt: Format) -> dict[str, Any]:
    """The mapping that declares a format: its kind and every field but its name."""
    own = {f.name: getattr(fmt, f.name) for f in fields(fmt) if f.name != "name"}
    return {key: format_mapping(value) if isinstance(value, Format) else value for key, value in own.items()}


def _format(given: Any, info: ValidationInfo) -> Format:
    return format_record(given, info.context)


FormatField = Annotated[
    Format,
    BeforeValidator(_format),
    PlainSerializer(format_mapping),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["kind"]}], "description": FORMAT_HINT}),
]
RoundingField = Annotated[
    Rounding,
    BeforeValidator(Rounding.parse),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}], "description": "a rounding's name or its fields"}),
]

__all__ = ["FormatField", "RoundingField", "format_mapping", "format_record"]
