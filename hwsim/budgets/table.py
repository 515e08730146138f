"""The error budget as a table: one row for each cause of each cast, the sums, and the sentence that says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import hypot, isfinite, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from .causes import Facts
from .metrics import METRICS, spread

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

TOTAL = "all"
SHOWN = 20
MEANS = ("measured", "predicted", "all_but", *METRICS)
Judge = Literal["loss", "step_loss", "risk"]
JUDGED: dict[Judge, str] = {"loss": "the batch's loss", "step_loss": "its loss after the step", "risk": "the excess risk"}
"""What a change is the change of, in words."""


@dataclass(frozen=True)
class Row:
    """One cause of one cast.

    Args:
        datapath: the machine.
        site, gemm, role: where; without a site, all sites together.
        cause: `all` for the whole cast, else one of its causes.
        measured: the change of the loss, mean over seeds and draws: of the batch for what acts in the forward pass, of the same
            batch after the step elsewhere.
        predicted: the same from gradients; NaN where nothing is predicted.
        noise: the standard deviation of `measured` over seeds and stochastic draws.
        cast: what is declared there.
        part: empty for one place; for places together `all`, `only X` and `all but X` with X a role, `GEMM ...`, `layer ...` or
            `site ...`, `share of ROLE` (Shapley's), or `interaction`: `all` less the sum of the places alone. `all` and
            `interaction` are there `, after the step` too.
        sqnr: of the model's scores in dB; of forward casts.
        cosine: between the gradients with and without the cast.
        gradient_error, gradient_bias: of those gradients, |g' - g| / |g| and sum(g' - g) / sum |g|.
        update_error: |u' - u| / |u| of what the steps add to the weights.
        interval: half the width of the confidence interval (95 %, Student's t) of `measured` over seeds and draws; NaN for a
            single one.
        all_but: the change with all places but this one, NaN where there is no other.
        judged_by: what `measured` is the change of: the batch's `loss`, `step_loss`, or the excess `risk` of linear regression.
        step_loss: the change of the loss after the step.
        accuracy: the change of the share of targets that have the highest score; of forward casts and class numbers.
        intervals: half the widths of the confidence intervals of these metrics, by name.

    Metrics are NaN for single causes.
    """

    datapath: str
    site: str
    gemm: str
    role: str
    cause: str
    measured: float
    predicted: float
    noise: float
    cast: str = ""
    part: str = ""
    sqnr: float = nan
    cosine: float = nan
    gradient_error: float = nan
    gradient_bias: float = nan
    update_error: float = nan
    interval: float = nan
    all_but: float = nan
    judged_by: Judge = "loss"
    step_loss: float = nan
    accuracy: float = nan
    intervals: Mapping[str, float] = field(default_factory=dict)

    def of(self, judge: Judge) -> float:
        """The change of one of the two losses."""
        return self.measured if judge == self.judged_by else self.step_loss if judge == "step_loss" else nan

    @property
    def name(self) -> str:
        """Where it is, in words."""
        return " ".join(text for text in (self.site, self.gemm, self.role, self.part) if text)


@dataclass(frozen=True)
class Budget:
    """The error budget of one step.

    Args:
        datapath: the machine.
        rows: of each place its whole cast, the largest change first, each followed by its causes.
        totals: of places together: `all`, `only` and `all but` each role, GEMM, layer and site, and the interaction left over.
        loss, after: of the twin that rounds nowhere: of the batch (of linear regression the excess risk), and of the same batch
            after the step.
        facts: by port, what went through it.
        accuracy: of the twin, on the batch; NaN where the targets are no class numbers.
    """

    datapath: str
    rows: tuple[Row, ...]
    totals: tuple[Row, ...]
    loss: float
    after: float
    facts: Mapping[str, Facts] = field(default_factory=dict)
    accuracy: float = nan

    @property
    def places(self) -> tuple[Row, ...]:
        """The rows of whole casts."""
        return tuple(row for row in self.rows if row.cause == TOTAL)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of measured and predicted over whole casts that change the batch's loss; NaN below three."""
        return self._rank_correlation("loss")

    @property
    def rank_correlation_after_step(self) -> float:
        """The same over whole casts that are judged by the loss after the step."""
        return self._rank_correlation("step_loss")

    def _rank_correlation(self, judge: Judge) -> float:
        rows = [row for row in self.places if row.judged_by == judge]
        pairs = [(row.measured, row.predicted) for row in rows if isfinite(row.measured) and isfinite(row.predicted)]
        return spearman([m for m, _ in pairs], [p for _, p in pairs])

    def part(self, name: str) -> Row:
        """The total of a name, such as `all`."""
        return next(row for row in self.totals if row.part == name)

    @property
    def headline(self) -> str:
        """The answer in two sentences."""
        if not isfinite(self.loss):
            return f"{self.datapath}: the loss of this batch is {self.loss} without any rounding; there is no error to split."
        total = self.part("all")
        subjects: dict[Judge, tuple[str, float]] = {
            "loss": ("the loss of this batch", self.loss),
            "step_loss": ("the loss of this batch after the step", self.after),
            "risk": (JUDGED["risk"], self.loss),
        }
        what, base = subjects[total.judged_by]
        text = f"{self.datapath} changes {what} by {total.measured:+.3g} (from {base:.4g})"
        if not self.places:
            return f"{text}: it rounds nowhere."
        most = self.places[0]
        text += f"; alone, {most.name} changes {JUDGED[most.judged_by]} most ({most.measured:+.3g})."
        ranks = [f"{rho:.3f} for {JUDGED[judge]}" for judge in JUDGED if isfinite(rho := self._rank_correlation(judge))]
        return f"{text} Predicted and measured changes have the rank correlation {' and '.join(ranks)}." if ranks else text

    def to_json(self) -> str:
        """`as_dict` as text; what is no number is null."""
        return json.dumps(finite(self.as_dict()), indent=1, allow_nan=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Budget:
        """The budget that `to_json` has written."""
        rows, totals = ([_row_of(row) for row in data[name]] for name in ("rows", "totals"))
        facts = {port: _facts_of(found) for port, found in data["facts"].items()}
        numbers = (data.get(name) for name in ("loss", "loss_after_step", "accuracy"))
        loss, after, accuracy = (nan if number is None else number for number in numbers)
        return cls(data["datapath"], tuple(rows), tuple(totals), loss, after, facts, accuracy)

    def as_dict(self) -> dict[str, Any]:
        """`{"rows": [...], "totals": [...], ...}`."""
        return {
            "datapath": self.datapath,
            "headline": self.headline,
            "loss": self.loss,
            "loss_after_step": self.after,
            "accuracy": self.accuracy,
            "rank_correlation": self.rank_correlation,
            "rank_correlation_after_step": self.rank_correlation_after_step,
            "rows": [asdict(row) for row in self.rows],
            "totals": [asdict(row) for row in self.totals],
            "facts": {port: asdict(found) for port, found in self.facts.items()},
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The headline, the totals but those of layers and sites, and the largest rows."""
        from rich.markup import escape

        yield escape(self.headline)
        yield _table(
            f"{self.datapath}: places together",
            [row for row in self.totals if not any(word in row.part for word in (" layer ", " site "))],
        )
        more = f" (the {SHOWN} largest of {len(self.places)})" if len(self.places) > SHOWN else ""
        yield _table(f"{self.datapath}: each cast alone{more}", self.places[:SHOWN], self.rows)


def _row_of(data: Mapping[str, Any]) -> Row:
    values: dict[str, Any] = {key: nan if value is None else value for key, value in data.items()}
    return Row(**values)


def _facts_of(data: Mapping[str, Any]) -> Facts:
    numbers: dict[str, Any] = {key: nan if value is None else value for key, value in data.items()}
    exponents = {int(exponent): count for exponent, count in data["exponents"].items()}
    return Facts(**numbers | {"exponents": exponents, "causes": tuple(data["causes"]), "range": tuple(data["range"])})


def merged(budgets: Sequence[Budget]) -> Budget:
    """One budget of several of the same machine, from models of different seeds: means, and their spread as noise."""
    if len(budgets) == 1:
        return budgets[0]
    first = budgets[0]
    groups = [
        _merged([{_key(row): row for row in one.rows} for one in budgets]),
        _merged([{_key(r): r for r in one.totals} for one in budgets]),
    ]
    whole = {row.name: abs(row.measured) for row in groups[0] if row.cause == TOTAL}
    rows = sorted(groups[0], key=lambda row: -whole[row.name])
    loss, after, accuracy = (fmean(getattr(one, name) for one in budgets) for name in ("loss", "after", "accuracy"))
    return Budget(first.datapath, tuple(rows), tuple(groups[1]), loss, after, first.facts, accuracy)


def _merged(tables: Sequence[Mapping[tuple[str, ...], Row]]) -> list[Row]:
    found = []
    for key, row in tables[0].items():
        rows = [table[key] for table in tables if key in table]
        means: dict[str, Any] = {name: fmean(getattr(one, name) for one in rows) for name in MEANS}
        _, deviation, interval = spread([one.measured for one in rows])
        noise = hypot(deviation, fmean(one.noise for one in rows))
        halves = {name: spread([getattr(one, name) for one in rows])[2] for name in METRICS}
        intervals = {name: half for name, half in halves.items() if isfinite(half)}
        found.append(replace(row, **means, noise=noise, interval=interval, intervals=intervals))
    return found


def _key(row: Row) -> tuple[str, ...]:
    return row.site, row.gemm, row.role, row.cause, row.part


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN below three pairs or without variation."""
    if len(a) < 3:
        return nan
    x, y = _ranks(a), _ranks(b)
    mean = (len(a) - 1) / 2
    cross = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    norm = (sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y)) ** 0.5
    return cross / norm if norm else nan


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + end - 1) / 2
        start = end
    return ranks


def finite(value: Any) -> Any:
    """Data in which every number that is not finite is None."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _table(title: str, rows: Sequence[Row], everything: Sequence[Row] = ()) -> RichTable:
    from rich.markup import escape
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left")
    columns = ("where", "change of", "measured", "± 95 %", "noise", "predicted", *(("mostly",) if everything else ()))
    for name in columns:
        table.add_column(name, justify="left" if name in ("where", "change of", "mostly") else "right")
    for row in rows:
        numbers = [_number(row.measured), _size(row.interval), _size(row.noise), _number(row.predicted)]
        causes = [r for r in everything if (r.site, r.gemm, r.role) == (row.site, row.gemm, row.role) and r.cause != TOTAL]
        mostly = [max(causes, key=lambda r: abs(r.measured)).cause if causes else ""] if everything else []
        table.add_row(escape(row.name), row.judged_by.replace("_", " "), *numbers, *mostly)
    return table


def _number(value: float) -> str:
    return f"{value:+.3e}" if isfinite(value) else "-"


def _size(value: float) -> str:
    return f"{value:.1e}" if isfinite(value) else "-"
