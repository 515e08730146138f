"""The figures of comparisons, trainings, role budgets, costs and experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..experiments import Plot
from .budgets import Budget
from .costs import Costs, best_rows
from .drawing import COLOURS, INK, Drawing
from .statistics import Unit
from .summary import Comparison, Report, Series

STYLES: dict[str, tuple[str, str]] = {"line": ("-", "."), "dashes": ("--", ""), "dots": (":", ""), "points": ("", "o")}
WHISKER = {"ecolor": INK, "lw": 1}
SHOWN = 24
"""Lines at most in one plot."""


def curves(report: Report, metric: str) -> Drawing:
    """A metric on the test set by epoch: the mean over the seeds, and a band of one standard deviation."""
    series = [row.series for row in chosen(report.comparisons)]
    size = _width(series), max(3.6, 0.6 + 0.19 * len(series))
    caption = f"{metric}: mean over the seeds, with one standard deviation.{_left_out(report)}"
    return Drawing(f"{metric} by epoch", size, partial(_curves, series=series, unit=Unit(metric)), caption)


def ends(report: Report) -> Drawing:
    """The metric after the last epoch: the mean over the seeds, its standard deviation, and a small dot for each seed."""
    rows = [row for row in chosen(report.comparisons) if row.value.count]
    size = _width([row.series for row in rows]), 0.8 + 0.32 * len(rows)
    caption = f"{report.metric} after the last epoch: diamonds are means, lines one standard deviation, dots the seeds."
    draw = partial(_ends, rows=rows, unit=report.unit)
    return Drawing(f"{report.metric} at the end", size, draw, caption + _left_out(report))


def chosen(rows: Sequence[Comparison]) -> list[Comparison]:
    """As many rows as a plot can show, in their order: of more the first, and those at the two ends of the ranking."""
    if len(rows) <= SHOWN:
        return list(rows)
    ranked = sorted((row for row in rows[1:] if row.value.count), key=lambda row: row.value.mean)
    half = (SHOWN - 1) // 2
    kept = [rows[0], *ranked[:half], *ranked[-half:]]
    return [row for row in rows if any(row is one for one in kept)]


def _left_out(report: Report) -> str:
    count = len(report.comparisons)
    return f" Of {count} points the first is shown, and those at the two ends of the ranking." if count > SHOWN else ""


def _width(series: Sequence[Series]) -> float:
    """Inches: 7, and what names of more than 24 letters need."""
    return 7.0 + 0.065 * max((len(one.name) - 24 for one in series if len(one.name) > 24), default=0)


def budget_bars(budget: Budget) -> Drawing:
    """The change that each role makes alone, and the one that is left without it."""
    height = 1.0 + 0.45 * (len(budget.rows) + 1)
    return Drawing(f"budget of {budget.name}, {budget.metric}", (7.0, height), partial(_budget, budget=budget))


def experiment_plot(plot: Plot) -> Drawing:
    """The panels of an experiment's plot, side by side in rows of two."""
    columns = min(len(plot.panels), 2)
    rows = -(-len(plot.panels) // 2)
    draw = partial(_panels, plot=plot, rows=rows, columns=columns)
    return Drawing(plot.caption, (7.0 if columns == 1 else 9.5, 3.6 * rows), draw, plot.caption)


def front_plot(report: Report, costs: Costs) -> Drawing:
    """The metric against one table's cost; a line joins the datapaths that no other beats in both."""
    name = f"{report.metric} against {costs.name}"
    caption = f"{costs.name}: {costs.includes}. {costs.source}."
    return Drawing(name, (7.0, 3.6), partial(_front, report=report, costs=costs), caption)


def _front(figure: Figure, report: Report, costs: Costs) -> None:
    axes = figure.add_subplot()
    factor = report.unit.factor
    line = []
    shown = {id(row) for row in chosen(report.comparisons)} | {id(row) for row in best_rows(report)}
    for i, row in enumerate(report.comparisons):
        name = row.series.datapath
        if id(row) not in shown:
            continue
        if row.value.count and name in costs.values:
            x, y = costs.values[name], factor * row.value.mean
            error = 0.0 if math.isnan(row.value.deviation) else factor * row.value.deviation
            axes.errorbar(x, y, yerr=error, fmt="D" if name in costs.front else "o", color=COLOURS[i % len(COLOURS)], capsize=3)
            axes.annotate(row.series.name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8, color=INK)
            if name in costs.front:
                line.append((x, y))
    axes.plot(*zip(*sorted(line), strict=True) if line else ([], []), color=INK, linewidth=0.8, linestyle="--")
    logarithmic(axes, "x")
    axes.set_xlabel(f"multiply-adds of one training, {costs.name} ({costs.unit}, {costs.node})")
    axes.set_ylabel(report.unit.label)


def logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with ticks in plain text: matplotlib's own are formulas."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = sorted(getattr(axes, f"get_{name}lim")())
    subs = (1.0, 2.0, 5.0) if low > 0 and high < 300 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _panels(figure: Figure, plot: Plot, rows: int, columns: int) -> None:
    for number, panel in enumerate(plot.panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        for i, line in enumerate(panel.lines):
            form, marker = STYLES[line.style]
            colour = COLOURS[(i if line.colour is None else line.colour) % len(COLOURS)]
            options: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": form, "markersize": 4, "label": line.label}
            if line.errors:
                axes.errorbar(line.x, line.y, yerr=line.errors, capsize=2, **options)
            else:
                axes.plot(line.x, line.y, **options)
        if panel.x_log:
            logarithmic(axes, "x")
        if panel.y_log:
            logarithmic(axes, "y")
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.legend(fontsize=7, frameon=False)


def _curves(figure: Figure, series: Sequence[Series], unit: Unit) -> None:
    axes = figure.add_subplot()
    factor = unit.factor
    for i, one in enumerate(series):
        curve = one.curve(unit.metric)
        epochs = [epoch + 1 for epoch in curve]
        means = [factor * spread.mean for spread in curve.values()]
        widths = [0.0 if math.isnan(spread.deviation) else factor * spread.deviation for spread in curve.values()]
        dashes = ("-", "--", ":")[i // len(COLOURS) % 3]
        (line,) = axes.plot(epochs, means, dashes, marker=".", label=one.name)
        low = [mean - width for mean, width in zip(means, widths, strict=True)]
        high = [mean + width for mean, width in zip(means, widths, strict=True)]
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def _ends(figure: Figure, rows: Sequence[Comparison], unit: Unit) -> None:
    axes = figure.add_subplot()
    factor = unit.factor
    for i, row in enumerate(rows):
        error = 0.0 if math.isnan(row.value.deviation) else factor * row.value.deviation
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(factor * row.value.mean, i, xerr=error, color=colour, fmt="D", markersize=7, elinewidth=2, capsize=4)
        values = [factor * value for value in row.series.final(unit.metric).values()]
        axes.plot(values, [i + 0.25] * len(values), "o", color=colour, markersize=3)
    axes.set_yticks(range(len(rows)), [row.series.name for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", color=INK, alpha=0.15)
    axes.set_xlabel(unit.label)


def _budget(figure: Figure, budget: Budget) -> None:
    axes = figure.add_subplot()
    factor = budget.unit.factor
    for i, row in enumerate(budget.rows):
        for offset, spread, colour in ((-0.18, row.alone, COLOURS[0]), (0.18, row.all_but, COLOURS[1])):
            if spread.count:
                error = 0.0 if math.isnan(spread.deviation) else factor * spread.deviation
                axes.barh(i + offset, factor * spread.mean, xerr=error, color=colour, height=0.34, error_kw=WHISKER)
    if budget.total.count:
        axes.barh(len(budget.rows), factor * budget.total.mean, color=COLOURS[2], height=0.5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(budget.rows) + 1), [*(row.role for row in budget.rows), "all"])
    axes.invert_yaxis()
    axes.set_xlabel(f"change of {budget.unit.change_label}: blue alone, red all but it, green all")
