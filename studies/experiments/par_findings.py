"""What the regressions with piecewise-affine regularizers found: tables, plots and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from .experiment import Line, Panel, Plot, Section, Table
from .words import number, percent


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Rates with their bound, errors on logarithmic axes, and convergence."""
    kinds = ("rate", "zero slope", "flat pieces", "repeated columns", "error", "objective", "starts")
    rates, flat, stepped, twice, errors, gaps, starts = ([row for row in found if row["kind"] == kind] for kind in kinds)
    tables = [_rate_table(rates, flat, stepped, twice), _start_table(starts), _error_table(errors), _gap_table(gaps)]
    plots = [
        Plot("Quantization rate against n/d, with the bound 1 - n/d.", _rate_panels(rates)),
        Plot("Estimation error against n.", _error_panels(errors)),
        Plot("Objective above its minimum.", [_gap_panel(gaps)]),
    ]
    return Section(_headline(rates, flat, stepped, twice, errors, gaps, starts), tables, plots)


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    return fmean(row[column] for row in rows)


def _grouped(rows: Sequence[Mapping[str, Any]], *columns: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _rate_table(rates: Sequence[Mapping[str, Any]], *exceptions: Sequence[Mapping[str, Any]]) -> Table:
    lines, (flat, stepped, twice) = [], exceptions
    for (family, share, strength), group in _grouped(rates, "family", "share", "strength").items():
        least = percent(min(row["least"] for row in group))
        lines.append([family, number(share), number(strength), percent(_mean(group, "rate")), least, percent(group[0]["bound"])])
    names = ("convex, a zero slope", "quasi-convex, flat pieces", "convex, each column twice")
    for name, members, given in zip(names, (flat, stepped, twice), ("0.1", "0.1", ""), strict=True):
        if members:
            least = percent(min(row["least"] for row in members))
            strength = given or number(members[0]["strength"])
            lines.append([name, number(members[0]["share"]), strength, percent(_mean(members, "rate")), least, "none"])
    return Table("Quantization rates", ["family", "n/d", "lambda", "mean", "least", "bound"], lines)


def _start_table(starts: Sequence[Mapping[str, Any]]) -> Table:
    lines = []
    for (family, strength), group in _grouped(starts, "family", "strength").items():
        rates = [percent(_mean(group, "rate")), percent(min(row["least"] for row in group)), percent(group[0]["bound"])]
        violation = number(max(row["violation"] for row in group))
        points = f"{_mean(group, 'points'):.1f} of {group[0]['starts']}"
        lines.append([family, number(strength), points, *rates, percent(_mean(group, "spread")), violation])
    header = [
        "family",
        "lambda",
        "distinct points",
        "mean rate",
        "least",
        "bound",
        "worst objective above best",
        "not critical by",
    ]
    return Table(f"Critical points from several starts, n/d = {number(starts[0]['share'])}", header, lines)


def _error_table(errors: Sequence[Mapping[str, Any]]) -> Table:
    lines = []
    for (penalty, method, n), group in _grouped(errors, "penalty", "method", "n").items():
        numbers = [number(_mean(group, "error")), number(_mean(group, "prediction")), percent(_mean(group, "rate"))]
        lines.append([penalty, method, str(n), *numbers])
    return Table(
        "Errors against the truth", ["penalty", "method", "n", "estimation error", "prediction error", "on a level"], lines
    )


def _gap_table(gaps: Sequence[Mapping[str, Any]]) -> Table:
    groups = _grouped(gaps, "solver", "iterations")
    lines = [[solver, str(iterations), number(_mean(group, "gap"))] for (solver, iterations), group in groups.items()]
    return Table("Objective above its minimum", ["solver", "iterations", "gap"], lines)


def _rate_panels(rates: Sequence[Mapping[str, Any]]) -> list[Panel]:
    panels = []
    for (strength,), members in _grouped(rates, "strength").items():
        lines = []
        for (family,), group in _grouped(members, "family").items():
            by_share = _grouped(group, "share")
            shares = [share for (share,) in by_share]
            lines.append(Line(family, shares, [min(row["least"] for row in group) for group in by_share.values()]))
        lines.append(Line("1 - n/d", lines[0].x, [1 - share for share in lines[0].x], "dots"))
        panels.append(Panel(f"lambda = {strength:g}", "n / d", "least rate", lines))
    return panels


def _error_panels(errors: Sequence[Mapping[str, Any]]) -> list[Panel]:
    panels = []
    for (penalty,), members in _grouped(errors, "penalty").items():
        lines = []
        for (method,), group in _grouped(members, "method").items():
            means = {n: _mean(rows, "error") for (n,), rows in _grouped(group, "n").items()}
            shown = {n: mean for n, mean in means.items() if mean > 0}
            lines.append(Line(method, list(shown), list(shown.values())))
        panels.append(Panel(penalty, "observations", "estimation error", lines, x_log=True, y_log=True))
    return panels


def _gap_panel(gaps: Sequence[Mapping[str, Any]]) -> Panel:
    lines = []
    for (solver,), members in _grouped(gaps, "solver").items():
        means = {n: _mean(group, "gap") for (n,), group in _grouped(members, "iterations").items()}
        lines.append(Line(solver, list(means), [max(gap, 1e-16) for gap in means.values()]))
    return Panel("", "iterations", "gap", lines, x_log=True, y_log=True)


def _headline(*parts: Sequence[Mapping[str, Any]]) -> str:
    rates, flat, stepped, twice, errors, gaps, starts = parts
    margin = min(row["least"] - row["bound"] for row in rates)
    above = sum(row["least"] >= row["bound"] - 1e-12 for row in rates)
    text = f"The quantization rate is at least 1 - n/d in {above} of {len(rates)} settings (smallest margin {percent(margin)})"
    if flat:
        text += f", and {percent(_mean(flat, 'rate'))} where a slope is zero (1 - n/d would be {percent(flat[0]['bound'])})"
    if stepped:
        text += f", {percent(_mean(stepped, 'rate'))} at critical points in the flat pieces of a quasi-convex one"
    if twice:
        text += f", and {percent(_mean(twice, 'rate'))} where each column is there twice ({percent(twice[0]['bound'])})"
    met = sum(row["least"] >= row["bound"] - 1e-12 for row in starts)
    points = _mean(starts, "points")
    text += (
        f". From {starts[0]['starts']} starts a problem that is not convex ends in {points:.1f} critical points on average, "
        f"whose rates are all at least 1 - n/d in {met} of {len(starts)} settings"
    )
    largest = max(row["n"] for row in errors)
    at = {
        key: _mean(group, "error")
        for key, group in _grouped([r for r in errors if r["n"] == largest], "penalty", "method").items()
    }
    errors_of = {penalty: [number(at[penalty, method]) for method in ("PAR", "classical", "rounded after")] for penalty, _ in at}
    words = [f"{penalty} {own} ({classical}, {rounded})" for penalty, (own, classical, rounded) in errors_of.items()]
    text += (
        f". At n = {largest} PAR's estimation error (the classical penalty's, that rounded after the fit) is: {', '.join(words)}"
    )
    most = max(row["iterations"] for row in gaps)
    last = {
        solver: _mean(group, "gap")
        for (solver,), group in _grouped([g for g in gaps if g["iterations"] == most], "solver").items()
    }
    return (
        f"{text}. After {most} iterations the objective is above its minimum by "
        + ", ".join(f"{number(gap)} ({solver})" for solver, gap in last.items())
        + "."
    )
