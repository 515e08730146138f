"""DoReFa-Net's quantizers of weights, activations and gradients (Zhou et al. 2016, arXiv 1606.06160)."""

from __future__ import annotations

from typing import Any

import torch

from .level_quantizers import check_bits
from .through import round_through


def quantize_unit(x: torch.Tensor, bits: int) -> torch.Tensor:
    """round(x (2^bits - 1)) / (2^bits - 1) for x in 0..1, ties to even; the gradient passes (equation 5)."""
    check_bits("DoReFa", bits, 1, 16)
    top = 2**bits - 1
    return round_through(x * top).div(top)


def dorefa_weight(w: torch.Tensor, bits: int) -> torch.Tensor:
    """2 q(tanh w / (2 max |tanh w|) + 1/2) - 1 (equation 9); for 1 bit mean |w| sgn(w), sgn(0) = 1 (equation 8).

    Weights that are all zero are 2 q(1/2) - 1, as a zero among others is.
    """
    if bits == 1:
        scale = w.detach().abs().mean()
        binary = torch.where(w >= 0, scale, -scale)
        return w + (binary - w).detach()
    squashed = torch.tanh(w)
    largest = squashed.detach().abs().max()
    return 2 * quantize_unit(squashed / torch.where(largest > 0, 2 * largest, 1.0) + 0.5, bits) - 1


def dorefa_activation(x: torch.Tensor, bits: int) -> torch.Tensor:
    """q(clamp(x, 0, 1)) (equation 11)."""
    return quantize_unit(x.clamp(0, 1), bits)


def dorefa_gradient(x: torch.Tensor, bits: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """x itself; its gradient g becomes 2 m (q(g/(2m) + 1/2 + N) - 1/2), m = max |g| a sample (axis 0).

    N is uniform noise of one level (equation 12). A sample whose gradients are all zero keeps them.
    """
    check_bits("DoReFa gradient", bits, 1, 16)
    return _QuantizedGradient.apply(x, bits, generator)  # type: ignore[no-any-return]


class _QuantizedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bits: int, generator: torch.Generator | None) -> torch.Tensor:
        ctx.bits, ctx.generator = bits, generator
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        top = 2**ctx.bits - 1
        largest = grad.abs().flatten(1).amax(1).reshape(-1, *[1] * (grad.ndim - 1))
        noise = (torch.rand(grad.shape, generator=ctx.generator, dtype=grad.dtype, device=grad.device) - 0.5) / top
        unit = (grad / torch.where(largest > 0, 2 * largest, 1.0) + 0.5 + noise).clamp(0, 1)
        return 2 * largest * ((unit * top).round() / top - 0.5), None, None
