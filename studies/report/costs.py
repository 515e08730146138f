"""Error against cost: what each datapath's multiply-adds cost by each table, and which datapaths nothing beats in both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from hwsim.catalogue import Catalogue
from hwsim.config import loads
from hwsim.costs import (
    TERMS,
    Cost,
    MultiplyAdd,
    Work,
    accumulator_bits,
    cost,
    cost_tables,
    moved_bits,
    multiply_adds,
    stored_bits,
    sums,
    work_cost,
)
from hwsim.datapaths import Datapath
from hwsim.errors import HwsimError

from ..choices import CostChoice
from ..store import Store
from .summary import Comparison, Report

FACTS = (
    "accumulator (bits)",
    f"exact sum of {TERMS} (bits)",
    "weights and optimizer states (bits)",
    "read and written by GEMMs (bits)",
)
TRAINING = ("forward", "loss", "backward", "recompute")


@dataclass(frozen=True)
class Costs:
    """One cost table's figures for a study.

    Args:
        name, unit, node, includes, source: of the table.
        values: by datapath, the cost of all multiply-adds of one training; none where a format is no integer or float.
        front: the datapaths that no other beats in both error and cost.
        turns: a sentence for each figure of the table on which the front depends.
    """

    name: str
    unit: str
    node: str
    includes: str
    source: str
    values: Mapping[str, float]
    front: frozenset[str]
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arithmetic:
    """What one training of a datapath computes and keeps.

    Args:
        work: its multiply-adds.
        stored: bits of parameters and optimizer states.
        moved: bits that its GEMMs read and write; None where the audit was stored without elements.
    """

    work: Work
    stored: float
    moved: float | None

    @property
    def widest(self) -> int | None:
        """Bits of its widest inner accumulator; None where a format has no such figure."""
        return self._most(lambda of: sums(of.unit, of.a, of.b, TERMS)[0][2])

    @property
    def exact(self) -> int | None:
        """Bits of the widest exact sum of 128 of its products; None where a format has no such figure."""
        return self._most(lambda of: accumulator_bits(of.a, of.b, TERMS))

    def _most(self, bits: Callable[[MultiplyAdd], int]) -> int | None:
        try:
            return max((bits(of) for of in self.work), default=None)
        except HwsimError:
            # A codebook or a posit: neither an integer nor a float.
            return None


def costs(report: Report) -> tuple[Costs, ...]:
    """The figures of every table that the study chooses; one axis each, never two tables on one."""
    work, error = {name: found.work for name, found in arithmetic(report).items()}, errors(report)
    found = []
    for name, table in chosen_tables(report).items():
        values = priced(table, work)
        front = pareto(error, values)
        turns = sensitivity(table, work, error)
        found.append(Costs(name, table.unit, table.node, table.includes, table.source, values, front, turns))
    return tuple(found)


def chosen_tables(report: Report) -> dict[str, Cost]:
    """The cost tables of a study by name: those it chooses, else the shipped ones."""
    given = report.study["report"].get("costs")
    if given is None:
        return {name: cost(name) for name in cost_tables()}
    chosen = [CostChoice.model_validate_json(json.dumps(one)) for one in given]
    return {one.name: one.table for one in chosen}


def arithmetic(report: Report) -> dict[str, Arithmetic]:
    """What one training of each datapath computes; not of those whose formats or units nobody knows any more."""
    store, found = Store(report.folder), {}
    catalogue = Catalogue.of(loads(report.index["file"], "study.yaml"))
    for name, record in report.records.items():
        rows = pq.read_table(store.runs / record["id"] / "audit.parquet").to_pylist()
        datapath = Datapath.model_validate_json(json.dumps(record["run"]["datapath"]))
        training = [row for row in rows if row["phase"] in TRAINING]
        try:
            work = multiply_adds(training, catalogue=catalogue, datapath=datapath)
            kept = stored_bits(rows, catalogue=catalogue, datapath=datapath)
            counted = all(row.get("elements") is not None for row in training)
            moved = moved_bits(training, catalogue=catalogue, datapath=datapath) if counted else None
            found[name] = Arithmetic(work, kept, moved)
        except HwsimError:
            # Two formats or units without a name read alike in the audit.
            continue
    return found


def priced(table: Cost, work: Mapping[str, Work]) -> dict[str, float]:
    """What each datapath's work costs, of those for whose formats the table has figures."""
    values = {}
    for datapath, own in work.items():
        try:
            values[datapath] = work_cost(table, own)
        except HwsimError:
            # A codebook or a posit: the table has no figure for it.
            continue
    return values


def sensitivity(table: Cost, work: Mapping[str, Work], errors: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence for each figure of a table that, halved or doubled, puts another datapath on the front."""
    front = pareto(errors, priced(table, work))
    found = []
    for (field, key), value in table.figures.items():
        for word, factor in (("half", 0.5), ("twice", 2.0)):
            other = pareto(errors, priced(table.with_figure((field, key), factor * value), work))
            joined, left = sorted(other - front), sorted(front - other)
            changes = [f"{', '.join(names)} would {verb} it" for names, verb in ((joined, "join"), (left, "leave")) if names]
            if changes:
                found.append(f"Were {key} ({field}, {value:g}) {word} what it is, {' and '.join(changes)}.")
    return tuple(found)


def errors(report: Report) -> dict[str, float]:
    """By datapath, what is to be small, at its best point: the metric, or one less it where more is better."""
    return {row.series.datapath: _error(report, row) for row in best_rows(report)}


def best_rows(report: Report) -> list[Comparison]:
    """The point with the smallest error of each datapath that finished any."""
    best: dict[str, Comparison] = {}
    for row in report.comparisons:
        known = best.get(row.series.datapath)
        if row.value.count and (known is None or _error(report, row) < _error(report, known)):
            best[row.series.datapath] = row
    return list(best.values())


def _error(report: Report, row: Comparison) -> float:
    return 1 - row.value.mean if _more_is_better(report) else row.value.mean


def pareto(errors: Mapping[str, float], values: Mapping[str, float]) -> frozenset[str]:
    """The names for which no other has at most the error and at most the cost, and less of one."""
    names = [name for name in values if name in errors]

    def beaten(name: str) -> bool:
        own = errors[name], values[name]
        others = ((errors[other], values[other]) for other in names)
        return any(other[0] <= own[0] and other[1] <= own[1] and other != own for other in others)

    return frozenset(name for name in names if not beaten(name))


def cost_rows(report: Report, found: Sequence[Costs]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: accumulators, storage, and what one training costs by each table; a star marks the front."""
    known, rows = arithmetic(report), []
    for row in best_rows(report):
        name = row.series.datapath
        own = known.get(name)
        facts = (own.widest, own.exact, own.stored, own.moved) if own else (None,) * len(FACTS)
        cells = [f"{table.values[name]:.3g}{' *' * (name in table.front)}" if name in table.values else "-" for table in found]
        rows.append([name, report.unit.number(row.value), *("-" if bits is None else f"{bits:.6g}" for bits in facts), *cells])
    return ["datapath", report.unit.label, *FACTS, *(f"{table.name} ({table.unit})" for table in found)], rows


def _more_is_better(report: Report) -> bool:
    return report.unit.percent
