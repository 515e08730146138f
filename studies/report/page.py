"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..disk import write_file
from .costs import Costs, cost_rows, costs
from .drawing import Drawing
from .experiments import ExperimentReport
from .plots import budget_bars, curves, ends, experiment_plot, front_plot
from .sites import histograms, layer_bars, site_records, site_rows
from .summary import Report
from .texts import budget_rows, budget_title, comparison_rows, published

HERE = Path(__file__).parent
PAGE = "report.html"
NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( ± [\d.]+(e[+-]?\d+)?)?( [*%]+)?|-")
MOST_ROWS = 1000
"""Of one table; a page has to stay small."""
MOST_STEPS = 8
"""Of how many datapaths the step budgets are drawn."""
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
    """The page. Every text in it is escaped; figures are the only markup that is taken as it is."""
    parts = _experiment(report) if isinstance(report, ExperimentReport) else _trainings(report)
    common = {"report": report, "study": report.study, "style": Markup(_asset("page.css")), "script": Markup(_asset("page.js"))}
    return _environment().get_template("page.html").render(**common, **parts)


def drawings(report: Report | ExperimentReport) -> list[Drawing]:
    """Every figure of the page, in its order."""
    if isinstance(report, ExperimentReport):
        return [experiment_plot(plot) for plot in report.section.plots]
    fronts = [drawing for _, drawing in _fronts(report, costs(report))]
    budgets = [budget_bars(budget) for budget in report.budgets]
    return [ends(report), *fronts, *_steps(report), *budgets, *_curves(report)]


def _experiment(report: ExperimentReport) -> dict[str, Any]:
    return {
        "body": "experiment.html",
        "sections": [("findings", "Findings")],
        "provenance": report.record,
        "tables": report.section.tables,
        "drawings": drawings(report),
    }


def _trainings(report: Report) -> dict[str, Any]:
    found = costs(report)
    header, audit = audit_rows(report)
    fronts, steps, budgets = _fronts(report, found), _steps(report), report.budgets
    others = [(each["title"], each["source"], (each["header"], each["rows"])) for each in published(report)]
    sections = (
        ("comparison", "Comparison", True),
        ("cost", "Error against cost", fronts),
        ("error", "Where the error comes from", steps or budgets),
        ("sites", "Every site", steps),
        ("training", "Training", True),
        ("published", "What others measured", others),
        ("diverged", "Diverged", report.diverged),
        ("datapaths", "Datapaths and audit", True),
    )
    return {
        "body": "trainings.html",
        "sections": [(anchor, title) for anchor, title, there in sections if there],
        "provenance": next(iter(report.records.values())),
        "comparison": comparison_rows(report),
        "ends": ends(report),
        "curves": _curves(report),
        "budgets": [(budget_title(budget), budget_rows(budget), budget_bars(budget)) for budget in budgets],
        "steps": steps,
        "sites": site_rows(report.steps, MOST_ROWS),
        "hidden_sites": max(0, len(site_records(report.steps)) - MOST_ROWS),
        "costs": cost_rows(report, found),
        "published": others,
        "fronts": fronts,
        "machines": machine_rows(report),
        "audit": (header, audit[:MOST_ROWS]),
        "hidden_audit": max(0, len(audit) - MOST_ROWS),
        "unemulated": native_rows(report),
        "diverged": diverged_rows(report),
        "native": [name for name, record in report.records.items() if is_native(record)],
    }


def _curves(report: Report) -> list[Drawing]:
    metrics = dict.fromkeys(name for name in (report.metric, "test_loss", "train_loss", RATE) if name in report.metrics)
    return [curves(report, metric) for metric in metrics]


def _fronts(report: Report, found: Sequence[Costs]) -> list[tuple[Costs, Drawing]]:
    return [(table, front_plot(report, table)) for table in found if table.values]


def _steps(report: Report) -> list[Drawing]:
    """The figures of the step budgets, of those datapaths that change most where there are many."""
    worst = sorted((one for one in report.steps if one.places), key=lambda one: -abs(one.part("all").measured))
    shown = [one for one in report.steps if any(one is other for other in worst[:MOST_STEPS])]
    found = [drawing for one in shown for drawing in (layer_bars(one), histograms(one))]
    return [drawing for drawing in found if drawing is not None]


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


def native_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Which tensors stayed in the model's own precision, and why."""
    columns = ("datapath", "phase", "role", "ops", "reason", "count", "flops")
    return [*columns], [[row[column] for column in columns] for row in report.native]


def diverged_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Where each run that diverged first had a NaN or an infinity."""
    rows = []
    for record in report.diverged:
        origin = record.get("origin") or {}
        where = [origin.get(key, "") for key in ("step", "site", "op", "phase")]
        rows.append([record["run"]["datapath"]["name"], record["run"]["seed"], record["id"], *where, record["reason"]])
    return ["datapath", "seed", "run", "step", "site", "operation", "phase", "reason"], rows


def is_native(record: Mapping[str, Any]) -> bool:
    """Whether a run used torch's own matmul anywhere."""
    datapath = record["run"]["datapath"]
    layers = (datapath, *datapath["overrides"].values())
    return any(gemm["mac"]["order"] == "native" for layer in layers for gemm in layer["gemm"].values())


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["is_number"] = lambda cell: isinstance(cell, int | float) or NUMBER.fullmatch(str(cell)) is not None
    found.filters["svg"] = lambda drawing: Markup(drawing.svg())
    return found
