"""Study files: where they are found, and what they declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

from hwsim.catalogue import KINDS, Catalogue, shipped_studies
from hwsim.config import Document, load, validate
from hwsim.config.wording import Path
from hwsim.datapaths import datapath
from hwsim.errors import ConfigError, HwsimError, nearest, not_allowed
from hwsim.fields import format_record
from hwsim.macs import Mac, mac
from hwsim.models import TaskError

from .schema import AnyStudy, ExperimentStudy, Study

T = TypeVar("T")

TOP_LEVEL = ("study", *KINDS)
FILE_KINDS = ("study", "datapath", "mac", "formats")


@dataclass(frozen=True)
class StudyFile:
    """A study with the file that says it, and the modules whose functions it may name."""

    study: AnyStudy
    document: Document
    catalogue: Catalogue
    trust: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Document, trust: tuple[str, ...] = ()) -> StudyFile:
        """The study of a document, with the formats, units and datapaths it declares.

        Raises:
            ConfigError: an unknown section, a wrong declaration, or a wrong study.
        """
        for section in document.data:
            if section not in TOP_LEVEL:
                message = f"unknown key; allowed: {', '.join(TOP_LEVEL)}{nearest(section, TOP_LEVEL)}"
                raise ConfigError(document.problem((section,), message))
        catalogue = Catalogue.of(document)
        check_declarations(document, catalogue)
        given = document.data.get("study")
        kind: Any = ExperimentStudy if isinstance(given, Mapping) and "experiment" in given else Study
        return cls(validate(document, kind, ("study",), catalogue), document, catalogue, trust)


def find_study(given: str) -> FilePath:
    """The path of a study file, given itself or as the name of a shipped study.

    Raises:
        ConfigError: neither.
    """
    if given.endswith((".yaml", ".yml")) or FilePath(given).exists():
        return FilePath(given)
    shipped = shipped_studies()
    if given not in shipped:
        raise ConfigError(f"{not_allowed('study', given, shipped)} (or the path of a YAML file)")
    return shipped[given]


def load_study(given: str | FilePath, trust: tuple[str, ...] = ()) -> StudyFile:
    """The study in a file, or a shipped one by name; functions that it names are imported from modules of `trust` only.

    Raises:
        ConfigError: as for `StudyFile.of`, or a file that cannot be read.
    """
    return StudyFile.of(load(find_study(str(given))), trust)


def check_file(path: FilePath, trust: tuple[str, ...] = ()) -> str:
    """Check a study, a datapath, a unit or a list of formats, and say what it is.

    Raises:
        ConfigError: the file is none of these, or wrong.
    """
    document = load(path)
    kind = next((key for key in FILE_KINDS if key in document.data), None)
    if kind is None:
        given = ", ".join(document.data) or "nothing"
        raise ConfigError(document.problem((), f"got {given}; allowed: a file with {' or '.join(FILE_KINDS)} at the top level"))
    if kind == "study":
        from .plan import expand

        plan = expand(StudyFile.of(document, trust))
        return f"a study of {len(plan.runs)} runs"
    catalogue = Catalogue.of(document)
    check_declarations(document, catalogue)
    if kind == "formats":
        return f"{len(document.data[kind])} formats"
    if kind == "datapath":
        datapath(path)
    else:
        validate(document, Mac, (kind,), catalogue)
    return f"a {kind}"


def check_declarations(document: Document, catalogue: Catalogue) -> None:
    """Refuse a wrong format, unit or datapath, used or not.

    Raises:
        ConfigError: with the declaration's line.
    """
    makers: dict[str, Callable[..., object]] = {"formats": format_record, "macs": mac, "datapaths": datapath}
    for kind, make in makers.items():
        for name in document.data.get(kind) or {}:
            with_place(document, (kind, name), partial(make, name, catalogue))


def with_place(document: Document, path: Path, make: Callable[[], T]) -> T:
    """What `make` returns; an error of it that names no file is told at a place of this one.

    Raises:
        ConfigError: any HwsimError or TaskError of `make`.
    """
    try:
        return make()
    except (HwsimError, TaskError) as error:
        if isinstance(error, ConfigError) and error.file:
            raise
        field = getattr(error, "field", "")
        inner = (*path, *field.split(".")) if field else path
        raise ConfigError(document.problem(inner, str(error).removeprefix(f"{field}: "))) from error
