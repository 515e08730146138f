"""The figures of comparisons, trainings, role budgets, costs and experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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


FACETS, MOST_PANELS = 3, 24
"""Panels in a row, and in all."""


def curves(report: Report, metric: str) -> Drawing:
    """A metric on the test set by epoch: the mean over the seeds, and a band of one standard deviation.

    More series than there are colours are shown in panels of their own for all axes but the last one, on common scales.
    """
    grid = tuple(series for series in report.grid if series.curve(metric))
    panels = facets(grid) if len(grid) > len(COLOURS) else {}
    name, caption = f"{metric} by epoch", f"{metric}: mean over the seeds, with one standard deviation."
    if 1 < len(panels) <= MOST_PANELS:
        rows = -(-len(panels) // FACETS)
        draw = partial(_small_multiples, panels=panels, rows=rows, unit=Unit(metric))
        return Drawing(name, (3.2 * FACETS, 0.8 + 2.1 * rows), draw, caption)
    series = [row.series for row in chosen(report.comparisons)]
    size = _width(series), max(3.6, 0.6 + 0.19 * len(series))
    return Drawing(name, size, partial(_curves, series=series, unit=Unit(metric)), caption + _left_out(report))


def facets(grid: Sequence[Series]) -> dict[str, dict[str, Series]]:
    """Series by the names of the panel and of the line: the values of all axes but the last, and of the last."""
    panels: dict[str, dict[str, Series]] = {}
    for series in grid:
        *others, last = series.settings.values() or [series.datapath]
        title = ", ".join(map(str, (series.datapath, *others) if series.settings else others))
        panels.setdefault(title, {})[str(last)] = series
    return panels


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
        if panel.places:
            axes.set_xticks(range(len(panel.places)), panel.places, rotation=30, ha="right")
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_title(panel.title, fontsize=8)
        axes.legend(fontsize=7, frameon=False)


def _curves(figure: Figure, series: Sequence[Series], unit: Unit) -> None:
    axes = figure.add_subplot()
    for i, one in enumerate(series):
        _curve(axes, one, one.name, i, unit)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def _curve(axes: Any, series: Series, label: str, number: int, unit: Unit) -> None:
    curve, factor = series.curve(unit.metric), unit.factor
    epochs = [epoch + 1 for epoch in curve]
    means = [factor * spread.mean for spread in curve.values()]
    widths = [0.0 if math.isnan(spread.deviation) else factor * spread.deviation for spread in curve.values()]
    colour, dashes = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
    axes.plot(epochs, means, dashes, marker=".", label=label, color=colour)
    low = [mean - width for mean, width in zip(means, widths, strict=True)]
    high = [mean + width for mean, width in zip(means, widths, strict=True)]
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _small_multiples(figure: Figure, panels: Mapping[str, Mapping[str, Series]], rows: int, unit: Unit) -> None:
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    grid = [*figure.subplots(rows, FACETS, sharex=True, sharey=True, squeeze=False).flat]
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for label, series in lines.items():
            _curve(axes, series, label, labels.index(label), unit)
        axes.set_title(title, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch")
    figure.supylabel(unit.label)
    shown = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=".", label=label) for i, label in enumerate(labels)]
    figure.legend(handles=shown, loc="outside upper center", ncols=min(len(shown), 5), frameon=False)


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
