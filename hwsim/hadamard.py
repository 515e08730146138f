"""The random Hadamard transform that spreads outliers over a block before both operands of a GEMM are cast."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.formats import Draw
from hwsim.formats.philox import words


def signs(size: int, draw: Draw) -> Tensor:
    """+1 or -1 for each place in a block: -1 where the top bit of the place's random word is set."""
    return 1.0 - 2.0 * (words(size, draw.numbers) >> 31).float()


def rotate(x: Tensor, sign: Tensor, axis: int) -> Tensor:
    """y = x D H / sqrt(N) in blocks of N along an axis, D the diagonal of signs and H Sylvester's matrix.

    Neighbours at distances 1, 2, 4, ... are added and subtracted in turn, every sum rounded to nearest even in x's dtype
    (float32 for half precision); N is a power of 4, so that the last factor is exact. NaN and infinities spread over their
    block. A short last block is filled with zeros: the axis grows to a multiple of N.

    Args:
        x: any shape. sign: (N,), +1 or -1. axis: the contracted one.

    Source: NVIDIA, "Pretraining Large Language Models with NVFP4", arXiv 2509.25149, section 4.2.
    """
    size = sign.numel()
    y = x.movedim(axis, -1)
    y = y if y.dtype is torch.float64 else y.float()
    y = torch.nn.functional.pad(y, (0, -y.shape[-1] % size))
    shape = y.shape
    y = y.reshape(*shape[:-1], -1, size) * sign.to(device=y.device, dtype=y.dtype)
    distance = 1
    while distance < size:
        pairs = y.reshape(*shape[:-1], -1, 2, distance)
        low, high = pairs.select(-2, 0), pairs.select(-2, 1)
        y = torch.stack((low + high, low - high), dim=-2)
        distance *= 2
    turned: Tensor = y.reshape(shape) / size**0.5
    return turned.movedim(-1, axis)
