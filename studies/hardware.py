"""The commands for hardware people: golden vectors, one dot product bit by bit, and what an unknown unit does."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer

from hwsim.casts import Cast
from hwsim.catalogue import Catalogue
from hwsim.errors import ConfigError, not_allowed
from hwsim.fields import format_record
from hwsim.formats import Format, Rounding, named_format
from hwsim.macs import mac
from hwsim.macs.probe import probe as find
from hwsim.macs.probe_cases import Dot
from hwsim.macs.trace import as_text, trace
from hwsim.macs.vectors import Vectors, converter_vectors, operand_values, unit_vectors

commands = typer.Typer()
Seed = Annotated[int, typer.Option(help="What random operands and random words depend on.")]
Terms = Annotated[int, typer.Option(help="K, the products of a dot product.", min=1)]


@commands.command()
def vectors(
    name: Annotated[str, typer.Argument(help="A MAC unit or a number format.")],
    count: Annotated[int, typer.Option(help="How many cases.", min=1)] = 100,
    terms: Terms = 16,
    seed: Seed = 0,
    operands: Annotated[
        str, typer.Option(help="A unit's formats of A and B, as in `A,B`; the first that it takes otherwise.")
    ] = "",
    rounding: Annotated[str, typer.Option(help="Of a format's converter.")] = "nearest_even",
    as_object: Annotated[bool, typer.Option("--json", help="JSON; CSV otherwise.")] = False,
    output: Annotated[Path | None, typer.Option(help="A file; stdout otherwise.")] = None,
) -> None:
    """Write golden vectors, as hex: operands, every partial sum and the result; of a format inputs, scales and codes."""
    found = _vectors(name, count, terms, seed, operands, rounding)
    text = found.as_json() if as_object else found.as_csv().rstrip("\n")
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n")


def _vectors(name: str, count: int, terms: int, seed: int, operands: str, rounding: str) -> Vectors:
    catalogue = Catalogue()
    if name in catalogue.names("macs"):
        return unit_vectors(mac(name), count, terms, seed, _pair(operands) if operands else None)
    if name in catalogue.names("formats") or named_format(name):
        return converter_vectors(Cast(format=format_record(name), rounding=Rounding.parse(rounding), nan="max"), count, seed)
    raise ConfigError(not_allowed("name", name, [*catalogue.names("macs"), *catalogue.names("formats")]))


def _pair(text: str) -> tuple[Format, Format]:
    names = [name.strip() for name in text.split(",")]
    if len(names) > 2:
        raise ConfigError(f"--operands: got {text!r}; allowed: a format for both operands, or two as in fp8_e4m3fn,fp8_e5m2")
    return format_record(names[0]), format_record(names[-1])


@commands.command("trace")
def trace_(
    unit: Annotated[str, typer.Argument(help="A MAC unit.")],
    a: Annotated[str, typer.Option(help="The values of A, separated by commas; random ones otherwise.")] = "",
    b: Annotated[str, typer.Option(help="The values of B.")] = "",
    c: Annotated[float, typer.Option(help="C.")] = 0.0,
    terms: Terms = 4,
    seed: Seed = 0,
) -> None:
    """Print one dot product bit by bit: products, alignment, what is cut, and the rounded result."""
    found = mac(unit)
    if bool(a) != bool(b):
        raise ConfigError("got one of --a and --b; allowed: both, or neither")
    random = operand_values(found, terms, seed)
    x, y = (_numbers(text, option) if text else drawn for text, option, drawn in zip((a, b), ("--a", "--b"), random, strict=True))
    typer.echo(as_text(trace(x, y, found, c)))


@commands.command()
def probe(
    function: Annotated[str, typer.Argument(help="module:function, called with two vectors and C, giving c + a . b.")],
    operands: Annotated[str, typer.Option(help="The format of A and B.")] = "fp16",
    terms: Terms = 64,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option(help="A file for the unit; stdout otherwise.")] = None,
) -> None:
    """Find a dot product's order, group length, fraction bits and rounding, and write the unit's YAML."""
    text = find(_function(function), operands, terms, seed).as_yaml()
    if output is None:
        typer.echo(text.rstrip("\n"))
    else:
        output.write_text(text)


def _function(path: str) -> Dot:
    """A callable by its path; modules of the working directory are found too."""
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Dot = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"function: got {path!r}: {error}; allowed: module:function") from None
    return found


def _numbers(text: str, option: str) -> torch.Tensor:
    try:
        return torch.tensor([float(number) for number in text.split(",")], dtype=torch.float64)
    except ValueError:
        raise ConfigError(f"{option}: got {text!r}; allowed: numbers separated by commas") from None
