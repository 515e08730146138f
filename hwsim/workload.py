"""The arithmetic of a run, from its audit: how many multiply-adds of which operands on which unit, and what is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from hwsim.casts import Cast
from hwsim.catalogue import Catalogue, shipped
from hwsim.datapaths import Datapath, GemmPaths
from hwsim.errors import FormatError
from hwsim.fields import format_mapping, format_record
from hwsim.formats import Block, Format
from hwsim.layering import GEMMS, OPERANDS
from hwsim.macs import Mac, mac

NATIVE = mac("native")
STORED = ("weight", "momentum", "variance", "state")
MOVED = (*OPERANDS, "result")

Rows = Iterable[Mapping[str, Any]]


class MultiplyAdd(NamedTuple):
    """One product and the sum it enters: the formats of both operands, and the unit."""

    a: Format
    b: Format
    unit: Mac = NATIVE


Work = Mapping[MultiplyAdd, float]
"""How many multiply-adds a run makes of each kind."""


@dataclass(frozen=True)
class Declared:
    """What the words of an audit stand for: a format or a unit of the run's datapath, or of the catalogue.

    A stored run has no names for its own formats; where one declaration of the datapath fits the audit's words, it is meant, and
    of several the one that is no shipped format.
    """

    datapath: Datapath | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)
    wide: str = "fp32"

    def format(self, role: str, cast: str) -> Format:
        """The format of a role's cast in the audit's words; without a cast, the `wide` one.

        Raises:
            FormatError: no declaration of the datapath fits, or several do, and the catalogue has no such name.
        """
        if cast == "none":
            return format_record(self.wide)
        found = {_written_out(known.format): known.format for known in self._casts(role) if self._fits(known, cast)}
        if len(found) > 1:  # a name that the catalogue lacks is rather that of a format that has none there
            found = {text: fmt for text, fmt in found.items() if text not in _shipped_formats()} or found
        if len(found) == 1:
            return next(iter(found.values()))
        return format_record(cast.split(" ")[0], self.catalogue)

    def unit(self, gemm: str, name: str) -> Mac:
        """The unit of a GEMM in the audit's words; `native` where the audit has none.

        Raises:
            FormatError: several units of the datapath fit.
            ConfigError: none does, and the catalogue has no such name.
        """
        units = {getattr(paths, gemm).mac for paths in self._paths()}
        found = {unit for unit in units if (unit.name or str(unit.order)) == name}
        if len(found) > 1:
            raise FormatError(f"mac: got {name!r}, which is {len(found)} units of {self.datapath}; allowed: a name for each")
        return next(iter(found)) if found else mac(name or "native", self.catalogue)

    def _paths(self) -> list[GemmPaths]:
        return [] if self.datapath is None else [paths for _, paths in self.datapath.gemm_paths]

    def _casts(self, role: str) -> Iterator[Cast]:
        found = [getattr(getattr(paths, gemm), role) for paths in self._paths() for gemm in GEMMS if role in MOVED]
        if self.datapath is not None and role in STORED:
            found = [getattr(self.datapath.optimizer, role), *found]
        yield from (cast for cast in found if cast is not None)

    def _fits(self, declared: Cast, words: str) -> bool:
        """Whether a cast reads so, whatever its format is called."""
        structure = str(declared.format)
        rest = str(declared).removeprefix(structure)
        name = words.removesuffix(rest)
        if not words.endswith(rest) or name == structure:
            return words.endswith(rest)
        try:
            return format_mapping(format_record(name, self.catalogue)) == format_mapping(declared.format)
        except FormatError:
            # A name is one word; a format without one reads as its kind and its parts, of which some may have had names.
            return " " not in name or name.startswith(f"{structure.partition('(')[0]}(")


def _written_out(fmt: Format) -> str:
    return repr(format_mapping(fmt))


@cache
def _shipped_formats() -> frozenset[str]:
    return frozenset(_written_out(format_record(name)) for name in shipped("formats"))


def bits_per_element(fmt: Format) -> float:
    """Stored bits of one element, with its share of its block's scale: MXFP4 4.25, NVFP4 4.5."""
    return fmt.bits_per_element if isinstance(fmt, Block) else float(fmt.bits)


def multiply_adds(
    audit: Rows, wide: str = "fp32", catalogue: Catalogue | None = None, datapath: Datapath | None = None
) -> dict[MultiplyAdd, float]:
    """The multiply-adds of a run by operands and unit, from its audit (see `hwsim.costs.gemm_cost`).

    Args:
        audit: rows with `gemm`, `role`, `cast`, `flops`, `phase`, `site`, `op`, and where they have it `mac`.
        wide: what an operand without a cast is.
        catalogue: of the names that the run's own file declares.
        datapath: the run's, whose formats and units have no other name.

    Raises:
        FormatError: a format of the audit is none of the datapath's and has no name that is known.
    """
    declared = Declared(datapath, catalogue or Catalogue(), wide)
    gemms: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in audit:
        if row["gemm"]:
            key = (row["phase"], row["op"], row["site"], row["gemm"], row.get("mac", ""))
            gemms.setdefault(key, {"flops": 0, "operands": []})
            if row["role"] == "result":
                gemms[key]["flops"] += row["flops"]
            else:
                gemms[key]["operands"].append(declared.format(row["role"], row["cast"]))
    work: dict[MultiplyAdd, float] = defaultdict(float)
    for key, gemm in gemms.items():
        a, *rest = gemm["operands"] or [format_record(wide)]
        work[MultiplyAdd(a, rest[0] if rest else a, declared.unit(key[3], key[4]))] += gemm["flops"] / 2
    return work


def stored_bits(audit: Rows, wide: str = "fp32", catalogue: Catalogue | None = None, datapath: Datapath | None = None) -> float:
    """The bits of a run's parameters and optimizer states as the optimizer keeps them, from the rows of its steps.

    Scales of blocks count, those of whole tensors, channels, groups and tiles do not. Arguments as for `multiply_adds`.

    Raises:
        FormatError: a format of the audit is none of the datapath's and has no name that is known.
    """
    declared = Declared(datapath, catalogue or Catalogue(), wide)
    found: dict[tuple[str, str], float] = {}
    for row in audit:
        if row["phase"] == "optimizer" and row["role"] in STORED and row["flops"]:
            bits = bits_per_element(declared.format(row["role"], row["cast"])) * row["flops"] / row["count"]
            # Several operations of one step may write a tensor, all of the same elements.
            key = row["site"], row["role"]
            found[key] = max(found.get(key, 0.0), bits)
    return sum(found.values())


def moved_bits(audit: Rows, wide: str = "fp32", catalogue: Catalogue | None = None, datapath: Datapath | None = None) -> float:
    """The bits that the GEMMs of a run read and write: each of them its two operands and its result once, as they are cast.

    It is the least that any order of the work moves where nothing stays on the chip from one GEMM to the next: patches of a
    convolution are not read again, sums in progress not written. Scales of blocks count, others do not. Arguments as for
    `multiply_adds`; rows have `elements` too.

    Raises:
        FormatError: a format of the audit is none of the datapath's and has no name that is known.
    """
    declared = Declared(datapath, catalogue or Catalogue(), wide)
    moved = (int(row["elements"]) * bits_per_element(declared.format(row["role"], row["cast"])) for row in audit if row["gemm"])
    return sum(moved)
