"""What a circuit's gates take up: cell tables, and the range over them and over the ways to build multipliers and adders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.catalogue import CONFIGS, Catalogue
from hwsim.config import load, validate
from hwsim.config.record import Record
from hwsim.errors import ConfigError, not_allowed

from .netlist import KINDS, Netlist

Positive = Annotated[float, Field(gt=0)]
SAME = "undecided"


class Cells(Record):
    """The areas of one library's gates, in any unit; results are in gate equivalents, a two-input NAND being one.

    Args:
        areas: of each gate of a netlist. register: of a flip-flop.
        source: where they come from.
    """

    description: str
    node: str
    source: str
    areas: dict[str, Positive]
    register_: Annotated[float, Field(gt=0, alias="register")]

    @model_validator(mode="after")
    def _complete(self) -> Cells:
        wrong = sorted(set(self.areas) ^ set(KINDS))
        if wrong:
            raise ValueError(f"areas: {wrong[0]} is missing or unknown; allowed: each of {', '.join(KINDS)}")
        return self

    def gate_equivalents(self, netlist: Netlist) -> float:
        """The area of a netlist over that of a two-input NAND."""
        return sum(count * self.areas[kind] for kind, count in netlist.counts.items()) / self.areas["NAND"]

    @property
    def per_register(self) -> float:
        """Gate equivalents of one flip-flop."""
        return self.register_ / self.areas["NAND"]


class _File(Record):
    cells: Cells


@cache
def cell_tables() -> Mapping[str, Path]:
    """The shipped tables by name."""
    return {path.stem: path for path in sorted((CONFIGS / "cells").glob("*.yaml"))}


def cells(given: str | Path) -> Cells:
    """A cell table by its shipped name or the path of a YAML file.

    Raises:
        ConfigError: no such name, or a wrong file.
    """
    path = Path(given) if str(given).endswith((".yaml", ".yml")) else cell_tables().get(str(given))
    if path is None:
        raise ConfigError(not_allowed("cells", str(given), cell_tables()))
    return validate(load(path), _File, (), Catalogue()).cells


@dataclass(frozen=True)
class Area:
    """The area of one circuit in gate equivalents.

    Attributes:
        circuit: its name. tool: the synthesiser with its version.
        by: gate equivalents by (mapping, cell table). depth: gates on the longest way, of the default mapping.
    """

    circuit: str
    tool: str
    gates: int
    depth: int
    by: Mapping[tuple[str, str], float]

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.by.values())

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.by.values())

    def against(self, other: Area) -> Literal["smaller", "larger", "undecided"]:
        """Whether it is smaller than another under every mapping and table, larger under every one, or neither."""
        signs = {self.by[key] < other.by[key] for key in self.by.keys() & other.by.keys() if self.by[key] != other.by[key]}
        if len(signs) != 1:
            return "undecided"
        return "smaller" if signs.pop() else "larger"


def area(netlists: Mapping[str, Netlist], tables: Iterable[str], tool: str) -> Area:
    """The area of a circuit from its netlists by mapping."""
    default = netlists["default"]
    by = {(mapping, name): cells(name).gate_equivalents(netlist) for mapping, netlist in netlists.items() for name in tables}
    return Area(default.name, tool, len(default.kinds), default.depth, by)


def ordered(areas: Sequence[Area]) -> list[tuple[Area, str]]:
    """Areas from the smallest on, each with how it compares to the one before: `larger`, or `undecided` where that flips."""
    found = sorted(areas, key=lambda a: (a.low + a.high) / 2)
    return [(a, "" if n == 0 else a.against(found[n - 1])) for n, a in enumerate(found)]
