"""Constant-step SGD for linear regression with five quantizers, simulated for thousands of replicas at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from hwsim.errors import ConfigError
from hwsim.formats import Draw

from .bounds import stability_of
from .normals import normals_
from .quantizers import quantize_
from .regression import Run, StabilityWarning, describe
from .threads import in_threads, ranges

PIECE_ELEMENTS = 1 << 16
PIECE_REPLICAS = 64
CHECK_EVERY = 16
DIVERGED = 1e12


@dataclass(frozen=True)
class Ensemble:
    """What became of the replicas of one run.

    Attributes:
        excess_risk: 1/2 E(<w, x> - <w*, x>)^2 on clean data for each replica's averaged weights, float64, shape (replicas,);
            infinite where the replica diverged (a weight beyond 1e12 max(1, max |w*|)).
        weights: the averaged weights, in the coordinates of the data, float64, shape (replicas, d).
    """

    excess_risk: Tensor
    weights: Tensor

    @cached_property
    def mean(self) -> float:
        """The mean excess risk; infinite if a replica diverged."""
        return float(self.excess_risk.mean())

    @cached_property
    def standard_error(self) -> float:
        """The standard error of the mean, over replicas."""
        return float(self.excess_risk.std() / sqrt(len(self.excess_risk)))

    @property
    def diverged(self) -> bool:
        """Whether any replica diverged."""
        return bool(torch.isinf(self.excess_risk).any())


def quantized_sgd(
    eigenvalues: Any,
    optimum: Any,
    noise_variance: float,
    step_size: float,
    steps: int,
    batch_size: int = 1,
    quantizers: Mapping[str, Any] | None = None,
    average: str | None = "all",
    tail: int | None = None,
    storage: Any = None,
    rotation: Tensor | None = None,
    replicas: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Ensemble:
    """w <- Q_s(w + (step / B) Q_d(X)^T Q_o(Q_l(y) - Q_a(Q_d(X) Q_p(w)))), from w_0 = 0, in float64.

    X has B fresh rows x ~ N(0, H), y = X w* + xi. Q_d, Q_l, Q_p, Q_a, Q_o are the quantizers of `data`, `labels`, `parameters`,
    `activations` and `output_gradients`; the products are exact. Every random number is a function of the seed, the replica, the
    step and the place it is used in, so that results depend on neither the device (but for the order of sums) nor the threads.

    Args:
        eigenvalues: of H, shape (d,), not negative.
        optimum: w* in the eigenbasis, shape (d,), or one number for all entries.
        noise_variance: of the label noise xi.
        step_size, steps, batch_size: the constant step, N, and B.
        quantizers: by name; each a format (see Cast), ("additive", variance), ("multiplicative", relative variance[, sharing])
            or ("dither", step) (see Noise). What is left out is exact.
        average: `all` averages w_0 .. w_(N-1), `tail` the last `tail` of these; `none` (or `last`) takes w_N.
        storage: the quantizer Q_s of the stored weights; w is its output.
        rotation: orthogonal, shape (d, d): x = U diag(eigenvalues)^(1/2) g and the optimum is U w*; by default the identity.
        replicas: how many independent runs.

    Raises:
        ConfigError: see `describe`; a rotation that is not orthogonal.

    Warns:
        StabilityWarning: the step lies beyond mean-square stability; the run goes on, and what diverges is a result.

    Source: the algorithm of arXiv 2510.18259, there without `storage`.
    """
    run = describe(eigenvalues, optimum, noise_variance, step_size, steps, batch_size, quantizers, average, tail, storage)
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise ConfigError(f"replicas: got {replicas!r}; allowed: a whole number from 1 on")
    turn = None if rotation is None else _orthogonal(rotation, run).to(device)
    number = stability_of(run)
    if number >= 1:
        warnings.warn(
            StabilityWarning(f"step_size: {step_size:g} has stability number {number:.3g}; below 1 it is stable"), stacklevel=2
        )
    problem = _Problem(run, turn, seed, torch.device(device))
    a_replica = run.batch_size * run.eigenvalues.size
    piece = max(1, PIECE_ELEMENTS // (a_replica * PIECE_REPLICAS)) * PIECE_REPLICAS
    weights = torch.cat(in_threads(problem.train, ranges(replicas, piece)))
    return Ensemble(problem.excess_risk(weights), weights)


class _Problem:
    """The run's tensors on its device."""

    def __init__(self, run: Run, rotation: Tensor | None, seed: int, device: torch.device) -> None:
        self.run, self.seed, self.rotation, self.device = run, seed, rotation, device
        self.eigenvalues = torch.as_tensor(run.eigenvalues).to(device)
        self.root = self.eigenvalues.sqrt()
        optimum = torch.as_tensor(run.optimum).to(device)
        self.optimum = optimum if rotation is None else rotation @ optimum
        self.limit = DIVERGED * max(1.0, float(optimum.abs().max()))

    def excess_risk(self, weights: Tensor) -> Tensor:
        difference = weights - self.optimum
        if self.rotation is not None:
            difference = difference @ self.rotation
        return torch.nan_to_num((difference**2 @ self.eigenvalues) / 2, nan=inf)

    def train(self, replica_range: tuple[int, int]) -> Tensor:
        """The averaged weights of the replicas of a range; NaN where they diverged."""
        run, d = self.run, self.run.eigenvalues.size
        first, replicas = replica_range[0], replica_range[1] - replica_range[0]
        room = torch.empty(replicas * run.batch_size * d, dtype=torch.float64, device=self.device)
        x = torch.empty(replicas, run.batch_size, d, dtype=torch.float64, device=self.device)
        w = torch.zeros(replicas, d, dtype=torch.float64, device=self.device)
        total = torch.zeros_like(w)
        diverged = torch.zeros(replicas, dtype=torch.bool, device=self.device)
        for t in range(run.steps):
            if t >= run.first:
                total += w
            self._step(w, x, room, t, first)
            if t % CHECK_EVERY == CHECK_EVERY - 1 or t == run.steps - 1:
                lost = ~(w.abs().amax(dim=1) < self.limit)
                diverged |= lost
                w[lost] = 0.0
        result = total / (run.steps - run.first) if run.averaged else w
        result[diverged] = torch.nan
        return result

    def _step(self, w: Tensor, x: Tensor, room: Tensor, t: int, first: int) -> None:
        """One update of w, in place; x and room are overwritten."""
        run = self.run
        replicas, batch, _ = x.shape
        normals_(x, self._draw("sample", t, first * x[0].numel())).mul_(self.root)
        if self.rotation is not None:
            torch.matmul(x, self.rotation.T, out=room.view(x.shape))
            x.copy_(room.view(x.shape))
        residual = normals_(
            torch.empty(replicas, batch, dtype=torch.float64, device=self.device), self._draw("noise", t, first * batch)
        )
        residual.mul_(sqrt(run.noise_variance)).add_(x @ self.optimum)
        self._quantize("labels", residual, room, t, first)
        self._quantize("data", x, room, t, first)
        parameters = w
        if "parameters" in run.quantizers:
            parameters = w.clone()
            self._quantize("parameters", parameters, room, t, first)
        activations = torch.bmm(x, parameters.unsqueeze(2)).squeeze(2)
        self._quantize("activations", activations, room, t, first)
        residual -= activations
        self._quantize("output_gradients", residual, room, t, first)
        if batch == 1:
            w.addcmul_(x.squeeze(1), residual, value=run.step_size)
        else:
            w.unsqueeze(2).baddbmm_(x.transpose(1, 2), residual.unsqueeze(2), alpha=run.step_size / batch)
        self._quantize("storage", w, room, t, first)

    def _quantize(self, place: str, x: Tensor, room: Tensor, t: int, first: int) -> None:
        quantizer = self.run.storage if place == "storage" else self.run.quantizers.get(place)  # type: ignore[call-overload]
        if quantizer is not None:
            quantize_(x, quantizer, self._draw(place, t, first * x[0].numel()), room)

    def _draw(self, place: str, t: int, offset: int) -> Draw:
        return Draw(self.seed, f"sgd.{place}", t, offset=offset)


def _orthogonal(rotation: Tensor, run: Run) -> Tensor:
    u = rotation.double()
    d = run.eigenvalues.size
    if u.shape != (d, d):
        raise ConfigError(f"rotation: got shape {tuple(u.shape)}; allowed: ({d}, {d})")
    error = float((u @ u.T - torch.eye(d, dtype=u.dtype, device=u.device)).abs().max())
    if error > 1e-6:
        raise ConfigError(f"rotation: U U^T differs from the identity by {error:.2g}; allowed: an orthogonal matrix")
    return u
