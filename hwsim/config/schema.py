"""What a pydantic core schema says about one place: its keys, its members, what is allowed there.

The schema is the one that pydantic validates by (`TypeAdapter.core_schema`), so that the locations in its errors can be
followed exactly: the labels that it adds for the members of a union are told from the keys of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Node = Mapping[str, Any]

_INNER = {"lax-or-strict": "strict_schema", "json-or-python": "python_schema"}
_NOUNS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "none": "null"}
_LISTS = ("tuple", "list", "set", "frozenset")
_LIMITS = {
    "gt": "> {}",
    "ge": ">= {}",
    "lt": "< {}",
    "le": "<= {}",
    "multiple_of": "a multiple of {}",
    "min_length": "of length >= {}",
    "max_length": "of length <= {}",
    "pattern": "that matches {}",
}


@dataclass(frozen=True)
class Schema:
    """One node of a core schema, with the definitions it may refer to."""

    raw: Node
    definitions: Mapping[str, Node] = field(default_factory=dict, repr=False)

    @property
    def node(self) -> Node:
        """The node below the wrappers (defaults, validators, models) that add nothing to an error's location."""
        return _unwrap(self.raw, self.definitions)

    @property
    def kind(self) -> str:
        """The type of the node, such as `float` or `model-fields`."""
        kind: str = self.node["type"]
        return kind

    @property
    def is_union(self) -> bool:
        """Whether an error's location names one of its members next."""
        return self.kind in ("union", "tagged-union")

    def fields(self) -> dict[str, Schema]:
        """The keys of a model, dataclass or typed dict; empty for anything else."""
        listed = self.node.get("fields", {})
        named = listed.items() if isinstance(listed, Mapping) else ((f["name"], f) for f in listed if f.get("init", True))
        aliased = ((f.get("validation_alias", name), f) for name, f in named)
        return {key: self._with(f["schema"]) for key, f in aliased if isinstance(key, str)}

    def required(self) -> list[str]:
        """The keys without a default."""
        return [key for key, schema in self.fields().items() if schema.raw["type"] != "default"]

    def keys(self) -> Schema | None:
        """What the keys of a dict have to be."""
        return self._with(self.node["keys_schema"]) if "keys_schema" in self.node else None

    def child(self, part: str | int) -> Schema | None:
        """What is below a key or index, where the schema says so."""
        if fields := self.fields():
            return fields.get(str(part))
        if self.kind == "dict" and "values_schema" in self.node:
            return self._with(self.node["values_schema"])
        if self.kind in _LISTS and isinstance(part, int) and (items := self.node.get("items_schema")):
            return self._with(items[min(part, len(items) - 1)] if isinstance(items, list) else items)
        return None

    def choices(self) -> dict[str, Schema]:
        """The members of a tagged union by their tags."""
        return {str(tag): self._with(choice) for tag, choice in self.node["choices"].items()}

    def members(self, label: str | None = None) -> list[Schema]:
        """The members of a union, or those that a label in an error's location may mean."""
        if self.kind == "tagged-union":
            choices = self.choices()
            return [choices[label]] if label in choices else list(choices.values())
        listed = [self._with(choice[0] if isinstance(choice, tuple) else choice) for choice in self.node["choices"]]
        return [member for member in listed if label is not None and member._answers_to(label)] or listed

    def words(self) -> list[str]:
        """The closed list of words allowed here."""
        if self.is_union:
            return [word for member in self.members() for word in member.words()]
        listed = self.node.get("expected", ()) if self.kind == "literal" else self.node.get("members", ())
        return [str(getattr(word, "value", word)) for word in listed]

    def nouns(self) -> list[str]:
        """What is allowed here beside words."""
        node, kind = self.node, self.kind
        if kind == "union":
            return [noun for member in self.members() for noun in member.nouns()]
        if kind == "tagged-union":
            key = node["discriminator"]
            return [f"a mapping ({key}, ...)" if isinstance(key, str) else "a mapping"]
        if fields := self.fields():
            return [f"a mapping ({', '.join(sorted(fields))})"]
        if kind == "is-instance":
            return [f"a {node['cls'].__name__}"]
        if kind == "tuple" and "variadic_item_index" not in node:
            return [f"a list of {len(node['items_schema'])}"]
        noun = "a list" if kind in _LISTS else "a mapping" if kind == "dict" else _NOUNS.get(kind)
        limits = " and ".join(text.format(_bound(node[key])) for key, text in _LIMITS.items() if node.get(key) is not None)
        return [f"{noun} {limits}".strip()] if noun else []

    def _answers_to(self, label: str) -> bool:
        name = self.node.get("model_name") or self.node.get("dataclass_name")
        return bool(re.search(rf"\b{re.escape(name)}\b", label)) if name else label.startswith(self.raw["type"])

    def _with(self, raw: Node) -> Schema:
        return Schema(raw, self.definitions)


def schema_of(core: Node) -> Schema:
    """The root of a type adapter's core schema."""
    definitions = {d["ref"]: d for d in core.get("definitions", ())}
    return Schema(core["schema"] if core["type"] == "definitions" else core, definitions)


def allowed(schemas: Iterable[Schema]) -> str:
    """Every word, sorted, then every other thing, that one of the schemas allows; empty where they do not say."""
    listed = list(schemas)
    words = sorted({word for schema in listed for word in schema.words()})
    return ", ".join(dict.fromkeys([*words, *(noun for schema in listed for noun in schema.nouns())]))


def _bound(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _unwrap(raw: Node, definitions: Mapping[str, Node]) -> Node:
    while True:
        if raw["type"] == "definition-ref":
            raw = definitions[raw["schema_ref"]]
        elif (inner := raw.get(_INNER.get(raw["type"], "schema"))) is not None:
            raw = inner
        else:
            return raw
