"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..store import write_file
from .plots import budget_bars, curves, ends
from .summary import Report
from .texts import budget_rows, budget_title, comparison_rows

HERE = Path(__file__).parent
PAGE = "report.html"


def write_page(report: Report) -> Path:
    """Write `report.html` into the study's folder, and say where it is.

    Raises:
        OSError: it cannot be written.
    """
    path = report.folder / PAGE
    write_file(path, page(report))
    return path


def page(report: Report) -> str:
    """The page. Every text in it is escaped; plots are the only markup that is taken as it is."""
    metrics = dict.fromkeys(name for name in (report.metric, "test_loss", "train_loss") if name in report.metrics)
    template = _environment().from_string(_asset("page.html"))
    return template.render(
        report=report,
        study=report.study,
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        comparison=comparison_rows(report),
        ends=Markup(ends(report)),
        curves=[(metric, Markup(curves(report, metric))) for metric in metrics],
        budgets=[(budget_title(budget), budget_rows(budget), Markup(budget_bars(budget))) for budget in report.budgets],
        machines=machine_rows(report),
        audit=audit_rows(report),
        native=[name for name, record in report.records.items() if is_native(record)],
        provenance=next(iter(report.records.values())),
    )


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
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
