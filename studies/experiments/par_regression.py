"""Regression with piecewise-affine regularizers: how much is quantized, how well it estimates, how fast it is solved."""

from __future__ import annotations

from collections.abc import Callable
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
    stairs,
)

from .experiment import Experiment, Row
from .par_findings import section

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
        starts: points from which each problem that is not convex is solved.
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
    starts: Count = 5

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
    """Quantization rates, then estimation errors, objectives by iteration, and critical points by start."""
    draw = torch.Generator().manual_seed(seed)
    parts = (_rates, _zero_slope, _repeated_columns, _errors, _objectives, _flat_pieces, _critical_points)
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


def _flat_pieces(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    """The counter-example that is not convex: stairs, and data that weights inside their flat halves fit exactly, started there.

    Where all weights lie in flat pieces and the loss's gradient is zero, the point is critical and nothing is quantized.
    """
    p, n, d = parameters.problems, max(1, parameters.dimension // 10), parameters.dimension
    design = torch.randn(p, n, d, generator=draw, dtype=torch.float64)
    cells = torch.randint(len(parameters.levels) - 1, (p, d), generator=draw)
    signs = torch.randint(2, (p, d), generator=draw) * 2 - 1
    inside = signs * parameters.spacing * (cells.double() + 0.75)
    near = inside + 0.01 * parameters.spacing * torch.randn(p, d, generator=draw, dtype=torch.float64)
    par, problem = stairs(parameters.levels), Glm(design, torch.bmm(design, inside.unsqueeze(-1)).squeeze(-1))
    found = proximal_gradient(problem, par, 0.1, near, TIGHT)
    rate = quantization_rate(found.x, par)
    numbers = {"rate": float(rate.mean()), "least": float(rate.min()), "bound": 1 - n / d, "share": n / d}
    return [{"kind": "flat pieces", "violation": _violation(problem, par, 0.1, found.x), **numbers}]


def _critical_points(parameters: Parameters, draw: torch.Generator) -> list[Row]:
    """Where the families that are not convex end from zero and from random starts, which the theorem covers all."""
    p, d, starts = parameters.problems, parameters.dimension, parameters.starts
    n = max(1, d // 4)
    problem, _ = _instance(parameters, n, draw)
    again = problem.take(torch.arange(p).repeat_interleave(starts))
    begin = parameters.top / 2 * torch.randn(p, starts, d, generator=draw, dtype=torch.float64)
    begin[:, 0] = 0.0
    found: list[Row] = []
    for family in ("quasi-convex", "non-convex"):
        par = parameters.families[family]
        for strength in parameters.strengths:
            solved = accelerated(again, par, strength, begin.flatten(0, 1), TIGHT)
            rate, objectives = quantization_rate(solved.x, par), solved.objective.reshape(p, starts)
            points = fmean(_distinct(x) for x in solved.x.reshape(p, starts, d))
            spread = float((objectives.amax(-1) / objectives.amin(-1) - 1).mean())
            row = {"kind": "starts", "family": family, "strength": strength, "starts": starts, "points": points, "spread": spread}
            row |= {"rate": float(rate.mean()), "least": float(rate.min()), "bound": 1 - n / d, "share": n / d}
            found.append(row | {"violation": _violation(again, par, strength, solved.x)})
    return found


def _violation(problem: Glm, par: PAR, strength: float, x: torch.Tensor) -> float:
    """How far the loss's gradient is from -strength times Clarke's subdifferential of psi, 0 at a critical point."""
    low, high = par.subgradient(x)
    needed = -problem.gradient(x)
    outside = torch.maximum(strength * low - needed, needed - strength * high)
    return float(outside.clamp(min=0).max())


def _distinct(points: torch.Tensor) -> int:
    """How many of the points differ by more than a solver's accuracy."""
    apart = torch.cdist(points, points, p=torch.inf) > 1e-6
    return sum(bool(apart[i, :i].all()) for i in range(len(points)))


EXPERIMENT = Experiment(Parameters, rows, section)
