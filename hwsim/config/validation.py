"""Validation of documents by pydantic types, with errors in the words of the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from hwsim.errors import ConfigError, FormatError, Problem, nearest

from .document import Document
from .record import frozen
from .scalars import NUMBER
from .schema import Schema, allowed, schema_of
from .wording import Path, given, path_text

T = TypeVar("T")

_MISSING = ("missing", "missing_argument")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_SWITCHES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def validate(
    document: Document,
    model: type[T] | TypeAdapter[T],
    prefix: Path = (),
    context: Any = None,
    synonyms: Mapping[str, str] | None = None,
) -> T:
    """The record that the document, or the part of it at `prefix`, declares.

    Args:
        model: a Record class, or the TypeAdapter of any other type. Lists reach it as tuples (see Record).
        context: handed to the validators (`ValidationInfo.context`).
        synonyms: keys of the record, and the key of the file that may have been spread over them.

    Raises:
        ConfigError: every problem, with file, line, YAML path, what was given, what is allowed and the nearest match.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(frozen(document.at(prefix)), strict=True, context=context)
    except ValidationError as error:
        raise explain(error, document, prefix, model=adapter, synonyms=synonyms) from None


def explain(
    error: ValidationError, document: Document, prefix: Path = (), *, model: Any, synonyms: Mapping[str, str] | None = None
) -> ConfigError:
    """A pydantic error in the words of the file.

    Where every member of a union refused, the member that got furthest speaks; where none got in, all are listed as allowed.

    Args:
        prefix: where in the document the validated data stand.
        model: the type, or its TypeAdapter, that refused them.
        synonyms: as for `validate`.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    schema = schema_of(adapter.core_schema)
    data = document.at(prefix)
    faults = _without_echoes([_placed(details, data, schema, synonyms or {}) for details in error.errors(include_url=False)])
    problems = [problem for fault in _settled(faults) for problem in _problems(fault, document, prefix, synonyms or {})]
    return ConfigError(*sorted(dict.fromkeys(problems), key=lambda problem: problem.line))


@dataclass(frozen=True)
class _Fault:
    """One pydantic error, with the place in the file that it means.

    Attributes:
        path: without the parts that are no keys of the file: unions' members, and keys that a validator put in.
        schemas: what may be there. owners: what may be around it.
        unions: path and chosen member of each union on the way.
        others: what else may be there, by the members of the union whose validators said nothing themselves.
    """

    details: ErrorDetails
    path: Path
    schemas: tuple[Schema, ...]
    owners: tuple[Schema, ...]
    unions: tuple[tuple[Path, str], ...]
    others: tuple[Schema, ...] = ()


def _placed(details: ErrorDetails, value: Any, root: Schema, synonyms: Mapping[str, str]) -> _Fault:
    """The fault as the file has it: under its own keys, or under those that were spread over them."""
    spread = ErrorDetails(**{**details, "loc": tuple(synonyms.get(str(part), part) for part in details["loc"])})
    written, shared = _locate(details, value, root), _locate(spread, value, root)
    return replace(written, path=shared.path) if len(shared.path) > len(written.path) else written


def _locate(details: ErrorDetails, value: Any, root: Schema) -> _Fault:
    """Follow an error's location through data and schema."""
    path: Path = ()
    unions: tuple[tuple[Path, str], ...] = ()
    schemas: tuple[Schema, ...] = (root,)
    owners = schemas
    for part in details["loc"]:
        if any(schema.is_union for schema in schemas):
            unions += ((path, str(part)),)
            schemas = tuple(m for schema in schemas if schema.is_union for m in schema.members(str(part)))
            continue
        if part == "[key]":
            schemas = tuple(keys for owner in owners if (keys := owner.keys()) is not None)
            continue
        if _has(value, part):
            path, value = (*path, part), value[part]
        elif details["type"] in _MISSING:
            if not isinstance(part, str):
                break  # a short list: the list is at fault
            path += (part,)
        schemas, owners = tuple(child for schema in schemas if (child := schema.child(part)) is not None), schemas
    return _Fault(details, path, schemas, owners, unions)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)


def _without_echoes(faults: list[_Fault]) -> list[_Fault]:
    """Less the lists that pydantic finds too short only because items of theirs were refused."""
    inner = {fault.path[:n] for fault in faults for n in range(len(fault.path))}
    return [fault for fault in faults if fault.details["type"] != "too_short" or fault.path not in inner]


def _settled(faults: list[_Fault], level: int = 0) -> list[_Fault]:
    """One voice for each union: the member that got below it with the fewest faults, or all that stopped at it."""
    outside = [fault for fault in faults if len(fault.unions) <= level]
    by_union: dict[Path, dict[str, list[_Fault]]] = defaultdict(lambda: defaultdict(list))
    for fault in faults:
        if len(fault.unions) > level:
            union, member = fault.unions[level]
            by_union[union][member].append(fault)
    for union, members in by_union.items():
        branches = [_settled(branch, level + 1) for branch in members.values()]
        entered = [branch for branch in branches if all(len(fault.path) > len(union) for fault in branch)]
        if entered:
            outside += sorted(entered, key=_distance)[0]
        else:
            outside += _merged([fault for branch in branches for fault in branch if fault.path == union])
    return outside


def _distance(branch: list[_Fault]) -> tuple[int, bool]:
    """How far a union's member is from what was given: a wrong word, often its tag, counts most among equals."""
    return len(branch), any(fault.details["type"] == "literal_error" for fault in branch)


def _merged(faults: list[_Fault]) -> list[_Fault]:
    told = [fault for fault in faults if fault.details["type"] == "value_error"]
    silent = tuple(schema for fault in faults if fault not in told for schema in fault.schemas)
    return [replace(fault, others=silent) for fault in told] or [replace(faults[0], schemas=silent)]


def _problems(fault: _Fault, document: Document, prefix: Path, synonyms: Mapping[str, str]) -> Iterator[Problem]:
    path, kind, context = (*prefix, *fault.path), fault.details["type"], fault.details.get("ctx", {})
    keys = [key for owner in fault.owners for key in owner.fields()]
    if kind == "value_error":
        for problem in _told(context["error"], document, path, fault.details["input"]):
            others = allowed(fault.others)
            yield replace(problem, message=f"{problem.message}; or {others}") if others else problem
    elif kind in _MISSING and path and path[-1] == fault.details["loc"][-1]:
        required = [key for owner in fault.owners for key in owner.required()]
        yield document.problem(path, f"missing; required keys: {', '.join(sorted(required))}")
    elif kind in _UNKNOWN:
        keys += {synonyms[key] for key in keys if key in synonyms}
        yield document.problem(path, f"unknown key; allowed: {', '.join(sorted(keys))}{nearest(str(path[-1]), keys)}")
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        union = next(schema for schema in fault.schemas if schema.kind == "tagged-union")
        yield _untagged(union, fault.details["input"], document, path)
    else:
        yield document.problem(path, _refused(fault))


def _told(error: Exception, document: Document, path: Path, value: Any) -> Iterator[Problem]:
    """What a validator said itself; a FormatError's `field` and a ConfigError's `path` lead on from where it stood."""
    if isinstance(error, ConfigError):
        yield from (problem if problem.file else _led_on(problem, document, path) for problem in error.problems)
        return
    message, parts = str(error), tuple(error.field.split(".")) if isinstance(error, FormatError) and error.field else ()
    for part in parts:
        if isinstance(value, Mapping):
            path, value = (*path, part), value.get(part)
        elif value is None:  # written elsewhere, as what `all` spreads
            path = (*path, part)
    yield document.problem(path, message.removeprefix(f"{path[-1]}: ") if path else message)


def _led_on(problem: Problem, document: Document, path: Path) -> Problem:
    """A problem of what a validator took for a document; that is often named after the key that it stands under."""
    key, inner = str(path[-1]) if path else "", problem.path
    if key and (inner == key or inner.startswith(f"{key}.")):
        inner = inner[len(key) :]
    elif inner and not inner.startswith("["):
        inner = f".{inner}"
    message = problem.message if inner else problem.message.removeprefix(f"{key}: ")
    return Problem(message, document.name, document.line(path), path_text(path) + inner)


def _untagged(union: Schema, value: Any, document: Document, path: Path) -> Problem:
    tags = sorted(union.choices())
    key = union.node["discriminator"]
    if isinstance(key, str):
        path = (*path, key)
        if not _has(value, key):
            return document.problem(path, f"missing; allowed: {', '.join(tags)}")
        value = value[key]
    got = given(value, not isinstance(value, str))
    return document.problem(path, f"got {got}; allowed: {', '.join(tags)}{nearest(str(value), tags)}")


def _refused(fault: _Fault) -> str:
    value, words = fault.details["input"], [word for schema in fault.schemas for word in schema.words()]
    choices = allowed(fault.schemas) or fault.details["msg"].removeprefix("Input should be ")
    kinds = {member.kind for schema in fault.schemas for member in (schema.members() if schema.is_union else [schema])}
    if fault.details["type"] == "finite_number":
        choices = choices.replace("a number", "a finite number")
    hint = nearest(value, words) if isinstance(value, str) else ""
    if isinstance(value, str) and kinds & {"int", "float"} and NUMBER.fullmatch(value):
        hint = f"; did you mean {value} without quotes?"
    elif isinstance(value, str) and "bool" in kinds and value.lower() in _SWITCHES:
        hint = f"; did you mean {_SWITCHES[value.lower()]}?"
    elif "str" in kinds and (value is None or isinstance(value, bool | int | float)):
        hint = "; quote it if it is a name"
    return f"got {given(value, not (isinstance(value, str) and words))}; allowed: {choices}{hint}"
