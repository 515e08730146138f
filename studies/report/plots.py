"""Plots as SVG texts that take the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..experiments import Plot
from .budgets import Budget
from .costs import Costs
from .statistics import Unit
from .summary import Comparison, Report, Series

INK = "#010203"
"""Stands for the page's text colour while a figure is drawn."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb7700", "#777777", "#009988", "#cc3311")
"""Paul Tol's bright scheme, and two more of his vibrant one (SRON technical note SRON/EPS/TN/09-002)."""

FACETS = 3
"""Panels in a row."""

STYLES: dict[str, tuple[str, str]] = {"line": ("-", "."), "dashes": ("--", ""), "dots": (":", ""), "points": ("", "o")}
WHISKER = {"ecolor": INK, "lw": 1}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def curves(report: Report, metric: str) -> str:
    """A metric on the test set by epoch: the mean over the seeds, and a band of one standard deviation.

    More series than there are colours are shown in panels of their own for all axes but the last one, on common scales.
    """
    name, unit = f"{metric} by epoch", Unit(metric)
    grid = tuple(series for series in report.grid if series.curve(metric))
    panels = facets(grid) if len(grid) > len(COLOURS) else {}
    if len(panels) < 2:
        size = _width(grid), max(3.6, 0.6 + 0.19 * len(grid))
        return _drawn(name, size, lambda figure: _curves(figure, grid, unit))
    rows = -(-len(panels) // FACETS)
    return _drawn(name, (3.2 * FACETS, 0.8 + 2.1 * rows), lambda figure: _small_multiples(figure, panels, rows, unit))


def facets(grid: Sequence[Series]) -> dict[str, dict[str, Series]]:
    """Series by the names of the panel and of the line: the values of all axes but the last, and of the last."""
    panels: dict[str, dict[str, Series]] = {}
    for series in grid:
        *others, last = series.settings.values() or [series.datapath]
        title = ", ".join(map(str, (series.datapath, *others) if series.settings else others))
        panels.setdefault(title, {})[str(last)] = series
    return panels


def ends(report: Report) -> str:
    """The metric after the last epoch: the mean over the seeds, its standard deviation, and a small dot for each seed."""
    rows = [row for row in report.comparisons if row.value.count]
    size = _width([row.series for row in rows]), 0.8 + 0.32 * len(rows)
    return _drawn(f"{report.metric} at the end", size, lambda figure: _ends(figure, rows, report.unit))


def _width(series: Sequence[Series]) -> float:
    """Inches: 7, and what names of more than 24 letters need."""
    return 7.0 + 0.065 * max((len(one.name) - 24 for one in series if len(one.name) > 24), default=0)


def budget_bars(budget: Budget) -> str:
    """The change that each role makes alone, and the one that is left without it."""
    height = 1.0 + 0.45 * (len(budget.rows) + 1)
    return _drawn(f"budget of {budget.name}, {budget.metric}", (7.0, height), lambda figure: _budget(figure, budget))


def experiment_plot(plot: Plot) -> str:
    """The panels of an experiment's plot, side by side in rows of two."""
    columns = min(len(plot.panels), 2)
    rows = -(-len(plot.panels) // 2)
    return _drawn(plot.caption, (7.0 if columns == 1 else 9.5, 3.6 * rows), lambda figure: _panels(figure, plot, rows, columns))


def front_plot(report: Report, costs: Costs) -> str:
    """The metric against one table's cost; a line joins the datapaths that no other beats in both."""
    name = f"{report.metric} against {costs.name}"
    return _drawn(name, (7.0, 3.6), lambda figure: _front(figure, report, costs))


def _front(figure: Figure, report: Report, costs: Costs) -> None:
    axes = figure.add_subplot()
    factor = report.unit.factor
    line = []
    for i, row in enumerate(report.comparisons):
        name = row.series.datapath
        if row.value.count and name in costs.values:
            x, y = costs.values[name], factor * row.value.mean
            error = 0.0 if math.isnan(row.value.deviation) else factor * row.value.deviation
            axes.errorbar(x, y, yerr=error, fmt="D" if name in costs.front else "o", color=COLOURS[i % len(COLOURS)], capsize=3)
            axes.annotate(row.series.name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8, color=INK)
            if name in costs.front:
                line.append((x, y))
    axes.plot(*zip(*sorted(line), strict=True) if line else ([], []), color=INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel(f"multiply-adds of one training, {costs.name} ({costs.unit}, {costs.node})")
    axes.set_ylabel(report.unit.label)


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
        axes.set_xscale("log" if panel.x_log else "linear")
        axes.set_yscale("log" if panel.y_log else "linear")
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.legend(fontsize=7, frameon=False)


def _curves(figure: Figure, grid: tuple[Series, ...], unit: Unit) -> None:
    axes = figure.add_subplot()
    for i, series in enumerate(grid):
        _curve(axes, series, series.name, i, unit)
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


def _ends(figure: Figure, rows: list[Comparison], unit: Unit) -> None:
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


def _drawn(name: str, size: tuple[float, float], draw: Any) -> str:
    # The salt makes the ids inside the SVG those of this plot alone, and the same in every report.
    with mpl.rc_context(cast(Any, STYLE | {"svg.hashsalt": name})):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_escaped(name)}"', 1).replace(INK, "currentColor")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
