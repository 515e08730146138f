"""The commands that prove: hwsim beside outside oracles, and its speed beside other implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwsim.conformance import checks, perform
from hwsim.conformance.page import write

from . import bench as benchmarks
from . import references
from .bench.measurement import keep_freed_memory

commands = typer.Typer()
FAILURE = 1


@commands.command()
def conform(
    output: Annotated[Path, typer.Option(help="The folder of conformance.json and conformance.md.")] = Path("conformance"),
    only: Annotated[str, typer.Option(help="A shell-like pattern of checks, such as 'formats/fp8_*'.")] = "*",
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="The checks that take many minutes, and only these.")] = False,
) -> None:
    """Compare hwsim with the outside oracles that are installed; new results replace older ones of the same checks."""
    wrong = 0
    for result in perform(checks(only, ("exhaustive",) if exhaustive else ("quick", "full"))):
        found = result.outcome
        wrong += found.mismatches if found else 0
        says = f"{found.mismatches} of {found.cases} differ" if found else f"not performed: {result.missing}"
        typer.echo(f"{result.check}: {says} ({result.seconds} s)")
        page = write(output, [result])
    typer.echo(f"page: {page}")
    if wrong:
        typer.echo(f"error: {wrong} results differ from an oracle's", err=True)
        raise typer.Exit(FAILURE)


@commands.command()
def bench(
    name: Annotated[str, typer.Argument(help="What to measure.")] = "formats",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds that are measured.", min=1)] = 7,
    as_object: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Measure speed, as ratios to a reference that is measured in the same run."""
    run = benchmarks.benchmark(name)
    keep_freed_memory()
    found = run(rounds)
    if as_object:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        typer.echo(found.as_text())


@commands.command()
def results(
    names: Annotated[list[str] | None, typer.Argument(help="Shipped studies; by default all.")] = None,
    output: Annotated[Path, typer.Option(help="The folder of the pages.")] = Path("docs/results"),
    runs: Annotated[
        Path, typer.Option(help="The folder of the results folders; what is finished there is not run again.")
    ] = Path("results"),
    workers: Annotated[int | None, typer.Option(help="How many runs at a time; by default one a core.", min=1)] = None,
) -> None:
    """Run the shipped studies and write the page of each one's question and answer."""
    for name in references.chosen(names or ()):
        typer.echo(f"page: {references.regenerate(name, runs, output, workers, lambda text: typer.echo(text, err=True))}")
