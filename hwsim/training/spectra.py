"""Spectra and bases of the data, and what quantizing the data does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hwsim.errors import ConfigError, not_allowed

from .equivalent import data_moments
from .quantizers import Noise, parse_quantizer
from .regression import describe

Array = npt.NDArray[np.float64]
Basis = Literal["identity", "hadamard", "random"]
UNBIASED = 1e-6
BASES = ("identity", "hadamard", "random")


def power_law(dimension: int, exponent: float) -> Array:
    """lambda_i = i^-exponent, i = 1 .. dimension."""
    i: Array = np.arange(1, _dimension(dimension) + 1, dtype=np.float64)
    return np.power(i, -float(exponent))


def exponential(dimension: int, rate: float) -> Array:
    """lambda_i = exp(-rate (i - 1)), i = 1 .. dimension."""
    i: Array = np.arange(_dimension(dimension), dtype=np.float64)
    return np.exp(-float(rate) * i)


def spiked(dimension: int, spikes: Sequence[float], floor: float) -> Array:
    """The spikes, then `floor` for the remaining dimensions.

    Raises:
        ConfigError: more spikes than dimensions.
    """
    if len(spikes) > _dimension(dimension):
        raise ConfigError(f"spikes: got {len(spikes)} for dimension {dimension}; allowed: at most one a dimension")
    return np.concatenate([np.asarray(spikes, np.float64), np.full(dimension - len(spikes), float(floor))])


def rotation(basis: Basis, dimension: int, seed: int = 0) -> torch.Tensor:
    """An orthogonal matrix U, float64: the data are x = U diag(lambda)^(1/2) g.

    Args:
        basis: `identity`; `hadamard`, Sylvester's matrix over sqrt(dimension); `random`, Haar measure from the seed.

    Raises:
        ConfigError: no such basis, or a Hadamard matrix of a dimension that is no power of two.
    """
    d = _dimension(dimension)
    if basis == "identity":
        return torch.eye(d, dtype=torch.float64)
    if basis == "random":
        q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
        return torch.as_tensor(q * np.sign(np.diag(r)))
    if basis != "hadamard":
        raise ConfigError(not_allowed("basis", basis, BASES))
    if d & (d - 1):
        low = 1 << (d.bit_length() - 1)
        raise ConfigError(f"dimension: got {d} for a Hadamard matrix; allowed: powers of two, such as {low} and {2 * low}")
    u = torch.ones(1, 1, dtype=torch.float64)
    while u.shape[0] < d:
        u = torch.cat([torch.cat([u, u], 1), torch.cat([u, -u], 1)])
    return u / sqrt(d)


@dataclass(frozen=True)
class Distortion:
    """What quantizing the data does to their second moments.

    Attributes:
        spectrum: the eigenvalues of H_q = E Q(x) Q(x)^T, descending.
        approximation: the excess risk 1/2 ||w_q - w*||_H^2 of the best predictor from the quantized data.
        irreducible: 1/2 E (<w*, x> - <w_q, Q(x)>)^2, the risk on quantized data that no weights avoid.
    """

    spectrum: Array
    approximation: float
    irreducible: float


def spectral_distortion(eigenvalues: Any, optimum: Any, quantizer: Any, basis: torch.Tensor | None = None) -> Distortion:
    """H_q = H + diag(E v(x_k)) for unbiased elementwise errors of variance v, in the coordinates of x = U diag(lambda)^(1/2) g.

    A rank-one or batch-common error scales H as a whole: H_q = (1 + eps) H in any basis.

    Args:
        eigenvalues, optimum: as for `quantized_sgd`, in the eigenbasis.
        quantizer: of the data: a Noise's tuple, or a format with stochastic rounding.
        basis: U; by default the identity.

    Raises:
        ConfigError: see `describe`; a biased quantizer in a rotated basis, whose errors in different coordinates correlate.
    """
    run = describe(eigenvalues, optimum, 0.0, 1.0, 1)
    q = parse_quantizer(quantizer, "quantizer")
    u = np.eye(run.optimum.size) if basis is None else basis.double().cpu().numpy()
    h = (u * run.eigenvalues) @ u.T
    z = data_moments(np.diag(h).copy(), q)
    biased = bool((np.abs(z.c - np.diag(h)) > UNBIASED * np.diag(h)).any())
    if biased and basis is not None:
        raise ConfigError(
            f"quantizer: {q} is biased, or saturates; "
            "allowed in a rotated basis: stochastic rounding without saturation, ideal errors"
        )
    quantized: Array = h + np.diag(z.h - np.diag(h))
    if isinstance(q, Noise) and q.sharing != "elementwise":
        quantized = (1 + q.size) * h
    cross = np.diag(z.c) if biased else h
    target = u @ run.optimum
    best = np.linalg.lstsq(quantized, cross @ target, rcond=None)[0]
    off = best - target
    left = target @ h @ target - best @ cross @ target
    spectrum: Array = np.linalg.eigvalsh(quantized)[::-1].astype(np.float64)
    return Distortion(spectrum, float(off @ h @ off) / 2, float(left) / 2)


def _dimension(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise ConfigError(f"dimension: got {given!r}; allowed: a whole number from 1 on")
    return int(given)
