"""How far a weight is drawn to its levels: the maps from the latent weight u to the weight w that the network computes with."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Protocol, runtime_checkable

import torch

from hwsim.errors import ConfigError

from .breakpoints import prox
from .loops import Loop
from .nearest import cell_loop, cells, nearest, nearest_loop, neighbours
from .par import PAR
from .schedules import Linear


@dataclass(frozen=True)
class Progress:
    """Where a run is: the steps done before this one, warm-up included, and the sum of their learning rates and this one's."""

    step: int
    travelled: float


class ProxMap(Protocol):
    """A map of rows u (rows, n) with levels (rows, levels) to rows w, written into `out`.

    `keeps_latent`: whether the next step starts from u (averaging methods) or from w (proximal SGD).
    """

    @property
    def keeps_latent(self) -> bool:
        """Whether the next step starts from u."""
        ...

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        ...

    def slope(self, progress: Progress) -> float:
        """How free the weights are: 1 is not quantized at all, 0 is on the levels."""
        ...


@runtime_checkable
class Looped(ProxMap, Protocol):
    """A prox map with a compiled loop, so that a part of a step stays in the cache for it."""

    def loop(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> Loop | None:
        """What writes the weights w of some elements, u and out as the compiled loops want them; None where there is none."""
        ...


@dataclass(frozen=True)
class Hard:
    """w = the nearest level, the lower one of two: BinaryConnect's straight-through estimator."""

    keeps_latent = True

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        nearest(u, levels, out)

    def loop(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> Loop:
        """What writes the weights w of some elements."""
        return nearest_loop(u, levels, out)

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return 0.0


@dataclass(frozen=True)
class Parq:
    """w = clamp(c + (u - c) / slope, q, q') in the cell [q, q'] around u with centre c; the outermost levels beyond them.

    The slope falls from 1 to 0 by `schedule`: before its start u is left alone, at its end w is the nearest level, the lower
    of two. With rho = 1/slope, w = prox_(rho psi)(rho u) of the convex PAR with lambda a_k = (1 - 1/rho)(q_k + q_(k+1))/2.

    Source: Jin et al. 2025, algorithm 1 and section 4.
    """

    schedule: Linear

    keeps_latent = True

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        slope = self.slope(progress)
        if progress.step < self.schedule.start:
            out.copy_(u)
        elif slope == 0:
            nearest(u, levels, out)
        else:
            cells(u, levels, max(slope, torch.finfo(u.dtype).tiny), out)

    def loop(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> Loop | None:
        """What writes the weights w of some elements."""
        if progress.step < self.schedule.start:
            return None
        slope = self.slope(progress)
        if slope == 0:
            return nearest_loop(u, levels, out)
        return cell_loop(u, levels, max(slope, torch.finfo(u.dtype).tiny), out)

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return self.schedule(progress.step)


@dataclass(frozen=True)
class BinaryRelax:
    """w = (1 - theta) u + theta * nearest level, theta = 1 - schedule.

    Source: Yin et al. 2018 (arXiv 1801.06313); the linear theta is Jin et al.'s.
    """

    schedule: Linear

    keeps_latent = True

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        theta = 1 - self.slope(progress)
        if theta == 1:
            nearest(u, levels, out)
        else:
            out.copy_(u.mul(1 - theta).add(nearest(u, levels), alpha=theta) if theta else u)

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return self.schedule(progress.step)


@dataclass(frozen=True)
class ProxQuant:
    """w = q + sgn(u - q) max(|u - q| - rate * t, 0), q the nearest level, t = steps since the schedule's start; hard at its end.

    The next step starts from w, as in proximal SGD. Source: Bai et al. 2019 (arXiv 1810.00861).
    """

    rate: float
    schedule: Linear

    keeps_latent = False

    def __post_init__(self) -> None:
        if not self.rate >= 0:
            raise ConfigError(f"ProxQuant rate: got {self.rate}; allowed: a number >= 0")

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        level = nearest(u, levels)
        strength = self.rate * max(progress.step - self.schedule.start, 0)
        offset = u - level
        hard = self.slope(progress) == 0
        out.copy_(level if hard else level + offset.sign() * (offset.abs() - strength).clamp(min=0))

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return self.schedule(progress.step)


@dataclass(frozen=True)
class Soft:
    """w = c + (q' - q) (sigma(T f) - 1/2) / (2 sigma(T/2) - 1), f = (u - c) / (q' - q), T from 1 to `temperature`.

    Source: the soft quantizer of Jin et al.'s released code.
    """

    schedule: Linear
    temperature: float = 1000.0

    keeps_latent = True

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        slope = self.slope(progress)
        if slope == 0:
            nearest(u, levels, out)
            return
        t = 1 + (self.temperature - 1) * (1 - slope)
        low, high = neighbours(u, levels)
        width, centre = high - low, (low + high) / 2
        f = ((u - centre) / width.clamp(min=torch.finfo(u.dtype).tiny)).clamp(-0.5, 0.5)
        reach = 2 * torch.sigmoid(torch.tensor(t / 2, dtype=torch.float64)).item() - 1
        out.copy_(centre + width * (torch.sigmoid(t * f) - 0.5) / reach)

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return self.schedule(progress.step)


@dataclass(frozen=True)
class Aprox:
    """w = prox_(gamma strength psi)(u), gamma the sum of the learning rates so far; the quantizer's levels scale the PAR.

    The PAR's largest level, of its two sides, is brought onto the level of largest magnitude of each row. It stays as it is where
    one of them is 0, and where the strength over the scale is too large for the row's dtype, as for rows of zeros.

    Raises:
        ConfigError: a strength that is negative, NaN or infinite.

    Source: Jin et al. 2025, equation 11.
    """

    par: PAR
    strength: float

    keeps_latent = True

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and isfinite(self.strength)):
            raise ConfigError(f"Aprox strength: got {self.strength}; allowed: a finite number >= 0")

    def __call__(self, u: torch.Tensor, levels: torch.Tensor, progress: Progress, out: torch.Tensor) -> None:
        """Write the weights w."""
        largest, strength = max(self.par.levels[-1], self.par.mirrored.levels[-1]), progress.travelled * self.strength
        ratio = levels.abs().amax(-1, keepdim=True) / (largest or 1.0)
        scale = torch.where((ratio > 0) & (strength / ratio).isfinite(), ratio, 1.0) if largest else torch.ones_like(ratio)
        # psi is positively homogeneous: with levels times s, prox_t(u) = s prox_(t/s)(u/s).
        out.copy_(scale * prox(u / scale, self.par, (strength / scale).squeeze(-1)))

    def slope(self, progress: Progress) -> float:
        """How free the weights are."""
        return 1 / (1 + progress.travelled * self.strength)
