"""What is declared by name: the YAML files that ship with the package, and those of the user's own file."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from hwsim.config import Document, load
from hwsim.errors import ConfigError, Problem, not_allowed

Kind = Literal["formats", "macs", "datapaths"]
KINDS: tuple[str, ...] = get_args(Kind)
CONFIGS = Path(__file__).parent / "configs"
SINGULAR = {"formats": "format", "macs": "mac", "datapaths": "datapath", "studies": "study"}


@dataclass(frozen=True)
class Declaration:
    """One named thing in one file."""

    document: Document
    path: tuple[str | int, ...]

    @property
    def data(self) -> Any:
        """The declared mapping (or name), as the file has it."""
        return self.document.at(self.path)

    def error(self, text: str) -> ConfigError:
        """An error at this declaration's line."""
        return ConfigError(self.document.problem(self.path, text))


@dataclass(frozen=True)
class Catalogue:
    """The names a file may use: its own `formats`, `macs` and `datapaths`, then the shipped ones.

    A name that is shipped cannot be declared again: a study must mean the same thing everywhere.
    """

    formats: Mapping[str, Declaration] = field(default_factory=dict)
    macs: Mapping[str, Declaration] = field(default_factory=dict)
    datapaths: Mapping[str, Declaration] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Catalogue:
        """The declarations of one file.

        Raises:
            ConfigError: a section is no mapping, or a name is taken.
        """
        return cls(**{kind: _section(document, kind) for kind in KINDS})

    def own(self, kind: Kind) -> Mapping[str, Declaration]:
        """The declarations that are not shipped."""
        return {"formats": self.formats, "macs": self.macs, "datapaths": self.datapaths}[kind]

    def names(self, kind: Kind) -> list[str]:
        """All names of a kind, sorted."""
        return sorted({*self.own(kind), *shipped(kind)})

    def find(self, kind: Kind, name: str) -> Declaration:
        """The declaration behind a name.

        Raises:
            ConfigError: nothing has that name; the nearest match is named.
        """
        found = self.own(kind).get(name) or shipped(kind).get(name)
        if found is None:
            raise ConfigError(not_allowed(SINGULAR[kind], name, self.names(kind)))
        return found


def _section(document: Document, kind: str) -> Mapping[str, Declaration]:
    section = document.data.get(kind) or {}
    if not isinstance(section, Mapping):
        raise Declaration(document, (kind,)).error(f"got {section!r}; allowed: a mapping from names to {kind}")
    declared = {name: Declaration(document, (kind, name)) for name in section}
    taken = next((name for name in declared if name in shipped(kind)), None)
    if taken is not None:
        raise declared[taken].error(f"got {taken!r}, the name of a shipped {SINGULAR[kind]}; allowed: a name of your own")
    return declared


@cache
def shipped(kind: str) -> Mapping[str, Declaration]:
    """The shipped declarations: `configs/formats/*.yaml` hold many formats each, the other kinds one to a file."""
    found: dict[str, Declaration] = {}
    for path in sorted((CONFIGS / kind).glob("*.yaml")):
        document = load(path)
        if kind == "formats":
            declared = {name: Declaration(document, ("formats", name)) for name in document.data["formats"]}
        else:
            declared = {path.stem: Declaration(document, (SINGULAR[kind],))}
        twice = set(declared) & set(found)
        if twice:
            raise ConfigError(Problem(f"{sorted(twice)[0]!r} is declared twice", str(path), path=kind))
        found |= declared
    return MappingProxyType(found)


def shipped_studies() -> Mapping[str, Path]:
    """The shipped study files by name."""
    return {path.stem: path for path in sorted((CONFIGS / "studies").glob("*.yaml"))}


def matching(names: list[str], pattern: str) -> list[str]:
    """Those of the names that a shell-like pattern matches."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
