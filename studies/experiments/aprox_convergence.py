"""Stochastic proximal methods: how near the minimum and how quantized the last iterate is, and STE as a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from hwsim.config.record import Record
from hwsim.training import (
    LOGISTIC,
    LSBQ,
    PAR,
    PARQ,
    Glm,
    Hard,
    Linear,
    Parq,
    ProxMap,
    Stopping,
    accelerated,
    aprox,
    convergence_bound,
    prox_sgd,
)

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .words import number, percent

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
METHODS = {"AProx": aprox, "Prox-SGD": prox_sgd}


class Parameters(Record):
    """Does the last iterate of AProx converge as the theorem says and stay quantized, and is STE the limit of PARQ?

    Logistic regression on Gaussian designs with labels of a random linear model, steps eta_t = R / (2 G sqrt t) from 0.

    Args:
        dimension, observations, problems: d, n, instances.
        strength: lambda of the regularizer, whose levels are the multiples of 1/2 up to 5/2.
        steps: T. times: steps at which the runs are observed.
        rhos: inverse slopes of PARQ whose trajectories are set beside that of STE. ste_steps: how long.
    """

    name: Literal["aprox_convergence"]
    dimension: Count = 20
    observations: Count = 60
    problems: Count = 8
    strength: Positive = 0.02
    steps: Count = 10_000
    times: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 30, 100, 300, 1000, 3000, 10_000)
    rhos: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2.0, 10.0, 100.0, 1000.0, 1e6)
    ste_steps: Count = 40

    @model_validator(mode="after")
    def _ordered(self) -> Parameters:
        if max(self.times) > self.steps:
            raise ValueError(f"times: got {max(self.times)} in a run of {self.steps} steps; allowed: up to its length")
        return self


@dataclass(frozen=True)
class _Held(Linear):
    """A slope that does not move."""

    value: float = 1.0

    def __call__(self, step: int) -> float:
        return self.value


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """Gap and rate of each method over time, with the theorem's bound; then the distance of PARQ from STE."""
    problem = _instance(parameters, seed)
    return [*_gaps(parameters, problem, seed), *_distances(parameters, problem)]


def _instance(parameters: Parameters, seed: int) -> Glm:
    draw = torch.Generator().manual_seed(seed)
    shape = (parameters.problems, parameters.observations, parameters.dimension)
    design = torch.randn(shape, generator=draw, dtype=torch.float64)
    truth = torch.randn(parameters.problems, parameters.dimension, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(shape[:2], generator=draw, dtype=torch.float64)
    return Glm(design, (torch.bmm(design, truth).squeeze(-1) + noise > 0).double(), LOGISTIC)


def _gaps(parameters: Parameters, problem: Glm, seed: int) -> list[Row]:
    par = PAR((0.0, 0.5, 1.0, 1.5, 2.0, 2.5), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0))
    best = accelerated(problem, par, parameters.strength, stopping=Stopping(1e-11, 50_000))
    lipschitz = float(problem.design.norm(dim=-1).max()) + parameters.strength * par.slopes[-1] * parameters.dimension**0.5
    radius = float(best.x.norm(dim=-1).max())
    found: list[Row] = []
    for method, run in METHODS.items():

        def step(t: int) -> float:
            return float(radius / (2 * lipschitz * t**0.5))

        seen = run(problem, par, parameters.strength, step, parameters.steps, seed=seed, observe=parameters.times)
        for i, t in enumerate(seen.steps):
            gap = float((seen.objective[i] - best.objective).mean())
            averaged = float((seen.average_objective[i] - best.objective).mean())
            row = {"kind": "gap", "method": method, "t": t, "gap": gap, "average": averaged, "rate": float(seen.rate[i].mean())}
            found.append(row | {"bound": convergence_bound(lipschitz, radius, t)})
    return found


def _distances(parameters: Parameters, problem: Glm) -> list[Row]:
    start = torch.randn(problem.problems, problem.dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hard = _trajectory(problem, start, Hard(), parameters.ste_steps)
    found: list[Row] = []
    for rho in parameters.rhos:
        soft = _trajectory(problem, start, Parq(_Held(0, 1, 1 / rho)), parameters.ste_steps)
        for t, (a, b) in enumerate(zip(hard, soft, strict=True), 1):
            found.append({"kind": "ste", "rho": rho, "t": t, "distance": float((a - b).abs().mean())})
    return found


def _trajectory(problem: Glm, start: torch.Tensor, prox_map: ProxMap, steps: int) -> list[torch.Tensor]:
    """The weights after each step of gradient descent from one start, drawn to two bits."""
    weight = torch.nn.Parameter(start.clone())
    optimizer = PARQ(torch.optim.SGD([weight], lr=1.0), LSBQ(2), prox_map, granularity={"channel": 0}, period=1)
    seen = []
    for _ in range(steps):
        weight.grad = problem.gradient(weight.detach())
        optimizer.step()
        seen.append(weight.detach().clone())
    return seen


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """Gap, rate and bound over time, and the distances from STE."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in found:
        if row["kind"] == "gap":
            groups.setdefault((row["method"], row["t"]), []).append(row)
    means = {
        key: {c: fmean(row[c] for row in group) for c in ("gap", "average", "rate", "bound")} for key, group in groups.items()
    }
    lines = [
        [method, str(t), number(m["gap"]), number(m["average"]), percent(m["rate"]), number(m["bound"])]
        for (method, t), m in means.items()
    ]
    header = ["method", "steps", "gap of the last iterate", "of the average", "quantization rate", "theorem"]
    tables = [Table("Objective above its minimum, and the share of weights on a level", header, lines), _distance_table(found)]
    curves, rates = [], []
    for colour, method in enumerate(METHODS):
        t = [t for name, t in means if name == method]
        own = [means[method, time] for time in t]
        curves.append(Line(f"{method}, last", t, [m["gap"] for m in own], "line", colour=colour))
        curves.append(Line(f"{method}, average", t, [m["average"] for m in own], "dashes", colour=colour))
        rates.append(Line(method, t, [m["rate"] for m in own]))
    times = [t for name, t in means if name == "AProx"]
    curves.append(Line("theorem, constant 2.5", times, [means["AProx", t]["bound"] for t in times], "dots", colour=7))
    panels = [
        Panel("gap", "steps", "objective above its minimum", curves, x_log=True, y_log=True),
        Panel("quantization rate", "steps", "share on a level", rates, x_log=True),
    ]
    plots = [
        Plot("Convergence and quantization of the last iterate.", panels),
        Plot("PARQ against STE.", [_distance_panel(found)]),
    ]
    return Section(_headline(means, found), tables, plots)


def _at_the_end(found: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """The mean distance over the whole trajectory, by rho."""
    groups: dict[float, list[float]] = {}
    for row in found:
        if row["kind"] == "ste":
            groups.setdefault(row["rho"], []).append(row["distance"])
    return {rho: fmean(values) for rho, values in groups.items()}


def _distance_table(found: Sequence[Mapping[str, Any]]) -> Table:
    lines = [[number(rho), number(distance)] for rho, distance in _at_the_end(found).items()]
    return Table("Mean distance of PARQ's weights from STE's over the trajectory", ["inverse slope rho", "distance"], lines)


def _distance_panel(found: Sequence[Mapping[str, Any]]) -> Panel:
    groups: dict[float, dict[int, list[float]]] = {}
    for row in found:
        if row["kind"] == "ste":
            groups.setdefault(row["rho"], {}).setdefault(row["t"], []).append(row["distance"])
    lines = []
    for rho, by_time in groups.items():
        # A logarithmic axis has no place for trajectories that are equal.
        apart = {t: fmean(values) for t, values in by_time.items() if any(values)}
        name = f"rho = {rho:g}" + ("" if apart else ": equal")
        lines.append(Line(name, list(apart), list(apart.values()), "dashes"))
    return Panel("", "steps", "mean distance from STE", lines, y_log=True)


def _headline(means: Mapping[tuple[str, int], Mapping[str, float]], found: Sequence[Mapping[str, Any]]) -> str:
    last = {
        method: max(t for name, t in means if name == method) for method in METHODS if any(name == method for name, _ in means)
    }
    words = []
    for method, t in last.items():
        m = means[method, t]
        words.append(
            f"{method}'s last iterate is {number(m['gap'])} above the minimum with {percent(m['rate'])} of weights on a level"
        )
    t, m = last["AProx"], means["AProx", last["AProx"]]
    within = sum(max(row["gap"], row["average"]) <= row["bound"] for (name, _), row in means.items() if name == "AProx")
    distances = _at_the_end(found)
    return (
        f"After {t} steps {' and '.join(words)} (AProx's average {number(m['average'])}); AProx is within the theorem's bound at "
        f"{within} of {sum(name == 'AProx' for name, _ in means)} times, by a factor {number(m['bound'] / m['gap'])} at the end. "
        f"PARQ's distance from STE falls from {number(distances[min(distances)])} to {number(distances[max(distances)])} "
        f"as rho goes from {min(distances):g} to {max(distances):g}."
    )


EXPERIMENT = Experiment(Parameters, rows, section)
