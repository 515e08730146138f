"""Minimisers of GLM loss + strength * PAR, many problems at once: proximal gradient, accelerated, ADMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch

from hwsim.errors import ConfigError

from .breakpoints import evaluate, row_columns
from .glm import ABSOLUTE, Glm
from .par import PAR

CHUNK = 64
MAX_CURVATURE = 1e12
Solver = Callable[[Glm, PAR, torch.Tensor, torch.Tensor, "Stopping"], "Solution"]


@dataclass(frozen=True)
class Stopping:
    """When a solver stops: the residual's largest element below `tolerance`, or `iterations` done.

    Raises:
        ConfigError: a negative tolerance or NaN, no iteration.
    """

    tolerance: float = 1e-8
    iterations: int = 5000

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and self.iterations >= 1):
            given = f"tolerance {self.tolerance}, iterations {self.iterations}"
            raise ConfigError(f"stopping: got {given}; allowed: tolerance >= 0, iterations >= 1")


@dataclass(frozen=True)
class Solution:
    """What a solver found, one entry a problem.

    Attributes:
        x: (problems, d), a result of a prox map: its quantized elements are exact levels.
        objective: loss + strength * psi.
        residual: largest element of the fixed point's violation, in units of the gradient.
        iterations: done for this problem.
        converged: residual <= tolerance.
    """

    x: torch.Tensor
    objective: torch.Tensor
    residual: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor


def objective(problem: Glm, par: PAR, strength: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Loss + strength * psi, (problems,)."""
    return problem.loss(x) + torch.as_tensor(strength, dtype=x.dtype, device=x.device) * par.value(x).sum(-1)


def proximal_gradient(
    problem: Glm, par: PAR, strength: float | torch.Tensor, start: torch.Tensor | None = None, stopping: Stopping | None = None
) -> Solution:
    """x <- prox_(strength/L psi)(x - grad f(x) / L).

    L is the loss's own constant where it has one; otherwise it doubles until f lies below its quadratic model. For non-convex
    regularizers the limit is a critical point.

    Args:
        problem: a smooth loss.
        par: any family.
        strength: lambda >= 0, one number or one a problem.
        start: (problems, d), taken in the design's dtype; zeros unless given.

    Raises:
        ConfigError: a loss that is not smooth; a strength, its shape, or a start's, that cannot be.
    """
    return _solve(problem, par, strength, start, stopping, partial(_gradient_steps, momentum=False))


def accelerated(
    problem: Glm, par: PAR, strength: float | torch.Tensor, start: torch.Tensor | None = None, stopping: Stopping | None = None
) -> Solution:
    """Proximal gradient from y = x + k/(k+3) (x - x_before), restarted where the step turns against the momentum.

    Arguments and errors as `proximal_gradient`. Source: Beck and Teboulle 2009; restart: O'Donoghue and Candes 2015.
    """
    return _solve(problem, par, strength, start, stopping, partial(_gradient_steps, momentum=True))


def _gradient_steps(
    problem: Glm, par: PAR, strength: torch.Tensor, x: torch.Tensor, stopping: Stopping, momentum: bool
) -> Solution:
    curvature = _first_curvature(problem, x)
    table = row_columns(par, strength / curvature, x)
    found = _unsolved(x)
    active = torch.arange(len(x), device=x.device)
    before, age = x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for iteration in range(1, stopping.iterations + 1):
        at = x + (age / (age + 3)).unsqueeze(-1) * (x - before) if momentum else x
        loss, gradient = problem.loss_and_gradient(at)
        after = evaluate(at - gradient / curvature.unsqueeze(-1), *table)
        while bool((steep := _above_model(problem, loss, gradient, at, after, curvature)).any()):
            curvature = torch.where(steep, 2 * curvature, curvature)
            table = row_columns(par, strength / curvature, x)
            after = evaluate(at - gradient / curvature.unsqueeze(-1), *table)
        moved = after - at
        residual = curvature * moved.abs().amax(-1)
        if momentum:
            age = torch.where((moved * (after - x)).sum(-1) < 0, 0.0, age + 1)
        before, x = x, after
        done = residual <= stopping.tolerance
        if bool(done.any()) or iteration == stopping.iterations:
            _record(found, active, x, residual, iteration, stopping)
            left = ~done
            if not bool(left.any()):
                break
            problem, active = problem.take(left), active[left]
            x, before, age, strength, curvature, *columns = (t[left] for t in (x, before, age, strength, curvature, *table))
            table = tuple(columns)
    return found


def _first_curvature(problem: Glm, x: torch.Tensor) -> torch.Tensor:
    if problem.is_smooth_everywhere:
        return problem.design_norm * problem.family.max_curvature
    return problem.design_norm * problem.family.curvature(problem.predictor(x), problem.response).amax(-1)


def _above_model(
    problem: Glm, loss: torch.Tensor, gradient: torch.Tensor, at: torch.Tensor, after: torch.Tensor, curvature: torch.Tensor
) -> torch.Tensor:
    """Which problems' losses lie above their quadratic model after the step, so that their curvature has to grow."""
    if problem.is_smooth_everywhere:
        return torch.zeros_like(curvature, dtype=torch.bool)
    if float(curvature.max()) > MAX_CURVATURE:
        raise ConfigError(f"proximal gradient: got a curvature above {MAX_CURVATURE:g}; allowed: a finite, smooth loss")
    step = after - at
    model = loss + (gradient * step).sum(-1) + curvature / 2 * step.square().sum(-1)
    # The slack lets a step of zero length, and one at rounding level, pass.
    return ~(problem.loss(after) <= model + 1e-12 * loss.abs().clamp(min=1.0))


def admm(
    problem: Glm, par: PAR, strength: float | torch.Tensor, start: torch.Tensor | None = None, stopping: Stopping | None = None
) -> Solution:
    """x = argmin f + rho/2 |x - z + y|^2;  z = prox_(strength/rho psi)(x + y);  y <- y + x - z; returns z.

    rho doubles or halves where the primal and the dual residual differ tenfold. Losses other than squares take Newton steps
    in x. Arguments and errors as `proximal_gradient`. For non-convex regularizers convergence is not certain.

    Source: Boyd et al. 2011, section 3.4.1 for rho.
    """
    return _solve(problem, par, strength, start, stopping, _admm_steps)


def _admm_steps(problem: Glm, par: PAR, strength: torch.Tensor, x: torch.Tensor, stopping: Stopping) -> Solution:
    found = _unsolved(x)
    active = torch.arange(len(x), device=x.device)
    z, y, rho = x, torch.zeros_like(x), problem.design_norm.sqrt().clamp(1e-3, 1e3)
    curvature = _first_curvature(problem, x)
    factor: torch.Tensor | None = None
    table = row_columns(par, strength / rho, x)
    for iteration in range(1, stopping.iterations + 1):
        x, factor = _nearest_fit(problem, x, z - y, rho, factor)
        z_before, z = z, evaluate(x + y, *table)
        y = y + x - z
        primal, dual = (x - z).abs().amax(-1), rho * (z - z_before).abs().amax(-1)
        residual = curvature * primal + dual
        done = residual <= stopping.tolerance
        if bool(done.any()) or iteration == stopping.iterations:
            _record(found, active, z, residual, iteration, stopping)
            left = ~done
            if not bool(left.any()):
                break
            problem, active = problem.take(left), active[left]
            state = (x, z, y, rho, strength, primal, dual, curvature, *table)
            x, z, y, rho, strength, primal, dual, curvature, *columns = (t[left] for t in state)
            table = tuple(columns)
            factor = factor[left] if factor is not None else None
        if iteration % 10 == 0 and iteration < stopping.iterations // 2:
            change = torch.where(primal * rho > 10 * dual, 2.0, torch.where(dual > 10 * primal * rho, 0.5, 1.0))
            if bool((change != 1).any()):
                rho, y, factor = rho * change, y / change.unsqueeze(-1), None
                table = row_columns(par, strength / rho, x)
    return found


def _nearest_fit(
    problem: Glm, x: torch.Tensor, centre: torch.Tensor, rho: torch.Tensor, factor: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """argmin f(x) + rho/2 |x - centre|^2 by Newton steps; for squares one step, with a Cholesky factor that is used again."""
    quadratic = problem.family.name == "squares"
    for _ in range(1 if quadratic else 50):
        if factor is None:
            identity = torch.eye(problem.dimensions, dtype=x.dtype, device=x.device)
            factor = torch.linalg.cholesky(problem.hessian(x) + rho[:, None, None] * identity)
        slope = problem.gradient(x) + rho.unsqueeze(-1) * (x - centre)
        step = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
        # Newton on exp overshoots from the left; a predictor may move by 2 a step at most.
        reach = problem.predictor(step).abs().amax(-1) / 2 if not quadratic else torch.ones_like(rho)
        x = x - step / reach.clamp(min=1.0).unsqueeze(-1)
        if quadratic:
            return x, factor
        factor = None
        if float(step.abs().max()) < 1e-12 * (1 + float(x.abs().max())):
            break
    return x, None


def _unsolved(x: torch.Tensor) -> Solution:
    zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return Solution(x.clone(), zeros, zeros.clone(), zeros.to(torch.int64), zeros.bool())


def _record(
    found: Solution, active: torch.Tensor, x: torch.Tensor, residual: torch.Tensor, iteration: int, stopping: Stopping
) -> None:
    found.x[active], found.residual[active] = x, residual
    found.iterations[active], found.converged[active] = iteration, residual <= stopping.tolerance


def strengths_of(problem: Glm, given: float | torch.Tensor) -> torch.Tensor:
    """One strength a problem.

    Raises:
        ConfigError: neither one number nor one a problem; one that is negative, NaN or infinite.
    """
    strengths = torch.as_tensor(given, dtype=problem.design.dtype, device=problem.design.device)
    if strengths.shape not in ((), (1,), (problem.problems,)):
        raise ConfigError(
            f"solver strength: got shape {tuple(strengths.shape)}; allowed: one number, or shape ({problem.problems},)"
        )
    possible = (strengths >= 0) & strengths.isfinite()
    if not bool(possible.all()):
        wrong = strengths[~possible].flatten()[0].item()
        raise ConfigError(f"solver strength: got {wrong}; allowed: finite numbers >= 0")
    return strengths.expand(problem.problems)


def _start(problem: Glm, given: torch.Tensor | None) -> torch.Tensor:
    design, shape = problem.design, (problem.problems, problem.dimensions)
    if given is None:
        return torch.zeros(shape, dtype=design.dtype, device=design.device)
    if given.shape != shape:
        raise ConfigError(f"solver start: got shape {tuple(given.shape)}; allowed: {shape}")
    return given.to(design)


def _solve(
    problem: Glm, par: PAR, strength: float | torch.Tensor, start: torch.Tensor | None, stopping: Stopping | None, steps: Solver
) -> Solution:
    if problem.family.name == ABSOLUTE.name:
        raise ConfigError("solver: got the loss 'absolute', which is not smooth; allowed: squares, logistic, poisson")
    design = problem.design
    strengths = strengths_of(problem, strength)
    x = _start(problem, start)
    parts = []
    # A chunk of problems stays in the processor's cache through all its iterations.
    for begin in range(0, problem.problems, CHUNK if design.device.type == "cpu" else problem.problems):
        part = slice(begin, begin + (CHUNK if design.device.type == "cpu" else problem.problems))
        parts.append(steps(problem.take(part), par, strengths[part], x[part], stopping or Stopping()))
    joined = Solution(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Solution)))
    return replace(joined, objective=objective(problem, par, strengths, joined.x))
