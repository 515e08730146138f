"""Error against cost: what each datapath's multiply-adds cost by each table, and which datapaths nothing beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from hwsim.costs import cost, cost_tables, gemm_cost
from hwsim.errors import HwsimError

from ..store import Store
from .summary import Comparison, Report

TRAINING = ("forward", "loss", "backward", "recompute")


@dataclass(frozen=True)
class Costs:
    """One cost table's figures for a study.

    Args:
        name, unit, node, includes, source: of the table.
        values: by datapath, the cost of all multiply-adds of one training; none where a format is no integer or float.
        front: the datapaths that no other beats in both error and cost.
    """

    name: str
    unit: str
    node: str
    includes: str
    source: str
    values: Mapping[str, float]
    front: frozenset[str]


def costs(report: Report) -> tuple[Costs, ...]:
    """The figures of every shipped table; one axis each, never two tables on one."""
    store = Store(report.folder)
    audits = {}
    for name, record in report.records.items():
        rows = pq.read_table(store.runs / record["id"] / "audit.parquet").to_pylist()
        audits[name] = [row for row in rows if row["phase"] in TRAINING]
    found = []
    for name in cost_tables():
        table = cost(name)
        values: dict[str, float] = {}
        for datapath, rows in audits.items():
            try:
                values[datapath] = gemm_cost(table, rows)
            except HwsimError:
                # A codebook or a posit: the table has no figure for it.
                continue
        front = pareto(errors(report), values)
        found.append(Costs(name, table.unit, table.node, table.includes, table.source, values, front))
    return tuple(found)


def errors(report: Report) -> dict[str, float]:
    """By datapath, what is to be small: the metric, or one less it where more is better."""
    found: dict[str, float] = {}
    for row in report.comparisons:
        if row.value.count:
            value = 1 - row.value.mean if _more_is_better(report) else row.value.mean
            found[row.series.datapath] = min(value, found.get(row.series.datapath, float("inf")))
    return found


def pareto(errors: Mapping[str, float], values: Mapping[str, float]) -> frozenset[str]:
    """The names for which no other has at most the error and at most the cost, and less of one."""
    names = [name for name in values if name in errors]

    def beaten(name: str) -> bool:
        own = errors[name], values[name]
        others = ((errors[other], values[other]) for other in names)
        return any(other[0] <= own[0] and other[1] <= own[1] and other != own for other in others)

    return frozenset(name for name in names if not beaten(name))


def cost_rows(report: Report, found: Sequence[Costs]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: what one training costs by each table; a star marks the front."""
    header = ["datapath", report.unit.label, *(f"{table.name} ({table.unit})" for table in found)]
    rows = []
    best: dict[str, Comparison] = {}
    for row in report.comparisons:
        best.setdefault(row.series.datapath, row)
    for name, row in best.items():
        cells = [f"{table.values[name]:.3g}{' *' * (name in table.front)}" if name in table.values else "-" for table in found]
        rows.append([name, report.unit.number(row.value), *cells])
    return header, rows


def _more_is_better(report: Report) -> bool:
    return report.unit.percent
