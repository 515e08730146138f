"""A report as tables for the terminal and for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..experiments import Table as Facts
from .budgets import Budget
from .experiments import ExperimentReport
from .statistics import Spread, Unit
from .summary import Report

LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"} | {"±": "$\\pm$", "\\": "\\textbackslash{}"})
VOLATILE = ("seconds", "started", "host")

AnyReport = Report | ExperimentReport


def as_tables(report: AnyReport) -> Iterable[RenderableType]:
    """The headline and the tables, for the terminal."""
    yield escape(report.headline)
    for table in tables(report):
        yield _table(table.title, table.header, table.rows)


def tables(report: AnyReport) -> list[Facts]:
    """The tables of an experiment, or the comparison and the budgets of trainings."""
    if isinstance(report, ExperimentReport):
        return [*report.section.tables]
    title = f"{report.study['name']}: {report.metric} over {len(report.study['seeds'])} seeds"
    budgets = [Facts(budget_title(budget), *budget_rows(budget)) for budget in report.budgets]
    others = [Facts(f"{each['title']} ({each['source']})", each["header"], each["rows"]) for each in published(report)]
    return [Facts(title, *comparison_rows(report)), *others, *budgets]


def published(report: Report) -> Sequence[Mapping[str, Any]]:
    """What others measured, as the study quotes it; studies that were stored before they could quote have nothing."""
    found: Sequence[Mapping[str, Any]] = report.study["report"].get("published", ())
    return found


def comparison_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the comparison table, as text."""
    unit, baseline = report.unit, report.study["baseline"]
    loss_unit = Unit.of("test_loss", (row.loss for row in report.comparisons))
    header = ["datapath", unit.label, *([f"less {baseline}'s"] if baseline else []), "test loss", "diverged", "seconds"]
    rows = []
    for row in report.comparisons:
        difference = [unit.number(row.difference, "+") if row.difference else ""] if baseline else []
        diverged = f"{row.series.diverged} of {len(row.series.rows)}"
        loss, seconds = loss_unit.number(row.loss), f"{row.series.seconds.mean:.1f}"
        rows.append([row.series.name, unit.number(row.value), *difference, loss, diverged, seconds])
    return header, rows


def budget_title(budget: Budget) -> str:
    """What a budget is of."""
    value = Unit.of(budget.metric, [budget.none]).value(budget.none)
    epochs = f"{budget.epochs} epoch" + "s" * (budget.epochs != 1)
    return f"Error budget of {budget.name}: change of {budget.unit.change_label}, from {value} without rounding, after {epochs}"


def budget_rows(budget: Budget) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a budget, as text."""
    number = budget.unit.number
    shared = all(row.share is not None for row in budget.rows)
    rows = []
    for row in budget.rows:
        spreads = (row.alone, row.all_but, row.interaction, *([row.share] if shared and row.share else []))
        rows.append([row.role, *(number(spread, "+") for spread in spreads)])
    total = number(budget.total, "+")
    rows.append(["all", total, "", number(budget.left, "+"), *([total] if shared else [])])
    return ["role", "alone", "all but it", "interaction", *(["share"] if shared else [])], rows


def as_csv(report: AnyReport, volatile: bool = False) -> str:
    """One line for each run of the grid and the budgets, with its last epoch, or for each row of an experiment.

    The text is the same for the same results; `volatile` adds what may differ each time: seconds, start and host of trainings.
    """
    return csv_text(records(report, VOLATILE if volatile else ()))


def records(report: AnyReport, more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What `as_csv` writes, as mappings, with `more` columns of trainings."""
    return _experiment_rows(report) if isinstance(report, ExperimentReport) else _run_rows(report, more)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mappings as CSV, with a column for every key that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(name) for name in columns] for row in rows)
    return stream.getvalue()


def _experiment_rows(report: ExperimentReport) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "name"} for row in report.rows]


def _run_rows(report: Report, more: Sequence[str]) -> list[dict[str, Any]]:
    axes = list(dict.fromkeys(axis for series in report.series for axis in series.settings))
    found = []
    for series in report.series:
        settings = {axis: series.settings.get(axis) for axis in axes}
        for seed, rows in sorted(series.rows.items()):
            last = rows[-1]
            run = {key: last[key] for key in ("id", "status", "steps", "epoch")}
            metrics = {name: last.get(name) for name in (*report.metrics, *more)}
            found.append({"datapath": series.datapath, "part": series.part, **settings, "seed": seed, **run, **metrics})
    return found


def as_json(report: AnyReport) -> str:
    """Headline, and an experiment's tables, or comparison and budgets; what is no number is null."""
    found = _experiment(report) if isinstance(report, ExperimentReport) else _trainings(report)
    whole = {"study": report.study["name"], "headline": report.headline, **found, "missing": report.missing}
    return json.dumps(whole, indent=1, allow_nan=False)


def _experiment(report: ExperimentReport) -> dict[str, Any]:
    found = [
        {"title": table.title, "header": list(table.header), "rows": [list(row) for row in table.rows]}
        for table in tables(report)
    ]
    return {"experiment": report.study["experiment"], "tables": found}


def _trainings(report: Report) -> dict[str, Any]:
    comparison = [
        {
            "datapath": row.series.datapath,
            "settings": row.series.settings,
            report.metric: _spread(row.value),
            "difference": _spread(row.difference) if row.difference else None,
            "test_loss": _spread(row.loss),
            "diverged": row.series.diverged,
            "values": {seed: row.series.final(report.metric).get(seed) for seed in sorted(row.series.rows)},
        }
        for row in report.comparisons
    ]
    budgets = [
        {
            "datapath": budget.name,
            "metric": budget.metric,
            "none": _spread(budget.none),
            "all": _spread(budget.total),
            "left": _spread(budget.left),
            "roles": {
                row.role: {
                    "alone": _spread(row.alone),
                    "all_but": _spread(row.all_but),
                    "interaction": _spread(row.interaction),
                    "share": _spread(row.share) if row.share else None,
                }
                for row in budget.rows
            },
        }
        for budget in report.budgets
    ]
    return {"metric": report.metric, "baseline": report.study["baseline"], "comparison": comparison, "budgets": budgets}


def as_latex(report: AnyReport) -> str:
    """The tables as `tabular`s for the booktabs package."""
    return "\n".join(tabular(table.header, table.rows) for table in tables(report))


def tabular(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table as a `tabular`."""
    lines = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    body = "\n".join(lines[1:])
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="right" if i else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _spread(spread: Spread) -> dict[str, Any]:
    numbers = {"mean": spread.mean, "deviation": spread.deviation}
    return {**{name: value if math.isfinite(value) else None for name, value in numbers.items()}, "seeds": spread.count}
