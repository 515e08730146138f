"""Stochastic proximal methods on GLMs: AProx, whose last iterate stays quantized, and Prox-SGD, whose does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt

import torch

from hwsim.errors import ConfigError

from .breakpoints import prox
from .constructions import quantization_rate
from .glm import Glm
from .par import PAR
from .solvers import objective, strengths_of

StepRule = Callable[[int], float]


@dataclass(frozen=True)
class Trajectory:
    """A stochastic run, observed now and then; one entry a problem.

    Attributes:
        last: the last iterate, (problems, d).
        average: sum_s eta_s w_s / sum_s eta_s over the iterates at which gradients were taken.
        steps: the numbers of steps after which it was observed.
        objective, average_objective, rate: of the last iterate, of the average, and the last iterate's
            quantization rate, (observations, problems).
    """

    last: torch.Tensor
    average: torch.Tensor
    steps: tuple[int, ...]
    objective: torch.Tensor
    average_objective: torch.Tensor
    rate: torch.Tensor


def aprox(
    problem: Glm,
    par: PAR,
    strength: float,
    step: StepRule,
    steps: int,
    batch: int = 1,
    seed: int = 0,
    observe: Sequence[int] = (),
) -> Trajectory:
    """u <- u - eta_t g(w);  w <- prox_(gamma_t strength psi)(u),  gamma_t = eta_1 + ... + eta_t; starts at 0.

    The gradient is taken at the quantized w and accumulated in the latent u. Source: Jin et al. 2025, equation 11.

    Args:
        problem: any loss, smooth or not.
        step: eta_t of t = 1, 2, ...
        steps: how many.
        batch: observations a step, drawn with replacement, for each problem its own.
        seed: of the draws.
        observe: after which steps, 1 to the last, objective and rate are recorded; the last is added.

    Raises:
        ConfigError: a strength, or its shape, that cannot be; no steps; an empty batch; an observation before or after the run.
    """
    return _run(problem, par, strength, step, steps, batch, seed, observe, latent=True)


def prox_sgd(
    problem: Glm,
    par: PAR,
    strength: float,
    step: StepRule,
    steps: int,
    batch: int = 1,
    seed: int = 0,
    observe: Sequence[int] = (),
) -> Trajectory:
    """w <- prox_(eta_t strength psi)(w - eta_t g(w)); arguments and errors as `aprox`.

    The flat parts of its prox map shrink with eta_t, so that the last iterate loses its quantized elements.
    """
    return _run(problem, par, strength, step, steps, batch, seed, observe, latent=False)


def convergence_bound(lipschitz: float, radius: float, steps: int) -> float:
    """G R (2.5 + 1.5 ln T) / sqrt T: bounds AProx's expected gap at eta_t = R / (2 G sqrt t), last iterate and average.

    G bounds the subgradients of loss + strength psi, R is the distance from the start to a minimiser.
    Source: Jin et al. 2025, theorems 3.1 and 3.2; their constant 2 is an arithmetic slip for 2.5 (3/sqrt 2 + sqrt 2 = 5/sqrt 2).
    """
    return lipschitz * radius * (2.5 + 1.5 * log(steps)) / sqrt(steps)


def constant_step_bound(lipschitz: float, radius: float, steps: int) -> float:
    """2 G sqrt(D (2 + ln T) / T), D = R^2 / 2: bounds AProx's expected gap at eta = sqrt(D / ((2 + ln T) T)) / G, last iterate.

    G, R and the source as for `convergence_bound`; equation 30 with the Euclidean distance, whose modulus rho is 1.
    """
    return 2 * lipschitz * sqrt(radius**2 / 2 * (2 + log(steps)) / steps)


def _run(
    problem: Glm,
    par: PAR,
    strength: float,
    step: StepRule,
    steps: int,
    batch: int,
    seed: int,
    observe: Sequence[int],
    latent: bool,
) -> Trajectory:
    strengths_of(problem, strength)
    _check_run(steps, batch, observe)
    design = problem.design
    generator = torch.Generator().manual_seed(seed)
    w = torch.zeros(problem.problems, problem.dimensions, dtype=design.dtype, device=design.device)
    u, weighted, travelled = w, torch.zeros_like(w), 0.0
    times = sorted({*observe, steps})
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for t in range(1, steps + 1):
        eta = step(t)
        gradient = _sampled_gradient(problem, w, batch, generator)
        weighted, travelled = weighted + eta * w, travelled + eta
        u = (u if latent else w) - eta * gradient
        w = prox(u, par, (travelled if latent else eta) * strength)
        if t == times[len(seen)]:
            average = objective(problem, par, strength, weighted / travelled)
            seen.append((objective(problem, par, strength, w), average, quantization_rate(w, par)))
    return Trajectory(w, weighted / travelled, tuple(times), *(torch.stack(column) for column in zip(*seen, strict=True)))


def _check_run(steps: int, batch: int, observe: Sequence[int]) -> None:
    for name, number in (("steps", steps), ("batch", batch)):
        if number < 1:
            raise ConfigError(f"stochastic method {name}: got {number}; allowed: 1 or more")
    outside = [t for t in observe if not 1 <= t <= steps]
    if outside:
        raise ConfigError(f"stochastic method observe: got {outside[0]}; allowed: 1 to {steps}, the steps done")


def _sampled_gradient(problem: Glm, w: torch.Tensor, batch: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(problem.observations, (problem.problems, batch), generator=generator).to(w.device)
    rows = problem.design.gather(1, drawn.unsqueeze(-1).expand(-1, -1, problem.dimensions))
    return Glm(rows, problem.response.gather(1, drawn), problem.family).gradient(w)
