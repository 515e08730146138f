"""The error budget of a datapath: what each role costs alone, what is left without it, and what only they cost together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from .statistics import Spread, Unit, paired

KNOWN = 3
"""Of so many roles, those alone and all but each are every set there is."""

if TYPE_CHECKING:
    from .summary import Series


@dataclass(frozen=True)
class BudgetRow:
    """One role.

    Args:
        role: where the machine rounds.
        alone: the change of the metric when it rounds there only, against no rounding.
        all_but: the change when it rounds everywhere else.
        interaction: the change of all, less `alone` and `all_but`: what the role and the others cost only together.
        share: Shapley's value of the role, which needs every set of roles; None with more than three of them.
    """

    role: str
    alone: Spread
    all_but: Spread
    interaction: Spread
    share: Spread | None


@dataclass(frozen=True)
class Budget:
    """The budget of one datapath for one metric, over seeds.

    Args:
        name: of the datapath, with the other axes' values.
        metric: which.
        epochs: how long its runs were trained.
        none: the metric of the full-precision twin.
        total: the change with all roles.
        rows: by role.
        left: the total less the sum of the roles alone.
    """

    name: str
    metric: str
    epochs: int
    none: Spread
    total: Spread
    rows: tuple[BudgetRow, ...]
    left: Spread

    @property
    def unit(self) -> Unit:
        """How changes of the metric are written."""
        return Unit.of(self.metric, [self.total, *(row.alone for row in self.rows), *(row.all_but for row in self.rows)])

    @property
    def headline(self) -> str:
        """Which role alone makes most of the change, where one does by more than its deviation over the seeds."""
        if not self.total.count:
            return ""
        change = self.unit.change
        text = f"{self.name} changes {self.metric} by {change(self.total)} after {self.epochs} epoch{'s' * (self.epochs != 1)}"
        alike = [row for row in self.rows if row.alone.count and row.alone.mean * self.total.mean > 0]
        clear = [row for row in alike if not abs(row.alone.mean) <= row.alone.deviation]
        if not clear:
            return f"{text}; no role alone does so by more than the seeds differ."
        most = max(clear, key=lambda row: abs(row.alone.mean))
        return f"{text}, most by its role {most.role} ({change(most.alone)} alone)."


def budgets(series: Sequence[Series], metrics: Sequence[str]) -> tuple[Budget, ...]:
    """The budgets among the series: one for each datapath, setting and metric."""
    groups: dict[tuple[str, str], dict[str, Series]] = {}
    for one in series:
        if one.part:
            groups.setdefault((one.datapath, json.dumps(one.settings, sort_keys=True)), {})[one.part] = one
    complete = [parts for parts in groups.values() if {"none", "all"} <= set(parts)]
    return tuple(_budget(parts, metric) for parts in complete for metric in metrics)


def _budget(parts: Mapping[str, Series], metric: str) -> Budget:
    values = {part: one.final(metric) for part, one in parts.items()}
    change = {part: paired(found, values["none"]) for part, found in values.items()}
    roles = [part.removeprefix("only ") for part in parts if part.startswith("only ")]
    rows = tuple(_row(role, roles, change) for role in roles)
    together = _sum([change[f"only {role}"] for role in roles])
    epochs = max((len(rows) for rows in parts["none"].rows.values()), default=0)
    return Budget(
        parts["all"].name,
        metric,
        epochs,
        Spread.of(values["none"].values()),
        Spread.of(change["all"].values()),
        rows,
        Spread.of(paired(change["all"], together).values()),
    )


def _row(role: str, roles: Sequence[str], change: Mapping[str, Mapping[int, float]]) -> BudgetRow:
    alone, others = change[f"only {role}"], change.get(f"all but {role}", {})
    interaction = paired(change["all"], _sum([alone, others]))
    share = Spread.of(_share(role, roles, change).values()) if len(roles) <= KNOWN else None
    return BudgetRow(role, Spread.of(alone.values()), Spread.of(others.values()), Spread.of(interaction.values()), share)


def _share(role: str, roles: Sequence[str], change: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """The mean, over all orders in which the roles come, of what this one adds to those before it."""
    gains = []
    for order in permutations(roles):
        before = frozenset(order[: order.index(role)])
        gains.append(paired(_of_set(before | {role}, roles, change), _of_set(before, roles, change)))
    return {seed: sum(gain[seed] for gain in gains) / len(gains) for seed in _sum(gains)}


def _of_set(chosen: frozenset[str], roles: Sequence[str], change: Mapping[str, Mapping[int, float]]) -> Mapping[int, float]:
    """The change of a set of at most three roles: none, one, all but one, or all of them."""
    missing = [role for role in roles if role not in chosen]
    if not missing:
        return change["all"]
    if not chosen:
        return dict.fromkeys(change["all"], 0.0)
    return change[f"only {next(iter(chosen))}"] if len(chosen) == 1 else change[f"all but {missing[0]}"]


def _sum(parts: Sequence[Mapping[int, float]]) -> dict[int, float]:
    seeds = set.intersection(*(set(part) for part in parts)) if parts else set()
    return {seed: sum(part[seed] for part in parts) for seed in sorted(seeds)}
