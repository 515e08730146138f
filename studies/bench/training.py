"""How long quantizing optimizers, prox maps and quantized SGD take, beside what they are built on and beside others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from hwsim.training import (
    COMPONENTS,
    LSBQ,
    PAR,
    PARQ,
    Glm,
    Parq,
    Sigmoid,
    Stopping,
    accelerated,
    expected_excess_risk,
    l1_slopes,
    power_law,
    prox,
    quantized_sgd,
    squared_l2_slopes,
)

from .measurement import Case, Measurement, measured

COUNT = 1 << 24
STREAM = "x * c"
BASE, WRAPPED, RELEASED = "SGD with momentum", "PARQ between updates", "torchao QuantOptimizer between updates"
PERIOD = 1 << 30
"""Steps between updates of the levels: after the first step there is none while times are taken."""
LOOP, SIMULATED = "NumPy loop, five additive quantizers", "quantized_sgd, five additive quantizers"
SINGLE, BATCHED = "NumPy loop over problems", "accelerated, all problems at once"
SOLVED = Stopping(1e-8, 5000)
NUMPY_RECURSION, RECURSION = "NumPy recursion", "expected_excess_risk"


def step(rounds: int) -> Measurement:
    """A step on the parameters of a ResNet-18."""
    from torchvision.models import resnet18

    cases = step_cases(resnet18(num_classes=10))
    title = f"optimizer step on ResNet-18, {torch.get_num_threads()} threads"
    return measured(title, BASE, cases, rounds, ((WRAPPED, RELEASED, 3.0),))


def step_cases(model: nn.Module) -> dict[str, Case]:
    """The base optimizer, PARQ around it, and torchao's wrapper where it is installed; each has parameters of its own."""
    parq = PARQ(_sgd(_copies(model)), LSBQ(2), Parq(Sigmoid(0, PERIOD)), period=PERIOD)
    cases = {BASE: Case(_sgd(_copies(model)).step), WRAPPED: Case(parq.step, 1.3)}
    if find_spec("torchao"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.prototype.parq import optim, quant

        base = torch.optim.SGD([{"params": _copies(model), "quant_bits": 2}], lr=1e-3, momentum=0.9)
        released = optim.QuantOptimizer(base, quant.LSBQuantizer(), optim.ProxPARQ(0, PERIOD), quant_period=PERIOD)
        cases[RELEASED] = Case(released.step)
    return cases


def _copies(model: nn.Module) -> list[Parameter]:
    copies = [Parameter(parameter.detach().clone()) for parameter in model.parameters() if parameter.ndim > 1]
    for copy in copies:
        copy.grad = torch.ones_like(copy)
    return copies


def _sgd(parameters: list[Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def maps(rounds: int) -> Measurement:
    """Prox maps of 16 Mi float32."""
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0))
    title = f"prox map of {COUNT >> 20} Mi float32, {torch.get_num_threads()} threads"
    return measured(title, STREAM, map_cases(x), rounds)


def map_cases(x: Tensor) -> dict[str, Case]:
    """Convex regularizers on uniform and on arbitrary levels beside one streaming pass."""
    out = torch.empty_like(x)
    arbitrary = (0.0, 0.1, 0.35, 0.5, 0.9, 1.4, 1.5, 2.3)
    uniform = {count: tuple(2.0 * k / count for k in range(count)) for count in (8, 32)}
    cases = {STREAM: Case(lambda: torch.mul(x, 1.5, out=out))}
    for name, levels, target in (
        ("8 uniform levels", uniform[8], 1.5),
        ("32 uniform levels", uniform[32], 1.5),
        ("8 arbitrary levels", arbitrary, 2.5),
    ):
        par = PAR(levels, squared_l2_slopes(levels))
        cases[name] = Case(partial(prox, x, par, 0.1, out=out), target)
    return cases


def solvers(rounds: int) -> Measurement:
    """1,000 regressions of 50 observations and 200 weights with a convex regularizer, by a fraction of them."""
    cases = solver_cases(observations=50, dimension=200, few=8, many=128, whole=1000)
    title = f"1,000 regressions of 50 x 200 with a convex PAR, {torch.get_num_threads()} threads"
    return measured(title, SINGLE, cases, rounds)


def solver_cases(*, observations: int, dimension: int, few: int, many: int, whole: int) -> dict[str, Case]:
    """Accelerated proximal gradient: a plain loop that solves one problem after another, and the batched solver.

    Args:
        few, many, whole: how many problems the loop and the solver are given, and of how many the time is told.
    """
    draw = torch.Generator().manual_seed(0)
    design = torch.randn(many, observations, dimension, generator=draw, dtype=torch.float64)
    truth = torch.zeros(many, dimension, 1, dtype=torch.float64)
    truth[:, :4] = 2.0
    noise = 0.5 * torch.randn(many, observations, generator=draw, dtype=torch.float64)
    problem = Glm(design, torch.bmm(design, truth).squeeze(-1) + noise)
    levels = tuple(0.5 * k for k in range(9))
    par = PAR(levels, l1_slopes(levels))
    each = list(zip(design[:few].numpy(), problem.response[:few].numpy(), strict=True))
    return {
        SINGLE: Case(lambda: [numpy_solver(a, b, par, 0.1) for a, b in each], size=few / whole),
        BATCHED: Case(lambda: accelerated(problem, par, 0.1, stopping=SOLVED), 1.0, many / whole, 20.0),
    }


def numpy_solver(a: np.ndarray, b: np.ndarray, par: PAR, strength: float) -> np.ndarray:
    """FISTA with restarts on one problem; the prox map is the sum of clipped ramps."""
    n, d = a.shape
    curvature = float(np.linalg.norm(a, 2) ** 2) / n
    tau = strength / curvature
    q, s = np.array(par.levels), np.array(par.slopes)
    gaps = np.append(np.diff(q), np.inf)
    x, before, age = np.zeros(d), np.zeros(d), 0
    for _ in range(SOLVED.iterations):
        at = x + age / (age + 3) * (x - before)
        u = at - a.T @ (a @ at - b) / (n * curvature)
        ramps = np.clip(np.abs(u)[:, None] - tau * s - q, 0, gaps).sum(1)
        after = np.sign(u) * ramps
        moved = after - at
        age = 0 if moved @ (after - x) < 0 else age + 1
        before, x = x, after
        if curvature * np.abs(moved).max() <= SOLVED.tolerance:
            break
    return x


def regression(rounds: int) -> Measurement:
    """3,000 replicas x 1,000 steps x d = 200, and the recursion at d = 100,000 x 10,000 steps, by a fraction of each."""
    cases = regression_cases(replicas=3000, dimension=200, steps=20, whole=1000, wide=100_000, long=400)
    title = f"quantized SGD of 3,000 x 1,000 steps and the recursion of 10,000, {torch.get_num_threads()} threads"
    return measured(title, LOOP, cases, rounds, ((RECURSION, NUMPY_RECURSION, 2.0),))


def regression_cases(*, replicas: int, dimension: int, steps: int, whole: int, wide: int, long: int) -> Mapping[str, Case]:
    """Simulation and recursion beside plain loops over NumPy arrays.

    Args:
        steps, whole: how many steps of a simulation are run, and of how many the time is told.
        wide, long: dimension and steps of the recursion; its time is told for 10,000 steps.
    """
    problem: dict[str, Any] = {"eigenvalues": power_law(dimension, 2.0), "optimum": 1.0, "noise_variance": 1.0}
    problem |= {"step_size": 0.1, "steps": steps}
    quantizers: dict[str, Any] = dict.fromkeys(COMPONENTS, ("additive", 0.01))
    spectrum = power_law(wide, 2.0)
    return {
        LOOP: Case(lambda: numpy_sgd(replicas, dimension, steps), size=steps / whole),
        SIMULATED: Case(lambda: quantized_sgd(**problem, quantizers=quantizers, replicas=replicas), 1.0, steps / whole, 30.0),
        NUMPY_RECURSION: Case(lambda: numpy_recursion(spectrum, long, 1e-4), size=long / 10_000),
        RECURSION: Case(
            lambda: expected_excess_risk(spectrum, 1.0, 1.0, 1e-4, long, quantizers=quantizers), size=long / 10_000, limit=30.0
        ),
    }


def numpy_sgd(replicas: int, dimension: int, steps: int) -> float:
    """The loop that a reader of the paper would write: one sample a step, an additive Gaussian error in each place."""
    draw, root, error = np.random.default_rng(0), np.arange(1, dimension + 1) ** -1.0, 0.1
    w, total = np.zeros((replicas, dimension)), np.zeros((replicas, dimension))
    for _ in range(steps):
        total += w
        x = draw.standard_normal(w.shape) * root
        y = x.sum(1) + draw.standard_normal(replicas) + error * draw.standard_normal(replicas)
        x += error * draw.standard_normal(w.shape)
        a = np.einsum("rd,rd->r", x, w + error * draw.standard_normal(w.shape)) + error * draw.standard_normal(replicas)
        w += 0.1 * x * (y - a + error * draw.standard_normal(replicas))[:, None]
    return float((((total / steps - 1) * root) ** 2).sum(1).mean() / 2)


def numpy_recursion(h: np.ndarray, steps: int, step: float) -> float:
    """The first two moments under additive errors, with NumPy's whole-array operations."""
    e, labels = 0.01, float(h.sum()) + 1.0
    z = h + e
    k22, k31, k4 = h * z + 2 * h**2, 3 * h * z, 3 * z**2
    m, s = np.zeros_like(h), np.zeros_like(h)
    mean, spread, covariance = np.zeros_like(h), np.zeros_like(h), np.zeros_like(h)
    for _ in range(steps):
        v = s + e
        variance = s - m**2
        mean, spread = mean + m, spread + 2 * covariance + variance
        covariance = (1 - step * z) * (covariance + variance)
        overlap, power = float(h @ m), float(z @ v)
        one = z * (labels - h) + k22 - 2 * (z * (overlap - h * m) + m * k31) + z * (power - z * v) + v * k4 + 3 * e * z
        m, s = m + step * (h - z * m), s + 2 * step * (h * m - z * s) + step**2 * one
    return float(h @ ((mean / steps - 1) ** 2 + spread / steps**2)) / 2
