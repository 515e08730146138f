"""The kinds of format there are, and the families whose names say their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from .base import Format
from .block import Block
from .codebook import AdditivePowersOfTwo, Codebook
from .errors import FormatError
from .float import MAX_EXPONENT_BITS, Float
from .integer import Fixed, Integer
from .logarithmic import Logarithmic
from .posit import Posit

ENTRY_POINTS = "hwsim.formats"
BUILT_IN: Mapping[str, type[Format]] = MappingProxyType(
    {
        "float": Float,
        "integer": Integer,
        "fixed": Fixed,
        "block": Block,
        "codebook": Codebook,
        "apot": AdditivePowersOfTwo,
        "posit": Posit,
        "logarithmic": Logarithmic,
    }
)
P3109_NAME = re.compile(r"binary(\d+)p(\d+)([su])([ef])")


@cache
def format_kinds() -> Mapping[str, type[Format]]:
    """The record of each kind: the built-in ones, then those of the entry-point group `hwsim.formats`.

    Raises:
        FormatError: a plug-in takes a kind that exists, is no Format, or fails the property suite (see `properties`).
    """
    kinds: dict[str, type[Format]] = dict(BUILT_IN)
    for entry in entry_points(group=ENTRY_POINTS):
        record = entry.load()
        if entry.name in kinds:
            raise FormatError(f"kind: {entry.name!r} of {entry.value} exists already; allowed: a new name")
        if not (isinstance(record, type) and issubclass(record, Format)):
            raise FormatError(f"kind: {entry.name!r} of {entry.value} is {record!r}; allowed: a subclass of Format")
        from .properties import check_kind

        check_kind(entry.name, record)
        kinds[entry.name] = record
    return MappingProxyType(kinds)


def named_format(name: str) -> Format | None:
    """The format that a systematic name stands for, or None.

    `binary{K}p{P}{s|u}{e|f}`, K = 3..16: width K, precision P, signed or unsigned, extended or finite (IEEE P3109 v4.0).

    Raises:
        FormatError: K or P out of range, or values beyond fp64, which would carry them.
    """
    match = P3109_NAME.fullmatch(name)
    if not match:
        return None
    width, precision, signed = int(match[1]), int(match[2]), match[3] == "s"
    if not (3 <= width <= 16 and 1 <= precision <= width - signed):
        raise FormatError(f"format: got {name!r}; allowed: binary{{K}}p{{P}} with K = 3..16 and P = 1..K-1 (unsigned: K)")
    exponent_bits = width - precision + (not signed)
    if exponent_bits > MAX_EXPONENT_BITS:
        least = width - MAX_EXPONENT_BITS + (not signed)
        raise FormatError(
            f"format: got {name!r}, whose {exponent_bits} exponent bits take its values beyond fp64; allowed: P = {least} or more"
        )
    return Float(
        exponent_bits=exponent_bits,
        mantissa_bits=precision - 1,
        specials="p3109",
        signed=signed,
        domain="extended" if match[4] == "e" else "finite",
        name=name,
    )
