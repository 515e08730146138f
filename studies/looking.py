"""The commands that look: what there is by name, the facts of one thing, stored runs, and one of them once more."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwsim.errors import ConfigError
from hwsim.fields import format_record

from . import listing, pictures
from .rerun import rerun as perform_again
from .trust import allow_imports

HIDDEN = {"study", "hash", "threads", "host", "started", "steps", "step", "train_loss"}

commands = typer.Typer()
out = Console()
Kind = Enum("Kind", {kind: kind for kind in (*listing.LISTED, "runs")}, type=str)  # type: ignore[misc]
Trust = Annotated[list[str] | None, typer.Option(help="A module whose functions the file may name; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of stored runs a terminal has room for; `--json` has all of it."""
    said = {name for row in rows for name, value in row.items() if value not in (None, "")} - HIDDEN
    return [{name: "" if value is None else value for name, value in row.items() if name in said} for row in rows]


def trusted(given: list[str] | None) -> tuple[str, ...]:
    """The modules of `--trust`, which may be in the working directory."""
    found = tuple(given or ())
    allow_imports(found)
    return found


@commands.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    pattern: Annotated[str | None, typer.Argument(help="A pattern of names; of runs, the folder of a study's results.")] = None,
    as_rows: AsJson = False,
    where: Annotated[str, typer.Option(help='Of runs: an SQL condition on any column, as "accuracy > 0.9".')] = "true",
) -> None:
    """List what there is by name, or the runs of studies."""
    rows = listing.stored_runs(pattern, where) if kind.value == "runs" else listing.rows(kind.value, pattern or "*")
    if as_rows:
        typer.echo(json.dumps(rows, indent=1))
        return
    rows = _shown(rows) if kind.value == "runs" else rows
    table = Table(*(rows[0] if rows else ["name"]))
    for row in rows:
        table.add_row(*(escape(f"{value:.6g}" if isinstance(value, float) else str(value)) for value in row.values()))
    out.print(table)


@commands.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a format, datapath, unit, study, task or experiment.")],
    kind: Annotated[str | None, typer.Option(help="Which of these, where more than one has the name.")] = None,
    as_object: AsJson = False,
    svg: Annotated[Path | None, typer.Option(help="Draw a format into this file.")] = None,
) -> None:
    """Show the facts and a picture of a format, or a resolved datapath, unit, study, task or experiment."""
    kind, found = listing.facts(name, kind)
    if svg is not None:
        if kind != "format":
            raise ConfigError(f"--svg: got {name!r}, a {kind}; allowed: formats")
        svg.write_text(pictures.as_svg(format_record(name)))
    if as_object:
        typer.echo(json.dumps({"kind": kind, "name": name, **{kind: found}}, indent=1))
        return
    values = found.pop("values", None) if kind == "format" else None
    typer.echo(yaml.safe_dump({kind: {"name": name, **found}}, sort_keys=False, allow_unicode=True).rstrip())
    if kind == "format":
        typer.echo(pictures.as_text(format_record(name)))
    if values:
        table = Table("code", "value")
        for code, value in values.items():
            table.add_row(code, str(value))
        out.print(table)


@commands.command()
def rerun(
    folder: Annotated[Path, typer.Argument(help="Of a stored run: RESULTS/runs/ID.")],
    trust: Trust = None,
    as_object: AsJson = False,
) -> None:
    """Perform a stored run again and compare the results bit for bit; exit code 1 if they differ."""
    found = perform_again(folder, trusted(trust))
    if as_object:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        typer.echo("\n".join([f"{found.id}: " + ("differs in" if found.differences else "the same, bit for bit")]))
        typer.echo("".join(f"  {line}\n" for line in found.differences), nl=False)
        typer.echo("".join(f"  here {line}\n" for line in found.surroundings), nl=False)
    if found.differences:
        raise typer.Exit(1)
