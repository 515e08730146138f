"""Strict YAML: one document, one meaning, and a line for everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

import yaml

from hwsim.errors import ConfigError, Problem, nearest

from .scalars import Scalar, read_scalar
from .wording import Path, given, path_text

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 100_000


@dataclass(frozen=True)
class Document:
    """A YAML mapping as plain dicts, lists and scalars, with the line of every key and list item.

    A mapping made in Python is a Document without lines: `Document(mapping, "datapath")`.
    """

    data: Mapping[str, Any]
    name: str
    text: str = field(default="", repr=False)
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False)

    def line(self, path: Path) -> int:
        """The line of a key or list item, or of its nearest ancestor that has one; 0 where there are no lines."""
        return next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 0)

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a place in this document."""
        return Problem(message, self.name, self.line(path), path_text(path))

    def at(self, path: Path) -> Any:
        """The value at a path.

        Raises:
            ConfigError: the document has no such key; the nearest one it has is named.
        """
        value: Any = self.data
        for depth, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                keys = list(value) if isinstance(value, Mapping) else []
                message = f"missing; got {given(value)}{nearest(str(part), keys)}"
                raise ConfigError(self.problem(path[: depth + 1], message)) from None
        return value


def load(path: str | PathLike[str]) -> Document:
    """The document in a YAML file.

    Raises:
        ConfigError: the file cannot be read (the nearest name in its folder is given), or as for `loads`.
    """
    file = FilePath(path)
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise ConfigError(Problem(f"no such file{nearest(file.name, siblings)}", str(path))) from None
    except IsADirectoryError:
        raise ConfigError(Problem("got a folder; allowed: a YAML file", str(path))) from None
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path))) from error
    return loads(raw, str(path))


def loads(text: str | bytes, name: str = "<text>") -> Document:
    """The document in a YAML text; scalars by `read_scalar`, merge keys (`<<`) and aliases expanded.

    Raises:
        ConfigError: not UTF-8, empty, no mapping at the top, a tab, a tag, several documents, a duplicate key, a key that
            is not text, an ambiguous number, or more than 1 MiB, 50 levels or 100 000 nodes after expansion of aliases.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        if len(raw) > MAX_BYTES:
            raise _Refusal(0, f"got more than {MAX_BYTES} bytes; allowed: {MAX_BYTES} at most")
        text = _decoded(raw)
        builder = _Builder(name)
        data = builder.mapping(_compose(text))
    except _Refusal as refusal:
        raise ConfigError(Problem(refusal.message, name, refusal.line)) from None
    if builder.problems:
        raise ConfigError(*sorted(builder.problems, key=lambda problem: problem.line))
    return Document(data, name, text, builder.lines)


class _Refusal(Exception):
    """The text as a whole cannot be taken."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


def _decoded(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _Refusal(line, f"got byte 0x{raw[error.start]:02x}, which is not UTF-8; allowed: UTF-8 text") from None
    if "\t" in text:
        raise _Refusal(text.count("\n", 0, text.index("\t")) + 1, 'got a tab; allowed: spaces, and "\\t" inside quotes')
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's parser and composer, with no tags and bounded depth and size; its 1.1 scalars and constructors are not used."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event)
        if tag := getattr(event, "tag", None):
            raise _Refusal(line, f"got the tag {tag.replace('tag:yaml.org,2002:', '!!')}; allowed: no tags")
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise _Refusal(line, f"nested deeper than {MAX_DEPTH} levels")
        if self.nodes > MAX_NODES:
            raise _Refusal(line, f"more than {MAX_NODES} nodes; allowed: {MAX_NODES} at most")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str) -> yaml.Node:
    try:
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
        if node is None:
            raise _Refusal(1, "got an empty file; allowed: a mapping of keys to values")
        if loader.check_node():
            second = loader.peek_event()  # type: ignore[no-untyped-call]
            raise _Refusal(_line(second), "got a second document; allowed: one document a file")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ": ".join(part for part in (error.context, error.problem) if part)
        raise _Refusal(mark.line + 1 if mark else 0, f"not YAML: {message}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Refusal(line, f"got the control character {error.character:#x}; allowed: printable text") from None
    except (ValueError, OverflowError):  # chr() in PyYAML's scanner
        raise _Refusal(loader.line + 1, "got an escape beyond Unicode; allowed: up to \\U0010FFFF") from None
    return node


class _Builder:
    """Turns composed nodes into plain data, noting lines and whatever is wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        """The data of a whole document."""
        data = self._value(node, ())
        if isinstance(data, dict):
            return data
        raise _Refusal(_line(node), f"got {given(data)}; allowed: a mapping of keys to values at the top level")

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._count(node, len(path))
        self.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, n)) for n, item in enumerate(node.value)]
        data = {}
        for key, (line, value) in self._entries(node, path, len(path)).items():
            self.lines[*path, key] = line
            data[key] = self._value(value, (*path, key))
        return data

    def _entries(self, node: yaml.Node, path: Path, depth: int) -> dict[str, tuple[int, yaml.Node]]:
        """Line and value of each key; merged entries give way to the mapping's own, and later merges to earlier ones."""
        merged: dict[str, tuple[int, yaml.Node]] = {}
        own: dict[str, tuple[int, yaml.Node]] = {}
        for key_node, value in node.value:
            self._count(key_node, depth)
            key, line = self._key(key_node, path), _line(key_node)
            if key is None:
                continue
            if key in own:
                self._refuse(line, (*path, key), f"duplicate key; first on line {own[key][0]}")
            else:
                own[key] = line, value
        if "<<" in own:
            line, value = own.pop("<<")
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(source, yaml.MappingNode):
                    merged = self._entries(source, path, depth + 1) | merged
                else:
                    self._refuse(line, (*path, "<<"), "got no mapping to merge; allowed: a mapping, or a list of them")
        return merged | own

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        key: Any = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str):
            return key
        what = given(key) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        self._refuse(_line(node), path, f"got {what} as a key; allowed: text (in quotes where it looks like something else)")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Scalar:
        text: str = node.value
        try:
            text.encode()
            return text if node.style else read_scalar(text)
        except UnicodeEncodeError:
            self._refuse(_line(node), path, "got half of a surrogate pair; allowed: whole characters")
        except ValueError as error:
            self._refuse(_line(node), path, str(error))
        return text

    def _refuse(self, line: int, path: Path, message: str) -> None:
        self.problems.append(Problem(message, self.name, line, path_text(path)))

    def _count(self, node: yaml.Node, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refusal(_line(node), f"more than {MAX_NODES} nodes with its aliases expanded; allowed: {MAX_NODES} at most")
        if depth > MAX_DEPTH:
            raise _Refusal(_line(node), f"nested deeper than {MAX_DEPTH} levels with its aliases expanded")


def _line(marked: yaml.Node | yaml.Event) -> int:
    return marked.start_mark.line + 1 if marked.start_mark else 0
