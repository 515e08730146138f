"""Regression with piecewise-affine regularizers: how much is quantized, how well it estimates, how fast it is solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import inf, sqrt
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from hwsim.config.record import Record
from hwsim.training import (
    PAR,
    Glm,
    Stopping,
    accelerated,
    admm,
    distance,
    l1_slopes,
    mcp_like,
    proximal_gradient,
    quantization_rate,
    squared_l2_slopes,
)

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .words import number, percent

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
SOLVERS: dict[str, Callable[..., Any]] = {"proximal gradient": proximal_gradient, "accelerated": accelerated, "ADMM": admm}
CONCAVITY = 3.0
CHORDS = 64
TIGHT = Stopping(1e-10, 50_000)
"""The rate is a statement about minimisers: at 1e-8 a weight may still be on its way to its level."""


class Parameters(Record):
    """How much do piecewise-affine regularizers quantize, how well do they estimate, and how fast are they solved?

    Gaussian designs; the levels are the multiples of `spacing` up to `top`.

    Args:
        dimension: d. problems: instances of each setting.
        shares: n/d of the quantization rates. strengths: their lambdas.
        sparsity: non-zero weights of the truth, of magnitudes between top / 4 and 3/4 top; noise: deviation of the responses.
        observations: n of the estimation errors, with lambda = strength_of_noise * noise * sqrt(log d / n).
        iterations: numbers of iterations at which objectives are compared.
    """

    name: Literal["par_regression"]
    dimension: Annotated[int, Field(ge=8)] = 80
    problems: Count = 10
    spacing: Positive = 0.5
    top: Positive = 4.0
    shares: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.1, 0.25, 0.5, 0.75)
    strengths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.1, 1.0)
    sparsity: Count = 4
    noise: Positive = 0.5
    strength_of_noise: Positive = 1.0
    observations: Annotated[tuple[Count, ...], Field(min_length=1)] = (40, 80, 160, 320, 640)
    iterations: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50, 100, 200, 500)

    @property
    def levels(self) -> tuple[float, ...]:
        """The magnitudes."""
        return tuple(self.spacing * k for k in range(round(self.top / self.spacing) + 1))

    @property
    def families(self) -> dict[str, PAR]:
        """One regularizer of each family on the levels, none with a zero slope."""
        return {
            "convex": PAR(self.levels, l1_slopes(self.levels)),
            "quasi-convex": mcp_like(self.levels, CONCAVITY),
            "non-convex": distance(self.levels),
        }


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """Quantization rates, then estimation errors, then objectives by iteration."""
    draw = torch.Generator().manual_seed(seed)
    parts = (_rates, _zero_slope, _repeated_columns, _errors, _objectives)
    return [row for part in parts for row in part(parameters, draw)]


def _instance(parameters: Parameters, n: int, draw: torch.Generator) -> tuple[Glm, torch.Tensor]:
    """Problems with a sparse truth between the levels."""
    p, d = parameters.problems, parameters.dimension
    design = torch.randn(p, n, d, generator=draw, dtype=torch.float64)
    truth = torch.zeros(p, d, dtype=torch.float64)
    signs = torch.randint(2, (p, parameters.sparsity), generator=draw).double() * 2 - 1
    sizes = torch.rand(signs.shape, generator=draw, dtype=torch.float64) + 0.5
    truth[:, : parameters.sparsity] = signs * sizes * parameters.top / 2
    clean = torch.bmm(design, truth.unsqueeze(-1)).squeeze(-1)
    return Glm(design, clean + parameters.noise * torch.randn(p, n, generator=draw, dtype=torch.float64)), truth


def _rates(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    found: list[Row] = []
    for share in parameters.shares:
        n = max(1, round(share * parameters.dimension))
        problem, _ = _instance(parameters, n, draw)
        for family, par in parameters.families.items():
            for strength in parameters.strengths:
                rate = quantization_rate(accelerated(problem, par, strength, stopping=TIGHT).x, par)
                rates = {"rate": float(rate.mean()), "least": float(rate.min()), "bound": 1 - n / parameters.dimension}
                found.append({"kind": "rate", "family": family, "share": n / parameters.dimension, "strength": strength, **rates})
    return found


def _zero_slope(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    """The counter-example: a regularizer that is flat between -1 and 1, and data that weights inside it fit exactly."""
    n, d = max(1, parameters.dimension // 10), parameters.dimension
    flat = PAR((0.0, 1.0), (0.0, inf))
    design = torch.randn(parameters.problems, n, d, generator=draw, dtype=torch.float64)
    inside = 0.1 * torch.randn(parameters.problems, d, 1, generator=draw, dtype=torch.float64)
    rate = quantization_rate(accelerated(Glm(design, torch.bmm(design, inside).squeeze(-1)), flat, 0.1).x, flat)
    return [{"kind": "zero slope", "rate": float(rate.mean()), "least": float(rate.min()), "bound": 1 - n / d, "share": n / d}]


def _repeated_columns(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    """The other hypothesis: every column of the design twice, so that a weight between two levels comes with its twin."""
    n, d = max(1, parameters.dimension // 10), parameters.dimension // 2 * 2
    half = torch.randn(parameters.problems, n, d // 2, generator=draw, dtype=torch.float64)
    response = torch.randn(parameters.problems, n, generator=draw, dtype=torch.float64)
    par, strength = parameters.families["convex"], min(parameters.strengths)
    found = accelerated(Glm(half.repeat(1, 1, 2), response), par, strength, stopping=TIGHT).x
    rate = quantization_rate(found, par)
    numbers = {"rate": float(rate.mean()), "least": float(rate.min()), "bound": 1 - n / d, "share": n / d}
    return [{"kind": "repeated columns", "strength": strength, **numbers}]


def _errors(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    levels, d = parameters.levels, parameters.dimension
    fine = tuple(CONCAVITY * k / CHORDS for k in range(CHORDS + 1))
    chords = PAR(fine, (*(1 - (a + b) / (2 * CONCAVITY) for a, b in pairwise(fine)), 0.0))
    pairs = {
        "l1": (PAR((0.0,), (1.0,)), PAR(levels, l1_slopes(levels))),
        "squared l2": (None, PAR(levels, squared_l2_slopes(levels))),
        "MCP": (chords, mcp_like(levels, CONCAVITY)),
    }
    found: list[Row] = []
    for n in parameters.observations:
        problem, truth = _instance(parameters, n, draw)
        strength = parameters.strength_of_noise * parameters.noise * sqrt(torch.tensor(float(d)).log().item() / n)
        for penalty, (classical, par) in pairs.items():
            plain = (
                _ridge(problem, strength) if classical is None else accelerated(problem, classical, strength, stopping=TIGHT).x
            )
            grid = torch.tensor(sorted({-q for q in levels} | set(levels)), dtype=torch.float64)
            rounded = grid[torch.bucketize(plain.contiguous(), (grid[1:] + grid[:-1]) / 2)]
            solved = accelerated(problem, par, strength, stopping=TIGHT).x
            for method, x in (("classical", plain), ("rounded after", rounded), ("PAR", solved)):
                error = (x - truth).norm(dim=-1)
                rate = float(quantization_rate(x, par, targets=grid.tolist()).mean())
                loss = problem.predictor(x - truth).square().mean(-1)
                row = {"kind": "error", "penalty": penalty, "method": method, "n": n, "strength": strength, "rate": rate}
                found.append(row | {"error": float(error.mean()), "prediction": float(loss.mean())})
    return found


def _ridge(problem: Glm, strength: float) -> torch.Tensor:
    hessian = problem.hessian(torch.zeros_like(problem.design[:, 0]))
    moment = (problem.design * problem.response.unsqueeze(-1)).mean(1)
    identity = torch.eye(problem.dimensions, dtype=hessian.dtype)
    solution: torch.Tensor = torch.linalg.solve(hessian + strength * identity, moment)
    return solution


def _objectives(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    problem, _ = _instance(parameters, max(1, parameters.dimension // 4), draw)
    par = parameters.families["convex"]
    best = accelerated(problem, par, 0.1, stopping=Stopping(1e-12, 100_000)).objective
    found: list[Row] = []
    for solver, solve in SOLVERS.items():
        for iterations in parameters.iterations:
            gap = solve(problem, par, 0.1, stopping=Stopping(0.0, iterations)).objective - best
            found.append({"kind": "objective", "solver": solver, "iterations": iterations, "gap": max(float(gap.mean()), 0.0)})
    return found


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Rates with their bound, errors on logarithmic axes, and convergence."""
    kinds = ("rate", "zero slope", "repeated columns", "error", "objective")
    rates, flat, twice, errors, gaps = ([row for row in found if row["kind"] == kind] for kind in kinds)
    tables = [_rate_table(rates, flat, twice), _error_table(errors), _gap_table(gaps)]
    plots = [
        Plot("Quantization rate against n/d, with the bound 1 - n/d.", _rate_panels(rates)),
        Plot("Estimation error against n.", _error_panels(errors)),
        Plot("Objective above its minimum.", [_gap_panel(gaps)]),
    ]
    return Section(_headline(rates, flat, twice, errors, gaps), tables, plots)


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    return fmean(row[column] for row in rows)


def _grouped(rows: Sequence[Mapping[str, Any]], *columns: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _rate_table(
    rates: Sequence[Mapping[str, Any]], flat: Sequence[Mapping[str, Any]], twice: Sequence[Mapping[str, Any]]
) -> Table:
    lines = []
    for (family, share, strength), group in _grouped(rates, "family", "share", "strength").items():
        least = percent(min(row["least"] for row in group))
        lines.append([family, number(share), number(strength), percent(_mean(group, "rate")), least, percent(group[0]["bound"])])
    for name, members, given in (("convex, a zero slope", flat, "0.1"), ("convex, each column twice", twice, "")):
        if members:
            least = percent(min(row["least"] for row in members))
            strength = given or number(members[0]["strength"])
            lines.append([name, number(members[0]["share"]), strength, percent(_mean(members, "rate")), least, "none"])
    return Table("Quantization rates", ["family", "n/d", "lambda", "mean", "least", "bound"], lines)


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
    rates, flat, twice, errors, gaps = parts
    margin = min(row["least"] - row["bound"] for row in rates)
    above = sum(row["least"] >= row["bound"] - 1e-12 for row in rates)
    text = f"The quantization rate is at least 1 - n/d in {above} of {len(rates)} settings (smallest margin {percent(margin)})"
    if flat:
        text += f", and {percent(_mean(flat, 'rate'))} where a slope is zero (1 - n/d would be {percent(flat[0]['bound'])})"
    if twice:
        text += f", and {percent(_mean(twice, 'rate'))} where each column is there twice ({percent(twice[0]['bound'])})"
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


EXPERIMENT = Experiment(Parameters, rows, section)
