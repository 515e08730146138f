"""PARs on a grid estimate as well as the penalties they stand in for, whatever the grid."""

from itertools import pairwise
from math import inf, sqrt

import pytest
import torch

from hwsim.training import (
    PAR,
    Glm,
    Stopping,
    accelerated,
    l1_slopes,
    mcp,
    mcp_like,
    proximal_gradient,
    quantization_rate,
    rate_bound,
)

N, D, SPARSITY, NOISE, SPREAD = 100, 300, 6, 0.3, 0.5
F64 = torch.float64


def problem(problems: int = 3, n: int = N, d: int = D) -> tuple[Glm, torch.Tensor, torch.Tensor]:
    """A sparse truth between the levels, and the noise."""
    draw = torch.Generator().manual_seed(0)
    design = torch.randn(problems, n, d, generator=draw, dtype=F64)
    truth = torch.zeros(problems, d, dtype=F64)
    truth[:, :SPARSITY] = 1 + torch.rand(problems, SPARSITY, generator=draw, dtype=F64)
    noise = NOISE * torch.randn(problems, n, generator=draw, dtype=F64)
    return Glm(design, torch.bmm(design, truth.unsqueeze(-1)).squeeze(-1) + noise), truth, noise


def theorem_strength(glm: Glm, noise: torch.Tensor) -> float:
    """What the l1 theorem asks for: 2 |A^T z|_inf / n."""
    return 2 * float(torch.bmm(noise.unsqueeze(1), glm.design).abs().max()) / glm.observations


def restricted_eigenvalue(glm: Glm, error: torch.Tensor) -> float:
    """|A e|^2 / (n |e|^2) at the error itself: what the theorem's constant may not exceed on the cone, attained there."""
    return float((glm.predictor(error).square().sum(-1) / (N * error.square().sum(-1))).min())


@pytest.mark.parametrize("gap", [1.0, 0.5, 0.25])
def test_the_l1_like_estimate_has_the_lasso_rate_on_every_grid(gap: float) -> None:
    """|x - truth| <= (3 + 2 spread) strength sqrt(s) / kappa, by a factor of three."""
    glm, truth, noise = problem()
    strength = theorem_strength(glm, noise)
    levels = tuple(gap * k for k in range(round(4 / gap) + 1))
    par = PAR(levels, l1_slopes(levels, SPREAD))
    found = accelerated(glm, par, strength, stopping=Stopping(1e-9, 20_000)).x
    error = found - truth
    on, off = error[:, :SPARSITY].abs().sum(-1), error[:, SPARSITY:].abs().sum(-1)
    assert bool((off <= (3 + 2 * SPREAD) * on).all())
    bound = (3 + 2 * SPREAD) * strength * sqrt(SPARSITY) / restricted_eigenvalue(glm, error)
    assert bool((error.norm(dim=-1) <= bound / 3).all())
    assert float(quantization_rate(found, par).min()) >= rate_bound(par, N, D)


def test_the_l1_like_estimate_is_less_than_a_fifth_farther_off_than_the_lasso() -> None:
    """The mean ratio of their errors over 40 instances, with three standard errors above it."""
    glm, truth, noise = problem(40)
    strength = torch.bmm(noise.unsqueeze(1), glm.design).abs().amax((1, 2)) / N
    levels = tuple(0.25 * k for k in range(17))
    lasso, par = (
        accelerated(glm, penalty, strength, stopping=Stopping(1e-6, 20_000)).x
        for penalty in (PAR((0.0,), (1.0,)), PAR(levels, l1_slopes(levels, SPREAD)))
    )
    ratio = (par - truth).norm(dim=-1) / (lasso - truth).norm(dim=-1)
    assert float(ratio.mean() + 3 * ratio.std() / len(ratio) ** 0.5) < 1.2


def firm_thresholding(glm: Glm, strength: float, concavity: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The minimisers of loss + strength MCP, and how strongly convex each problem is around them: by proximal gradient."""
    eigenvalues = torch.linalg.eigvalsh(glm.hessian(torch.zeros(glm.problems, glm.dimensions, dtype=F64)))
    curvature, x = eigenvalues[:, -1:], torch.zeros(glm.problems, glm.dimensions, dtype=F64)
    for _ in range(500):
        u, t = x - glm.gradient(x) / curvature, strength / curvature
        x = torch.where(u.abs() < concavity, u.sign() * (u.abs() - t).clamp(min=0) / (1 - t / concavity), u)
    return x, eigenvalues[:, 0] - strength / concavity


@pytest.mark.parametrize("gap", [1.0, 0.5, 0.25, 0.125])
def test_descent_on_the_mcp_like_penalty_stays_as_near_to_mcp_as_the_penalties_differ(gap: float) -> None:
    """|x - x_MCP|^2 <= 2 strength E / mu, E = (psi - MCP)(x_MCP) <= floor |x_MCP|_1 + (non-zeros) gap / 4; at most a quarter."""
    glm, _, _ = problem(20, 200, 40)
    strength, concavity, floor = 0.1, 3.0, 0.05
    start, convexity = firm_thresholding(glm, strength, concavity)
    par = mcp_like(tuple(gap * k for k in range(round(4 / gap) + 1)), concavity, floor)
    found = proximal_gradient(glm, par, strength, start, Stopping(1e-9, 20_000)).x
    apart, above = (found - start).norm(dim=-1), (par.value(start) - mcp(start, concavity)).sum(-1)
    assert bool((above <= floor * start.abs().sum(-1) + (start != 0).sum(-1) * gap / 4).all())
    assert float(convexity.min()) > 0.2
    assert 0 < float((apart / (2 * strength * above / convexity).sqrt()).max()) <= 0.25
    assert float(quantization_rate(found, par).mean()) > float(quantization_rate(start, par).mean())


def test_par_finds_planted_ternary_weights_ten_times_nearer_than_rounding_ridge_with_its_best_strength() -> None:
    """70 observations of 100 weights, a fifth of them -1 or 1: of 20 instances' errors, whose means' ratio is 26."""
    draw, levels = torch.Generator().manual_seed(0), (0.0, 1.0)
    design = torch.randn(20, 70, 100, generator=draw, dtype=F64)
    signs = torch.randint(2, (20, 100), generator=draw).double() * 2 - 1
    truth = signs * (torch.rand(20, 100, generator=draw, dtype=F64) < 0.2)
    noise = 0.05 * torch.randn(20, 70, generator=draw, dtype=F64)
    glm = Glm(design, torch.bmm(design, truth.unsqueeze(-1)).squeeze(-1) + noise)
    par = PAR(levels, (*l1_slopes(levels)[:-1], inf))
    own = (accelerated(glm, par, 0.003, stopping=Stopping(1e-6, 5000)).x - truth).norm(dim=-1)
    moment, gram = (design * glm.response.unsqueeze(-1)).mean(1), glm.hessian(torch.zeros(20, 100, dtype=F64))
    ridges = [torch.linalg.solve(gram + t * torch.eye(100, dtype=F64), moment) for t in (1e-4, 1e-3, 1e-2, 1e-1)]
    rounded = torch.stack([(x.round().clamp(-1, 1) - truth).norm(dim=-1) for x in ridges]).amin(0)
    difference = rounded - 10 * own
    assert float(difference.mean() - 3 * difference.std() / len(own) ** 0.5) > 0


@pytest.mark.parametrize(("n", "d", "beats_rounding"), [(100, 300, True), (60, 120, False)])
def test_the_mcp_like_estimate_lies_between_mcp_and_the_lasso_and_beats_rounding_where_n_is_large(
    n: int, d: int, beats_rounding: bool
) -> None:
    """Of 40 instances, the mean difference of two methods' errors with three standard errors about it."""
    glm, truth, noise = problem(40, n, d)
    levels, concavity = tuple(0.25 * k for k in range(17)), 3.0
    fine = tuple(concavity * k / 64 for k in range(65))
    chords = PAR(fine, (*(1 - (a + b) / (2 * concavity) for a, b in pairwise(fine)), 0.0))
    penalties = {"lasso": PAR((0.0,), (1.0,)), "mcp like": mcp_like(levels, concavity), "mcp": chords}
    strength = torch.bmm(noise.unsqueeze(1), glm.design).abs().amax((1, 2)) / n
    found = {name: accelerated(glm, par, strength, stopping=Stopping(1e-6, 20_000)).x for name, par in penalties.items()}
    grid = torch.tensor([-q for q in reversed(levels[1:])] + list(levels), dtype=F64)
    found["rounded"] = grid[torch.bucketize(found["mcp"], (grid[1:] + grid[:-1]) / 2)]
    errors = {name: (x - truth).norm(dim=-1) for name, x in found.items()}

    def interval(worse: str, better: str) -> tuple[float, float]:
        difference = errors[worse] - errors[better]
        mean, reach = float(difference.mean()), 3 * float(difference.std()) / len(difference) ** 0.5
        return mean - reach, mean + reach

    assert interval("lasso", "mcp like")[0] > 0
    assert interval("mcp like", "mcp")[0] > 0
    low, high = interval("rounded", "mcp like")
    assert (low > 0) == beats_rounding
    assert high > 0
