"""What has a circuit: units, converters, and every Cast and Mac of a datapath; or the field that has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwsim.casts import Cast
from hwsim.catalogue import Catalogue
from hwsim.config import load, validate
from hwsim.datapaths import GEMMS, Datapath, GemmPath, datapath
from hwsim.errors import ConfigError, FormatError, not_allowed
from hwsim.fields import format_record
from hwsim.formats import Block, Rounding, named_format
from hwsim.formats.rounding import NanRule
from hwsim.macs import Mac, mac

from .circuit import Circuit
from .converters import converter
from .units import Unit, check_lowers, lowered, pairs


@dataclass(frozen=True)
class Subject:
    """A Cast or a Mac with its circuits, or why it has none.

    Attributes:
        label: what it is called.
        unit: the circuits of a Mac. circuit: that of a Cast.
        refused: what has no circuit, the field's name first; empty where there is one.
    """

    label: str
    declared: Cast | Mac
    unit: Unit | None = None
    circuit: Circuit | None = None
    refused: str = ""

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        """All of them."""
        return self.unit.circuits if self.unit else (self.circuit,) if self.circuit else ()


def of_mac(declared: Mac, label: str = "", terms: int | None = None, every: bool = False) -> Iterator[Subject]:
    """The circuits of a unit, for its first operand formats; for each of them if `every`."""
    label = label or declared.name or "unit"
    try:
        check_lowers(declared)
        for operands in pairs(declared)[: None if every else 1]:
            yield Subject(label, declared, unit=lowered(declared, operands, terms))
    except FormatError as error:
        yield Subject(label, declared, refused=str(error))


def of_cast(declared: Cast, label: str = "") -> Subject:
    """The circuit of a converter."""
    label = label or str(declared)
    try:
        return Subject(label, declared, circuit=converter(declared))
    except FormatError as error:
        return Subject(label, declared, refused=str(error))


def of_datapath(machine: Datapath) -> Iterator[Subject]:
    """Every Cast and every Mac of a machine, each once."""
    seen: list[Cast | Mac] = []
    for where, declared in _parts(machine):
        if declared in seen:
            continue
        seen.append(declared)
        if isinstance(declared, Mac):
            yield from of_mac(declared, f"{where} {declared.name}".strip())
        else:
            yield of_cast(declared, f"{where} {declared}")


def _parts(machine: Datapath) -> Iterator[tuple[str, Cast | Mac]]:
    for layer, paths in machine.gemm_paths:
        for gemm in GEMMS:
            found: GemmPath = getattr(paths, gemm)
            for role in ("input", "weight", "grad_output", "result"):
                if (cast := getattr(found, role)) is not None:
                    yield f"{layer} {gemm}.{role}".strip(), cast
            yield f"{layer} {gemm}.mac".strip(), found.mac
    for layer, path in machine.layer_paths:
        if isinstance(path.vector, Cast):
            yield f"{layer} vector".strip(), path.vector
    for name in type(machine.optimizer).model_fields:
        cast = getattr(machine.optimizer, name)
        if isinstance(cast, Cast):
            yield f"optimizer.{name}", cast
    if machine.wire is not None:
        yield "wire", machine.wire


Kind = Literal["unit", "format", "datapath"]


def subjects(
    name: str, rounding: str = "nearest_even", terms: int | None = None, every: bool = False, kind: Kind | None = None
) -> list[Subject]:
    """The circuits of a unit, a format's converter or a datapath, by name; or of a file with `mac:` or `datapath:`.

    Args:
        kind: which of these, where more than one has the name; the first in this order otherwise.

    Raises:
        ConfigError: nothing has that name, or the file is wrong.
    """
    catalogue = Catalogue()
    if name.endswith((".yaml", ".yml")):
        document = load(Path(name))
        if "datapath" in document.data:
            return list(of_datapath(datapath(Path(name))))
        if "mac" not in document.data:
            raise ConfigError(
                document.problem((), "got no `mac` or `datapath`; allowed: a file with one of them at the top level")
            )
        declared = validate(document, Mac, ("mac",), Catalogue.of(document))
        return list(of_mac(declared, Path(name).stem, terms, every))
    if kind in (None, "unit") and name in catalogue.names("macs"):
        return list(of_mac(mac(name), "", terms, every))
    if kind == "datapath" or (kind is None and name in catalogue.names("datapaths") and name not in catalogue.names("formats")):
        return list(of_datapath(datapath(name)))
    if kind != "unit" and (name in catalogue.names("formats") or named_format(name)):
        fmt = format_record(name)
        nan: NanRule = "error" if isinstance(fmt, Block) or fmt.has_nan else "max"
        return [of_cast(Cast(format=fmt, rounding=Rounding.parse(rounding), nan=nan))]
    names = [*catalogue.names("macs"), *catalogue.names("datapaths"), *catalogue.names("formats")]
    raise ConfigError(not_allowed("name", name, names))
