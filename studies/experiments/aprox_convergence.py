"""Stochastic proximal methods: how near the minimum and how quantized the last iterate is, and STE as a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from hwsim.config.record import Record
from hwsim.training import (
    ABSOLUTE,
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
    objective,
    prox_sgd,
)

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .words import number, percent

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
METHODS = {"AProx": aprox, "Prox-SGD": prox_sgd}
Means = Mapping[tuple[str, int], Mapping[str, float]]
"""Of each method after each number of steps."""


class Parameters(Record):
    """Does the last iterate of AProx converge as the theorem says and stay quantized, and is STE the limit of PARQ?

    Regression on Gaussian designs with responses of a random linear model and noise, steps eta_t = R / (2 G sqrt t) from 0.

    Args:
        loss: `logistic`, of the responses' signs, or `absolute`, which is convex and not smooth; the theorem covers both.
        dimension, observations, problems: d, n, instances.
        strength: lambda of the regularizer, whose levels are the multiples of 1/2 up to 5/2.
        steps: T. times: steps at which the runs are observed.
        rhos: inverse slopes of PARQ whose trajectories are set beside that of STE. ste_steps: how long.
    """

    name: Literal["aprox_convergence"]
    loss: Literal["logistic", "absolute"] = "logistic"
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
    response = torch.bmm(design, truth).squeeze(-1) + noise
    return Glm(design, response, ABSOLUTE) if parameters.loss == "absolute" else Glm(design, (response > 0).double(), LOGISTIC)


def minimisers(problem: Glm, par: PAR, strength: float) -> torch.Tensor:
    """The minimisers of loss + strength psi, psi convex: of the absolute loss by a linear program, of others by descent."""
    if problem.family is not ABSOLUTE:
        return accelerated(problem, par, strength, stopping=Stopping(1e-11, 50_000)).x
    pairs = zip(problem.design.numpy(), problem.response.numpy(), strict=True)
    return torch.from_numpy(np.stack([_least_absolute(design, response, par, strength) for design, response in pairs]))


def _least_absolute(design: Any, response: Any, par: PAR, strength: float) -> Any:
    """A x = b - r + s, x = sum_k (p_k - m_k): r and s cost 1/n each, p_k and m_k, at most q_(k+1) - q_k, strength a_k each."""
    from scipy.optimize import linprog

    n, d = design.shape
    # A piece of infinite slope has no width.
    slopes = [slope for slope in par.slopes if slope < inf]
    widths = [*(high - low for low, high in pairwise(par.levels)), None][: len(slopes)]
    columns = np.hstack([*[design, -design] * len(widths), np.eye(n), -np.eye(n)])
    cost = np.concatenate([np.repeat(strength * np.array(slopes), 2 * d), np.full(2 * n, 1 / n)])
    bounds = [*((0, width) for width in widths for _ in range(2 * d)), *[(0, None)] * (2 * n)]
    parts = linprog(cost, A_eq=columns, b_eq=response, bounds=bounds).x[: 2 * d * len(widths)]
    positive, negative = parts.reshape(-1, 2, d).sum(0)
    return positive - negative


def _gaps(parameters: Parameters, problem: Glm, seed: int) -> list[Row]:
    par = PAR((0.0, 0.5, 1.0, 1.5, 2.0, 2.5), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0))
    best = minimisers(problem, par, parameters.strength)
    least = objective(problem, par, parameters.strength, best)
    lipschitz = float(problem.design.norm(dim=-1).max()) + parameters.strength * par.slopes[-1] * parameters.dimension**0.5
    radius = float(best.norm(dim=-1).max())
    found: list[Row] = []
    for method, run in METHODS.items():

        def step(t: int) -> float:
            return float(radius / (2 * lipschitz * t**0.5))

        seen = run(problem, par, parameters.strength, step, parameters.steps, seed=seed, observe=parameters.times)
        for i, t in enumerate(seen.steps):
            gaps, averages = seen.objective[i] - least, seen.average_objective[i] - least
            row = {"kind": "gap", "method": method, "t": t, "gap": float(gaps.mean()), "average": float(averages.mean())}
            row |= {"least": float(torch.minimum(gaps, averages).min()), "largest": float(torch.maximum(gaps, averages).max())}
            found.append(row | {"rate": float(seen.rate[i].mean()), "bound": convergence_bound(lipschitz, radius, t)})
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
    """Gap, rate and bound over time, and the distances from STE, for each loss."""
    tables, plots, sentences = [], [], []
    for loss in dict.fromkeys(row["loss"] for row in found):
        own = [row for row in found if row["loss"] == loss]
        means, distances = _means(own), _mean_distances(own)
        tables += [_gap_table(loss, means), _distance_table(loss, distances)]
        plots += [
            Plot(f"Convergence and quantization of the last iterate, {loss} loss.", _gap_panels(means)),
            Plot(f"PARQ against STE, {loss} loss.", [_distance_panel(own)]),
        ]
        sentences.append(_sentence(loss, means, distances))
    return Section(" ".join(sentences), tables, plots)


def _means(found: Sequence[Mapping[str, Any]]) -> Means:
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in found:
        if row["kind"] == "gap":
            groups.setdefault((row["method"], row["t"]), []).append(row)
    return {
        key: {c: fmean(row[c] for row in group) for c in ("gap", "average", "rate", "bound")} for key, group in groups.items()
    }


def _mean_distances(found: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """The mean distance over the whole trajectory, by rho."""
    groups: dict[float, list[float]] = {}
    for row in found:
        if row["kind"] == "ste":
            groups.setdefault(row["rho"], []).append(row["distance"])
    return {rho: fmean(values) for rho, values in groups.items()}


def _gap_table(loss: str, means: Means) -> Table:
    lines = [
        [method, str(t), number(m["gap"]), number(m["average"]), percent(m["rate"]), number(m["bound"])]
        for (method, t), m in means.items()
    ]
    header = ["method", "steps", "gap of the last iterate", "of the average", "quantization rate", "theorem"]
    return Table(f"Objective above its minimum, and the share of weights on a level, {loss} loss", header, lines)


def _distance_table(loss: str, distances: Mapping[float, float]) -> Table:
    lines = [[number(rho), number(distance)] for rho, distance in distances.items()]
    title = f"Mean distance of PARQ's weights from STE's over the trajectory, {loss} loss"
    return Table(title, ["inverse slope rho", "distance"], lines)


def _gap_panels(means: Means) -> list[Panel]:
    curves, rates = [], []
    for colour, method in enumerate(METHODS):
        t = [t for name, t in means if name == method]
        own = [means[method, time] for time in t]
        curves.append(Line(f"{method}, last", t, [m["gap"] for m in own], "line", colour=colour))
        curves.append(Line(f"{method}, average", t, [m["average"] for m in own], "dashes", colour=colour))
        rates.append(Line(method, t, [m["rate"] for m in own]))
    times = [t for name, t in means if name == "AProx"]
    curves.append(Line("theorem, constant 2.5", times, [means["AProx", t]["bound"] for t in times], "dots", colour=7))
    return [
        Panel("gap", "steps", "objective above its minimum", curves, x_log=True, y_log=True),
        Panel("quantization rate", "steps", "share on a level", rates, x_log=True),
    ]


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


def _sentence(loss: str, means: Means, distances: Mapping[float, float]) -> str:
    last = {method: max(t for name, t in means if name == method) for method in METHODS}
    words = []
    for method, t in last.items():
        m = means[method, t]
        words.append(
            f"{method}'s last iterate is {number(m['gap'])} above the minimum with {percent(m['rate'])} of weights on a level"
        )
    t, m = last["AProx"], means["AProx", last["AProx"]]
    within = sum(max(row["gap"], row["average"]) <= row["bound"] for (name, _), row in means.items() if name == "AProx")
    return (
        f"With the {loss} loss, after {t} steps {' and '.join(words)} (AProx's average {number(m['average'])}); AProx is within "
        f"the theorem's bound at {within} of {sum(name == 'AProx' for name, _ in means)} times, by a factor "
        f"{number(m['bound'] / m['gap'])} at the end; PARQ's distance from STE falls from {number(distances[min(distances)])} to "
        f"{number(distances[max(distances)])} as rho goes from {min(distances):g} to {max(distances):g}."
    )


EXPERIMENT = Experiment(Parameters, rows, section)
