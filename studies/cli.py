"""The command line. Exit codes: 0 all is well, 2 bad input, 1 anything else that failed."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from hwsim.errors import ConfigError, HwsimError, not_allowed
from hwsim.fields import format_record
from hwsim.models import TaskError

from . import budgeting, comparing, hardware, listing, pictures, proof
from .editing import study_schema
from .executors import Executor, executors
from .files import StudyFile, check_file, load_study
from .plan import expand
from .progress import Events, Live, Progress, Quiet
from .provenance import cores
from .report import as_csv, as_json, as_latex, as_tables, load_report, write_files, write_page
from .runner import Summary, run_study
from .store import StorageError, Store

MAX_RUNS = 1000
BAD_INPUT, FAILURE = 2, 1

out = Console()
"""Where tables go: the terminal's width, or 80 columns elsewhere."""


class _Group(TyperGroup):
    """Commands whose errors are a text and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StorageError as error:
            raise _exit(str(error), FAILURE) from error
        except (HwsimError, TaskError) as error:
            raise _exit(str(error), BAD_INPUT) from error
        except KeyboardInterrupt as error:
            raise _exit("interrupted; finished runs are kept, and the same command goes on with the others", FAILURE) from error
        except OSError as error:
            raise _exit(f"{error.filename or 'file system'}: {error.strerror}", FAILURE) from error


def _exit(text: str, code: int) -> typer.Exit:
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(code)


app = typer.Typer(
    cls=_Group,
    help="What does this number format, on this datapath, do to my training run, and where does the error come from?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(hardware.commands)
app.add_typer(proof.commands)
Kind = Enum("Kind", {kind: kind for kind in listing.LISTED}, type=str)  # type: ignore[misc]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    executor: Annotated[str, typer.Option(help="Where runs are performed.")] = "local",
    workers: Annotated[int | None, typer.Option(help="How many runs at a time; by default one a core.")] = None,
    output: Annotated[Path | None, typer.Option(help="The results folder; by default results/NAME.")] = None,
    as_events: Annotated[bool, typer.Option("--json", help="One line of JSON for each event.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help=f"Allow more than {MAX_RUNS} runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Take over the folder of a changed study.")] = False,
) -> None:
    """Run what a study lacks, print the comparison and write the report."""
    file = load_study(study)
    folder = output or Path("results") / file.study.name
    chosen = _executor(executor, workers, file)
    plan = expand(file)
    if len(plan.runs) > MAX_RUNS and not yes:
        raise ConfigError(f"{study}: got {len(plan.runs)} runs; allowed without --yes: {MAX_RUNS}")
    if dry_run:
        done = len(plan.runs.keys() & Store(folder).finished())
        typer.echo(f"{len(plan.runs)} runs, {done} of them finished in {folder}, {len(plan.runs) - done} to run")
        return
    summary = run_study(file, folder, chosen, _progress(as_events), update=update)
    if not summary.failed:
        budgeting.keep_step_budgets(file, folder, summary.plan.hash)
    _conclude(summary, as_events)


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Study, datapath, unit or format files.")]) -> None:
    """Check files and run nothing."""
    errors = []
    for file in files:
        try:
            typer.echo(f"{file}: {check_file(file)}")
        except (HwsimError, TaskError) as error:
            errors.append(str(error))
    if errors:
        raise _exit("\n".join(errors), BAD_INPUT)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A results folder.")],
    html: Annotated[bool, typer.Option("--html", help="Write report.html into the folder (the default).")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One line a run, to stdout.")] = False,
    as_object: AsJson = False,
    latex: Annotated[bool, typer.Option("--latex", help="Tables for a paper, to stdout.")] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Figures as SVG and PDF, tables as CSV, JSON, LaTeX and Parquet, into FOLDER/report.")
    ] = False,
) -> None:
    """Write the report of stored results, or print its tables."""
    given = (("--html", html), ("--csv", csv), ("--json", as_object), ("--latex", latex), ("--files", files))
    chosen = [name for name, wanted in given if wanted]
    if len(chosen) > 1:
        raise ConfigError(f"got {' and '.join(chosen)}; allowed: one of them")
    found = load_report(folder)
    for wanted, text in ((csv, as_csv), (as_object, as_json), (latex, as_latex)):
        if wanted:
            typer.echo(text(found).rstrip("\n"))
            return
    if files:
        typer.echo(f"files: {write_files(found)}")
        return
    for part in as_tables(found):
        out.print(part)
    typer.echo(f"report: {write_page(found)}")


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="A shell-like pattern of names.")] = "*",
    as_rows: AsJson = False,
) -> None:
    """List what there is by name."""
    rows = listing.rows(kind.value, pattern)
    if as_rows:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(*(rows[0] if rows else ["name"]))
    for row in rows:
        table.add_row(*(escape(f"{value:.6g}" if isinstance(value, float) else str(value)) for value in row.values()))
    out.print(table)


@app.command()
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


@app.command()
def budget(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    as_object: AsJson = False,
    names: Annotated[
        list[str] | None, typer.Option("--datapath", help="Of the study; by default those of report.budget, else all that round.")
    ] = None,
    allocate: Annotated[
        Path | None,
        typer.Option("--allocate", help="Write the cheapest datapath within the study's limit on the loss to this file."),
    ] = None,
) -> None:
    """Split the error of a training step over sites, roles and causes, measured and predicted; exit code 1 if a limit breaks."""
    file = load_study(study)
    if allocate is not None:
        found = budgeting.allocation(file, allocate.stem)
        budgeting.write_datapath(found, allocate)
        typer.echo(budgeting.allocation_text(found, allocate, as_object))
        passed = found.within
    else:
        budgets = budgeting.study_budgets(file, names or ())
        if as_object:
            typer.echo(budgeting.as_json(budgets))
        for one in () if as_object else budgets:
            out.print(one.budget, *map(str, one.verdicts), sep="\n")
        passed = all(verdict.passed for one in budgets for verdict in one.verdicts)
    if not passed:
        raise typer.Exit(FAILURE)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Results folders, FOLDER:DATAPATH of one, or datapaths.")],
    as_object: AsJson = False,
) -> None:
    """Put results side by side, with intervals and a paired test over seeds; or say in what datapaths differ."""
    if comparing.are_datapaths(names):
        machines = comparing.compare_datapaths(names)
        if as_object:
            typer.echo(json.dumps([{"a": a, "b": b, "differences": lines} for a, b, lines in machines], indent=1))
        for a, b, lines in () if as_object else machines:
            typer.echo("\n".join([f"{a} | {b}", *(f"  {line}" for line in lines or ["the same machine"])]))
        return
    found = comparing.compare(names)
    if as_object:
        typer.echo(json.dumps(comparing.as_rows(found), indent=1))
    else:
        out.print(comparing.as_table(found))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A datapath.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    study: Annotated[str, typer.Option(help="Whose task and optimizer, and whose own datapaths.")] = "quickstart",
    steps: Annotated[int, typer.Option(min=1, help="Training steps at most; an epoch ends them.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order of data and stochastic rounding.")] = 0,
) -> None:
    """Run two datapaths in lock step to the first number that differs, and show its dot product bit by bit."""
    typer.echo(comparing.diff((a, b), load_study(study), steps, seed))


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    typer.echo(json.dumps(study_schema(), indent=1))


def _executor(name: str, workers: int | None, file: StudyFile) -> Executor:
    if name not in executors():
        raise ConfigError(not_allowed("--executor", name, executors()))
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: got {workers}; allowed: a whole number from 1 on")
    chosen = executors()[name](workers)
    threads = file.study.threads
    if chosen.workers * threads > cores():
        typer.echo(f"warning: {chosen.workers} workers of {threads} threads on {cores()} cores", err=True)
    return chosen


def _progress(as_events: bool) -> Progress:
    if as_events:
        return Events(typer.echo)
    return Live(out) if out.is_terminal else Quiet(lambda text: typer.echo(text, err=True))


def _conclude(summary: Summary, as_events: bool) -> None:
    if not as_events:
        done = len(summary.finished) - len(summary.failed)
        news = f"{done} runs done" if summary.finished else "nothing is missing"
        typer.echo(f"{summary.plan.study.name}: {news}, {summary.already} were finished before")
    if summary.already or len(summary.finished) > len(summary.failed):
        found = load_report(summary.folder)
        page = write_page(found)
        if as_events:
            typer.echo(json.dumps({"event": "report", "headline": found.headline, "path": str(page)}))
        else:
            for part in as_tables(found):
                out.print(part)
            typer.echo(f"report: {page}")
    if summary.failed:
        raise _exit(f"{len(summary.failed)} runs failed; the same command tries them again", FAILURE)


def main() -> None:
    """The entry point `hwsim`."""
    app()
