"""A report as files of its own: figures as SVG and PDF, tables as CSV, JSON, LaTeX and Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hwsim.budgets.table import finite

from ..disk import write_file
from ..experiments import Table as Facts
from .costs import cost_rows, costs
from .experiments import ExperimentReport
from .page import audit_rows, drawings
from .sites import site_records, site_rows
from .summary import Report
from .texts import AnyReport, csv_text, records, tables, tabular

FOLDER = "report"


def write_files(report: AnyReport) -> Path:
    """Write every figure and table into the folder `report` beside the page, and say where it is.

    Tables of the page are written as it shows them (`.tex`); their numbers as `.csv`, `.json` and `.parquet`.

    Raises:
        OSError: it cannot be written.
    """
    folder = report.folder / FOLDER
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for drawing in drawings(report):
        for suffix in ("svg", "pdf"):
            drawing.save(folder / "figures" / f"{drawing.slug}.{suffix}")
    for name, rows in _data(report).items():
        _write_rows(folder / "tables" / name, rows)
    for name, table in _texts(report).items():
        write_file(folder / "tables" / f"{name}.tex", tabular(table.header, table.rows))
    return folder


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_file(path.with_suffix(".csv"), csv_text(rows))
    write_file(path.with_suffix(".json"), json.dumps(finite(list(rows)), indent=1, allow_nan=False))
    pq.write_table(pa.Table.from_pylist([_plain(row) for row in rows]), path.with_suffix(".parquet"))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose cells are numbers, texts, truth values or nothing."""
    return {key: v if isinstance(v, bool | int | float | str | None) else str(v) for key, v in row.items()}


def _data(report: AnyReport) -> dict[str, list[dict[str, Any]]]:
    if isinstance(report, ExperimentReport):
        return {"rows": [_plain(row) for row in records(report)]}
    header, audit = audit_rows(report)
    found = {
        "runs": records(report),
        "comparison": [_compared(report, i) for i in range(len(report.comparisons))],
        "costs": [
            {"datapath": name, "table": table.name, "unit": table.unit, "cost": value, "on_the_front": name in table.front}
            for table in costs(report)
            for name, value in table.values.items()
        ],
        "roles": [
            {"datapath": budget.name, "metric": budget.metric, "role": row.role, **{key: spread.mean for key, spread in parts}}
            for budget in report.budgets
            for row in budget.rows
            for parts in ([("alone", row.alone), ("all_but", row.all_but), ("interaction", row.interaction)],)
        ],
        "sites": site_records(report.steps),
        "audit": [dict(zip(header, row, strict=True)) for row in audit],
    }
    return {name: rows for name, rows in found.items() if rows}


def _compared(report: Report, number: int) -> dict[str, Any]:
    row = report.comparisons[number]
    change = row.difference
    return {
        "datapath": row.series.datapath,
        **row.series.settings,
        "metric": report.metric,
        "mean": row.value.mean,
        "deviation": row.value.deviation,
        "seeds": row.value.count,
        "difference": change.mean if change else None,
        "difference_deviation": change.deviation if change else None,
        "test_loss": row.loss.mean,
        "diverged": row.series.diverged,
    }


def _texts(report: AnyReport) -> dict[str, Facts]:
    if isinstance(report, ExperimentReport):
        return {f"table-{i}": table for i, table in enumerate(tables(report), 1)}
    first, *budgets = tables(report)
    found = {"comparison": first, **{f"roles-{i}": table for i, table in enumerate(budgets, 1)}}
    found["costs"] = Facts("costs", *cost_rows(report, costs(report)))
    if report.steps:
        found["sites"] = Facts("sites", *site_rows(report.steps))
    return found
