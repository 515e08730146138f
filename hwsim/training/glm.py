"""Generalized linear models as losses, many problems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite

import torch
from torch.nn.functional import softplus

from hwsim.errors import ConfigError

Pointwise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Family:
    """phi(eta; b), convex in the linear predictor eta, with its first two derivatives and a bound on the second."""

    name: str
    loss: Pointwise
    slope: Pointwise
    curvature: Pointwise
    max_curvature: float


SQUARES = Family("squares", lambda e, b: (e - b).square() / 2, lambda e, b: e - b, lambda e, b: torch.ones_like(e), 1.0)
LOGISTIC = Family(
    "logistic", lambda e, b: softplus(e) - b * e, lambda e, b: e.sigmoid() - b, lambda e, b: e.sigmoid() * (-e).sigmoid(), 0.25
)
POISSON = Family("poisson", lambda e, b: e.exp() - b * e, lambda e, b: e.exp() - b, lambda e, b: e.exp(), inf)
ABSOLUTE = Family("absolute", lambda e, b: (e - b).abs(), lambda e, b: (e - b).sign(), lambda e, b: torch.zeros_like(e), inf)


@dataclass(frozen=True)
class Glm:
    """f(x) = (1/n) sum_i phi(a_i^T x; b_i), one function a problem.

    Args:
        design: rows a_i, (problems, n, d), float64 for the accuracy that solvers are tested to.
        response: b, (problems, n): real for squares and absolute, 0 or 1 for logistic, counts for Poisson.
        family: SQUARES, LOGISTIC, POISSON, ABSOLUTE (not smooth: for AProx and Prox-SGD only), or one's own.

    Raises:
        ConfigError: shapes that do not fit.
    """

    design: torch.Tensor
    response: torch.Tensor
    family: Family = SQUARES

    def __post_init__(self) -> None:
        if self.design.ndim != 3 or self.response.shape != self.design.shape[:2]:
            given = f"{tuple(self.design.shape)} and {tuple(self.response.shape)}"
            raise ConfigError(f"Glm design and response: got {given}; allowed: (problems, n, d) and (problems, n)")

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return self.design.shape[0]

    @property
    def observations(self) -> int:
        """n."""
        return self.design.shape[1]

    @property
    def dimensions(self) -> int:
        """d."""
        return self.design.shape[2]

    def take(self, problems: torch.Tensor | slice) -> Glm:
        """Some of the problems."""
        return Glm(self.design[problems], self.response[problems], self.family)

    def predictor(self, x: torch.Tensor) -> torch.Tensor:
        """a_i^T x, (problems, n), for x (problems, d)."""
        return torch.bmm(x.unsqueeze(1), self.design.transpose(1, 2)).squeeze(1)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """f(x), (problems,)."""
        return self.family.loss(self.predictor(x), self.response).mean(-1)

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """The gradient (a subgradient where f is not smooth), (problems, d)."""
        return self.loss_and_gradient(x)[1]

    def loss_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both, from one pass over the design."""
        predictor = self.predictor(x)
        slope = self.family.slope(predictor, self.response) / self.observations
        return self.family.loss(predictor, self.response).mean(-1), torch.bmm(slope.unsqueeze(1), self.design).squeeze(1)

    def hessian(self, x: torch.Tensor) -> torch.Tensor:
        """The Hessian, (problems, d, d)."""
        weight = self.family.curvature(self.predictor(x), self.response) / self.observations
        return torch.bmm(self.design.transpose(1, 2) * weight.unsqueeze(1), self.design)

    @cached_property
    def design_norm(self) -> torch.Tensor:
        """The largest eigenvalue of A^T A / n, (problems,)."""
        a = self.design if self.observations <= self.dimensions else self.design.transpose(1, 2)
        eigenvalues: torch.Tensor = torch.linalg.eigvalsh(a @ a.transpose(1, 2))
        return eigenvalues[:, -1] / self.observations

    @property
    def is_smooth_everywhere(self) -> bool:
        """Whether the gradient has a Lipschitz constant that is known beforehand."""
        return isfinite(self.family.max_curvature)
