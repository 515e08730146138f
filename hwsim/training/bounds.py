"""Mean-square stability of quantized SGD, and the published bounds of its risk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from hwsim.casts import Cast
from hwsim.errors import ConfigError
from hwsim.formats import Float

from .equivalent import DataMoments, data_moments, relative_variance
from .moments import uncovered
from .quantizers import Noise, Quantizer
from .recursion import Recursion
from .regression import Run, describe

GAUSSIAN_KURTOSIS = 3.0
UNBIASED = 1e-6


def stability(
    eigenvalues: Any,
    step_size: float,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    storage: Any = None,
) -> float:
    """The mean-square stability number: E w w^T stays bounded if and only if it is below 1.

    Without quantizers (step / B) sum_i h_i / (2 - step h_i (1 + 1/B)), infinite once step h_max (1 + 1/B) reaches 2. In general
    the linear part of the recursion of S is diag(D) + u v^T, all entries non-negative, whose spectral radius is below 1 if and
    only if every D_i is and sum_i u_i v_i / (1 - D_i) < 1. A floating-point format of anything but the data counts with its
    relative variance 0.0902 2^(-2m) (half of it for nearest), integers with none: their error does not grow with the weights.
    Nor does that of a stored format count, which grows with the update.

    Args:
        eigenvalues, step_size, batch_size, quantizers, storage: as for `quantized_sgd`.

    Raises:
        ConfigError: see `describe`.
    """
    return stability_of(describe(eigenvalues, 0.0, 0.0, step_size, 1, batch_size, quantizers, storage=storage))


def stability_of(run: Run) -> float:
    """The stability number of a run; data quantized with scales of their own count as unquantized."""
    data = run.quantizers.get("data")
    known = not isinstance(data, Cast) or not uncovered(data)
    z = data_moments(run.eigenvalues, data if known else None)
    q, share, step = run.quantizers, 1 / run.batch_size, run.step_size
    acts, out, weights = (_growth(q.get(name)) for name in ("activations", "output_gradients", "parameters"))
    stored = run.storage.relative if isinstance(run.storage, Noise) else 0.0
    same, other = (1 + sum(out)) * (1 + sum(acts)), (1 + out[1]) * (1 + acts[1])
    p = 1 + sum(weights)
    two_samples = other * z.batch[2] * z.h**2
    own = same * (z.k4 - z.cross[1] * z.h**2)
    diagonal = (1 + stored) * (1 - 2 * step * z.h + step**2 * p * ((1 - share) * two_samples + share * own))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (1 + stored) * step**2 * share * same * z.cross[1] * p * z.h**2 / (1 - diagonal)
    active = z.h > 0
    return inf if (diagonal[active] >= 1).any() else float(terms[active].sum())


def _growth(quantizer: Quantizer | None) -> tuple[float, float]:
    """The relative variance of an error, of each element's own and of the shared kind."""
    if isinstance(quantizer, Noise):
        return (quantizer.relative, 0.0) if quantizer.sharing == "elementwise" else (0.0, quantizer.relative)
    if isinstance(quantizer, Cast) and isinstance(quantizer.format, Float):
        factor = 1.0 if quantizer.rounding.is_stochastic else 0.5
        return factor * relative_variance(quantizer.format), 0.0
    return 0.0, 0.0


@dataclass(frozen=True)
class Bound:
    """An upper bound of the expected excess risk: total = 2 bias + 2 variance + approximation.

    Attributes:
        applies: step < 1 / (alpha tr H_q); otherwise the three terms and the total are infinite.
        effective_dimension: k* = max {k: lambda_k >= 1 / (N step)} on the spectrum H_q of the quantized data.
        noise: sigma_G^2, the level of the noise that drives the variance.
    """

    bias: float
    variance: float
    approximation: float
    effective_dimension: int
    noise: float
    applies: bool

    @property
    def total(self) -> float:
        """2 bias + 2 variance + approximation."""
        return 2 * self.bias + 2 * self.variance + self.approximation


def risk_bound(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
) -> Bound:
    """The bound of the averaged iterate (`average="all"`): Zou et al.'s, on the spectrum and the noise of the quantized problem.

    With H_q = E z z^T, w_q = H_q^-1 H w*, E_k = k*/N + N step^2 sum_(i > k*) h_i^2 and the fourth-moment constant alpha:
    Bias = ||w_q||^2_(H_q^-1, i <= k*) / (step N)^2 + ||w_q||^2_(H_q, i > k*),
    Var = [sigma_G^2 + 2 alpha (||w_q||^2_(i <= k*) + N step ||w_q||^2_(H_q, i > k*)) / (N step)] E_k
    / (1 - step alpha tr H_q),
    Approx = sum_i lambda_i (h_i - lambda_i) / h_i w*_i^2: for additive errors sum_i lambda_i eps / (lambda_i + eps) w*_i^2, for
    multiplicative ones eps / (1 + eps) ||w*||_H^2.
    sigma_G^2 = (sigma^2 + eps_l + sup_t E eps_o^2 + sup_t E eps_a^2 + Approx) / B + alpha sup_t tr(H_q E eps_p eps_p^T): errors
    that depend on the data count alpha times, those that a batch shares are not divided by B, and the suprema over the iterates
    come from the exact recursion. alpha is max(3, max_i E z_i^4 / h_i^2) a sample, (alpha + B - 1) / B a batch.

    Args:
        eigenvalues, ..., quantizers: as for `quantized_sgd`.

    Raises:
        ConfigError: see `describe`; a biased quantizer: the bounds assume E Q(x) = x.

    Source: arXiv 2103.12692, theorem 2.1 (no quantizers); arXiv 2510.18259, the form of theorem 4.1, here with the constants
    of the former.
    """
    run = describe(eigenvalues, optimum, noise_variance, step_size, steps, batch_size, quantizers)
    for name, quantizer in run.quantizers.items():
        if isinstance(quantizer, Cast) and not quantizer.rounding.is_stochastic:
            raise ConfigError(
                f"quantizers.{name}: {quantizer} is biased; the bounds assume E Q(x) = x: "
                "allowed: stochastic rounding, ideal errors"
            )
    z = Recursion(run).moments
    _require_unbiased(run, z)
    n, step, batch, h = run.steps, run.step_size, run.batch_size, z.h
    kurtosis = np.divide(z.k4, h**2, out=np.zeros_like(h), where=h > 0)
    alpha = max(GAUSSIAN_KURTOSIS, float(kurtosis.max()))
    alpha_batch = (alpha + batch - 1) / batch
    best = np.divide(z.c * run.optimum, h, out=np.zeros_like(h), where=h > 0)
    approximation = float(np.sum(run.eigenvalues * (run.optimum - best) * run.optimum))
    head = h >= 1 / (n * step)
    k = int(head.sum())
    slack = 1 - step * alpha_batch * float(h.sum())
    if slack <= 0:
        return Bound(inf, inf, inf, k, inf, applies=False)
    noise = _noise(run, z, alpha, alpha_batch, approximation)
    spread = k / n + n * step**2 * float((h[~head] ** 2).sum())
    near, far = best[head] ** 2, float(h[~head] @ best[~head] ** 2)
    bias = float((near / h[head]).sum()) / (step * n) ** 2 + far
    start = 2 * alpha_batch * (float(near.sum()) + n * step * far) / (n * step)
    return Bound(bias, (noise + start) / slack * spread, approximation, k, noise, applies=True)


def _require_unbiased(run: Run, z: DataMoments) -> None:
    lost = float(np.abs(1 - np.divide(z.c, run.eigenvalues, out=np.ones_like(z.c), where=run.eigenvalues > 0)).max())
    if lost > UNBIASED:
        raise ConfigError(
            f"quantizers.data: {run.quantizers['data']} saturates: E Q(x)x / E x^2 is off by up to {lost:.2g}; "
            "the bounds assume E Q(x) = x: allowed: a larger scale"
        )


def _noise(run: Run, z: DataMoments, alpha: float, alpha_batch: float, approximation: float) -> float:
    """sigma_G^2, with the suprema over the iterates from the exact recursion."""
    recursion = Recursion(run)
    labels, variance = recursion.labels, recursion.label_variance
    levels = []
    for _ in range(run.steps):
        exact = float(z.h @ recursion.square)
        seen = recursion.step(averaging=False)
        acts, out = seen.activations, seen.output_gradients
        dependent = approximation + labels.relative * variance + acts.relative * seen.power + out.relative * seen.residual
        own = run.noise_variance + labels.additive + acts.additive + out.additive + alpha * dependent
        common = labels.shared * variance + acts.shared * seen.power + out.shared * seen.residual
        levels.append(own / run.batch_size + alpha_batch * (common + seen.power - exact))
    return max(levels)
