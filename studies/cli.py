"""The command line. Exit codes: 0 all is well, 2 bad input, 1 anything else that failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from hwsim.errors import ConfigError, HwsimError, not_allowed
from hwsim.models import TaskError

from . import budgeting, circuits, comparing, hardware, looking, proof
from .conditions import shortfalls
from .editing import study_schema
from .executors import Executor, Needs, executors
from .files import check_file, load_study
from .looking import AsJson, Trust, trusted
from .plan import expand
from .prediction import Prediction, predict_study
from .progress import Events, Live, Progress, Quiet
from .provenance import cores
from .report import as_csv, as_json, as_latex, as_tables, load_report, write_files, write_page
from .runner import Ask, Summary, run_study
from .sinks import sinks as known_sinks
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
app.add_typer(looking.commands)
app.add_typer(hardware.commands)
app.add_typer(proof.commands)
app.add_typer(circuits.commands)


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    executor: Annotated[str, typer.Option(help="Where runs are performed.")] = "local",
    workers: Annotated[int | None, typer.Option(help="How many runs at a time; by default one a core.")] = None,
    output: Annotated[Path | None, typer.Option(help="The results folder; by default results/NAME.")] = None,
    as_events: Annotated[bool, typer.Option("--json", help="One line of JSON for each event.")] = False,
    trust: Trust = None,
    yes: Annotated[bool, typer.Option("--yes", help=f"Allow more than {MAX_RUNS} runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Take over the folder of a changed study.")] = False,
    sinks: Annotated[
        list[str] | None, typer.Option("--log", help="Where metrics go too: tensorboard, mlflow, wandb, or a plug-in.")
    ] = None,
) -> None:
    """Run what a study lacks, print the comparison and write the report."""
    file = load_study(study, trusted(trust))
    folder = output or Path("results") / file.study.name
    for name in sinks or ():
        if name not in known_sinks():
            raise ConfigError(not_allowed("--log", name, known_sinks()))
    plan = expand(file)
    chosen = _executor(executor, workers, plan.needs)
    if len(plan.runs) > MAX_RUNS and not yes:
        raise ConfigError(f"{study}: got {len(plan.runs)} runs; allowed without --yes: {MAX_RUNS}")
    if dry_run:
        _foretell(predict_study(plan, Store(folder)), folder, chosen.workers, as_events)
        return
    summary = run_study(file, folder, chosen, _progress(as_events), Ask(update, tuple(sinks or ())))
    if not summary.failed:
        budgeting.keep_step_budgets(file, folder, summary.plan.hash)
    _conclude(summary, as_events)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Study, datapath, unit or format files.")],
    trust: Trust = None,
) -> None:
    """Check files and run nothing."""
    errors = []
    for file in files:
        try:
            typer.echo(f"{file}: {check_file(file, trusted(trust))}")
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
    volatile: Annotated[bool, typer.Option("--volatile", help="With --csv: times and hosts too.")] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Figures as SVG and PDF, tables as CSV, JSON, LaTeX and Parquet, into FOLDER/report.")
    ] = False,
) -> None:
    """Write the report of stored results, or print its tables."""
    given = (("--html", html), ("--csv", csv), ("--json", as_object), ("--latex", latex), ("--files", files))
    chosen = [name for name, wanted in given if wanted]
    if len(chosen) > 1:
        raise ConfigError(f"got {' and '.join(chosen)}; allowed: one of them")
    if volatile and not csv:
        raise ConfigError("got --volatile; allowed: with --csv")
    found = load_report(folder)
    for wanted, text in ((csv, partial(as_csv, volatile=volatile)), (as_object, as_json), (latex, as_latex)):
        if wanted:
            typer.echo(text(found).rstrip("\n"))
            return
    if files:
        typer.echo(f"files: {write_files(found)}")
        return
    for part in as_tables(found):
        out.print(part)
    typer.echo(f"report: {write_page(found)}")


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
    trust: Trust = None,
) -> None:
    """Split the error of a training step over sites, roles and causes, measured and predicted; exit code 1 if a limit breaks."""
    file = load_study(study, trusted(trust))
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
    names: Annotated[list[str], typer.Argument(help="Results folders, FOLDER:DATAPATH or FOLDER:SETTING, or datapaths.")],
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
    trust: Trust = None,
) -> None:
    """Run two datapaths in lock step to the first number that differs, and show its dot product bit by bit."""
    typer.echo(comparing.diff((a, b), load_study(study, trusted(trust)), steps, seed))


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    typer.echo(json.dumps(study_schema(), indent=1))


def _foretell(found: Prediction, folder: Path, workers: int, as_object: bool) -> None:
    if as_object:
        typer.echo(json.dumps({"event": "prediction", **asdict(found), "workers": workers}))
        return
    left = found.runs - found.done
    typer.echo(f"{found.runs} runs, {found.done} of them finished in {folder}, {left} to run")
    if left and found.seconds is not None:
        typer.echo(f"predicted: {found.seconds:.3g} s of work, {found.seconds / min(workers, left):.3g} s on {workers} workers")
    if left and found.memory_gib is not None:
        typer.echo(f"predicted: {found.memory_gib:.2f} GiB for each worker")
    if left:
        typer.echo(f"found from {found.basis}" if found.basis else "nothing is known of the time until a run has finished")


def _executor(name: str, workers: int | None, needs: Needs) -> Executor:
    if name not in executors():
        raise ConfigError(not_allowed("--executor", name, executors()))
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: got {workers}; allowed: a whole number from 1 on")
    chosen = executors()[name](workers, needs)
    if name == "local" and chosen.workers * needs.cpus > cores():
        typer.echo(f"warning: {chosen.workers} workers of {needs.cpus} threads on {cores()} cores", err=True)
    return chosen


def _progress(as_events: bool) -> Progress:
    if as_events:
        return Events(typer.echo)
    return Live(out) if out.is_terminal else Quiet(lambda text: typer.echo(text, err=True))


def _conclude(summary: Summary, as_events: bool) -> None:
    if not as_events:
        news = f"{summary.done} runs done" if summary.finished else "nothing is missing"
        typer.echo(f"{summary.plan.study.name}: {news}, {summary.already} were finished before")
    for run in summary.elsewhere if not as_events else ():
        if run.error:
            typer.echo(f"{run.id}: {run.error} is at it")
    if Store(summary.folder).finished():
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
    lacking = shortfalls(Store(summary.folder), Store(summary.folder).index())
    if lacking:
        raise _exit("\n".join(map(str, lacking)), FAILURE)


def main() -> None:
    """The entry point `hwsim`."""
    app()
