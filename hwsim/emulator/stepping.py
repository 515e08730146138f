"""The steps inside the vector unit: exponentials, logarithms, sums and means, each rounded once as declared."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.casting import apply
from hwsim.casts import Cast
from hwsim.macs import matmul
from hwsim.vector import Steps


def carried(x: Tensor) -> Tensor:
    """The tensor in the carrier of the unit's registers: float64 stays, everything else is float32."""
    return x if x.dtype is torch.float64 else x.float()


class Stepping:
    """Does what `Steps` declares, on tensors of the carrier.

    Elementary functions and quotients are computed in float64 and rounded once: to the step's format, or else to the carrier.
    """

    __slots__ = ("_unit", "declared")

    def __init__(self, declared: Steps) -> None:
        self.declared = declared
        self._unit = None if declared.sum is None else declared.sum.unit

    def exp(self, x: Tensor) -> Tensor:
        """e^x."""
        return _rounded(self.declared.exp, x.double().exp(), x.dtype)

    def log(self, x: Tensor) -> Tensor:
        """The natural logarithm."""
        return _rounded(self.declared.log, x.double().log(), x.dtype)

    def rsqrt(self, x: Tensor, eps: float) -> Tensor:
        """1 / sqrt(x + eps)."""
        return _rounded(self.declared.rsqrt, (x.double() + eps).sqrt().reciprocal(), x.dtype)

    def sum(self, x: Tensor) -> Tensor:
        """(..., K) summed over its last axis, from its first element to its last in the declared order."""
        if self._unit is None or not x.numel():
            return x.sum(-1)
        rows = x.reshape(-1, x.shape[-1])
        return matmul(rows, rows.new_ones(rows.shape[1], 1), self._unit).reshape(x.shape[:-1]).to(x.dtype)

    def mean(self, total: Tensor, count: Tensor | float) -> Tensor:
        """A sum divided by the number of its terms."""
        return _rounded(self.declared.mean, total.double() / count, total.dtype)

    def variance(self, total: Tensor, count: int) -> Tensor:
        """A sum of squares divided by the number of its terms."""
        return _rounded(self.declared.variance, total.double() / count, total.dtype)


def _rounded(cast: Cast | None, x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if cast is None else apply(cast, x).to(dtype)
