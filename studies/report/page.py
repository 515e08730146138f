"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..disk import write_file
from .costs import cost_rows, costs
from .experiments import ExperimentReport
from .plots import budget_bars, curves, ends, experiment_plot, front_plot
from .summary import Report
from .texts import budget_rows, budget_title, comparison_rows, published

HERE = Path(__file__).parent
PAGE = "report.html"
RATE = "quantization_rate"


def write_page(report: Report | ExperimentReport) -> Path:
    """Write `report.html` into the study's folder, and say where it is.

    Raises:
        OSError: it cannot be written.
    """
    path = report.folder / PAGE
    write_file(path, page(report))
    return path


def page(report: Report | ExperimentReport) -> str:
    """The page. Every text in it is escaped; plots are the only markup that is taken as it is."""
    parts = _experiment(report) if isinstance(report, ExperimentReport) else _trainings(report)
    common = {"report": report, "study": report.study, "style": Markup(_asset("page.css")), "script": Markup(_asset("page.js"))}
    return _environment().get_template("page.html").render(**common, **parts)


def _experiment(report: ExperimentReport) -> dict[str, Any]:
    section = report.section
    plots = [(plot.caption, Markup(experiment_plot(plot))) for plot in section.plots]
    return {"body": "experiment.html", "provenance": report.record, "tables": section.tables, "plots": plots}


def _trainings(report: Report) -> dict[str, Any]:
    found = costs(report)
    metrics = dict.fromkeys(name for name in (report.metric, "test_loss", "train_loss", RATE) if name in report.metrics)
    return {
        "body": "trainings.html",
        "provenance": next(iter(report.records.values())),
        "comparison": comparison_rows(report),
        "ends": Markup(ends(report)),
        "curves": [(metric, Markup(curves(report, metric))) for metric in metrics],
        "budgets": [(budget_title(budget), budget_rows(budget), Markup(budget_bars(budget))) for budget in report.budgets],
        "costs": cost_rows(report, found),
        "published": [(each["title"], each["source"], (each["header"], each["rows"])) for each in published(report)],
        "fronts": [(table, Markup(front_plot(report, table))) for table in found if table.values],
        "machines": machine_rows(report),
        "audit": audit_rows(report),
        "native": [name for name, record in report.records.items() if is_native(record)],
    }


def machine_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """What each datapath is, how it accumulates, and how much of a run it covers."""
    rows = []
    for name, record in report.records.items():
        datapath, coverage = record["run"]["datapath"], record["coverage"]
        sums = "torch's own (native)" if is_native(record) else "emulated"
        shares = [f"{100 * coverage[share]:.1f} %" for share in ("operations", "flops")]
        rows.append([name, datapath["description"], datapath["source"], sums, *shares])
    return ["datapath", "is", "source", "sums of a GEMM", "operations as declared", "FLOPs as declared"], rows


def audit_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Which casts ran, how often, on how much arithmetic; moves of values are left out."""
    columns = ("datapath", "phase", "gemm", "role", "cast", "mac", "count", "flops")
    rows = [[row[column] for column in columns] for row in report.audit if row["role"] != "move"]
    return [*columns], rows


def is_native(record: Mapping[str, Any]) -> bool:
    """Whether a run used torch's own matmul anywhere."""
    datapath = record["run"]["datapath"]
    layers = (datapath, *datapath["overrides"].values())
    return any(gemm["mac"]["order"] == "native" for layer in layers for gemm in layer["gemm"].values())


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
