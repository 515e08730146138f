"""PARs on a grid estimate as well as the penalties they stand in for, whatever the grid."""

from itertools import pairwise
from math import sqrt

import pytest
import torch

from hwsim.training import PAR, Glm, Stopping, accelerated, l1_slopes, mcp_like, quantization_rate, rate_bound

N, D, SPARSITY, NOISE, SPREAD = 100, 300, 6, 0.3, 0.5
F64 = torch.float64


def problem() -> tuple[Glm, torch.Tensor, float]:
    """A sparse truth between the levels, and the strength that the l1 theorem asks for: 2 |A^T z|_inf / n."""
    draw = torch.Generator().manual_seed(0)
    design = torch.randn(3, N, D, generator=draw, dtype=F64)
    truth = torch.zeros(3, D, dtype=F64)
    truth[:, :SPARSITY] = 1 + torch.rand(3, SPARSITY, generator=draw, dtype=F64)
    noise = NOISE * torch.randn(3, N, generator=draw, dtype=F64)
    response = torch.bmm(design, truth.unsqueeze(-1)).squeeze(-1) + noise
    strength = 2 * float(torch.bmm(noise.unsqueeze(1), design).abs().max()) / N
    return Glm(design, response), truth, strength


def restricted_eigenvalue(glm: Glm, error: torch.Tensor) -> float:
    """|A e|^2 / (n |e|^2) at the error itself: what the theorem's constant may not exceed on the cone, attained there."""
    return float((glm.predictor(error).square().sum(-1) / (N * error.square().sum(-1))).min())


@pytest.mark.parametrize("gap", [1.0, 0.5, 0.25])
def test_the_l1_like_estimate_has_the_lasso_rate_on_every_grid(gap: float) -> None:
    glm, truth, strength = problem()
    levels = tuple(gap * k for k in range(round(4 / gap) + 1))
    par = PAR(levels, l1_slopes(levels, SPREAD))
    found = accelerated(glm, par, strength, stopping=Stopping(1e-9, 20_000)).x
    error = found - truth
    on, off = error[:, :SPARSITY].abs().sum(-1), error[:, SPARSITY:].abs().sum(-1)
    assert bool((off <= (3 + 2 * SPREAD) * on).all())
    bound = (3 + 2 * SPREAD) * strength * sqrt(SPARSITY) / restricted_eigenvalue(glm, error)
    assert bool((error.norm(dim=-1) <= bound).all())
    assert float(quantization_rate(found, par).min()) >= rate_bound(par, N, D)


def test_the_l1_like_estimate_is_near_the_lasso() -> None:
    glm, truth, strength = problem()
    levels = tuple(0.25 * k for k in range(17))
    lasso, par = (
        accelerated(glm, penalty, strength / 2, stopping=Stopping(1e-9, 20_000)).x
        for penalty in (PAR((0.0,), (1.0,)), PAR(levels, l1_slopes(levels, SPREAD)))
    )
    assert float((par - truth).norm() / (lasso - truth).norm()) < 1.4


def test_the_mcp_like_estimate_beats_the_lasso_and_mcp_that_is_rounded_after_the_fit() -> None:
    glm, truth, strength = problem()
    levels, concavity = tuple(0.25 * k for k in range(17)), 3.0
    fine = tuple(concavity * k / 64 for k in range(65))
    chords = PAR(fine, (*(1 - (a + b) / (2 * concavity) for a, b in pairwise(fine)), 0.0))
    penalties = {"lasso": PAR((0.0,), (1.0,)), "mcp like": mcp_like(levels, concavity), "mcp": chords}
    found = {name: accelerated(glm, par, strength / 2, stopping=Stopping(1e-9, 20_000)).x for name, par in penalties.items()}
    grid = torch.tensor([-q for q in reversed(levels[1:])] + list(levels), dtype=F64)
    found["rounded"] = grid[torch.bucketize(found["mcp"], (grid[1:] + grid[:-1]) / 2)]
    errors = {name: float((x - truth).norm(dim=-1).mean()) for name, x in found.items()}
    # On the levels its error lies between that of MCP, which is free of them, and that of MCP rounded to them; and the bias that
    # MCP is there to avoid, the Lasso's, is gone.
    assert errors["mcp"] < errors["mcp like"] < errors["rounded"]
    assert errors["mcp like"] < errors["lasso"]
