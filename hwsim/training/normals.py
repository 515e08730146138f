"""Gaussian and uniform numbers as a function of a Draw: the same on every device, for any split of the work."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import torch
from numba import njit

from hwsim.formats import Draw
from hwsim.formats.backends.words import BLOCK, fill_words
from hwsim.formats.philox import words

PAIRS = BLOCK // 2
ROOT_HALF = np.uint64(np.float64(0.5**0.5).view(np.uint64))
ONE = np.uint64(np.float64(1.0).view(np.uint64))
FRACTION = np.uint64((1 << 52) - 1)


def normals_(out: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Fill a contiguous float64 tensor with independent standard Gaussian numbers (Box and Muller).

    In each block of 64 words, with u = (word[i] + 1/2) / 2^32 and the angle a = 2 pi word[i + 32] / 2^32 (i < 32), elements i
    and i + 32 are sqrt(-2 ln u) cos a and sqrt(-2 ln u) sin a. The largest magnitude is 6.8.
    """
    return _fill(out, draw, _normals, _normals_of)


def uniforms_(out: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Fill a contiguous float64 tensor with (word + 1/2) / 2^32: independent uniform numbers between 0 and 1."""
    return _fill(out, draw, _uniforms, lambda block: (block + 0.5) * 2.0**-32)


def _fill(out: torch.Tensor, draw: Draw, kernel: Any, formula: Any) -> torch.Tensor:
    *numbers, offset = draw.numbers
    first, lead = divmod(offset, BLOCK)
    if out.device.type == "cpu":
        kernel(out.view(-1).numpy(), np.array(numbers), first, lead)
        return out
    blocks = -(-(lead + out.numel()) // BLOCK)
    block = words(blocks * BLOCK, (*numbers, first * BLOCK), out.device).view(blocks, BLOCK).double()
    return out.copy_(formula(block).view(-1)[lead : lead + out.numel()].view(out.shape))


def _normals_of(block: torch.Tensor) -> torch.Tensor:
    radius = torch.sqrt(-2 * torch.log((block[:, :PAIRS] + 0.5) * 2.0**-32))
    angle = block[:, PAIRS:] * (2 * pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


@njit(nogil=True, cache=True, error_model="numpy")
def _uniforms(out: Any, numbers: Any, first: Any, lead: Any) -> None:
    word = np.empty(BLOCK, np.uint32)
    for block in range((lead + out.size + BLOCK - 1) // BLOCK):
        fill_words(word, first + block, 1, numbers)
        start = block * BLOCK - lead
        for i in range(max(0, -start), min(BLOCK, out.size - start)):
            out[start + i] = (word[i] + 0.5) * 2.0**-32


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _normals(out: Any, numbers: Any, first: Any, lead: Any) -> None:
    word = np.empty(BLOCK, np.uint32)
    uniform, radius, normal = np.empty(PAIRS), np.empty(PAIRS), np.empty(BLOCK)
    for block in range((lead + out.size + BLOCK - 1) // BLOCK):
        fill_words(word, first + block, 1, numbers)
        for i in range(PAIRS):
            uniform[i] = (word[i] + 0.5) * 2.0**-32
        _radii(uniform, uniform.view(np.uint64), radius)
        _rotate(word, radius, normal)
        start = block * BLOCK - lead
        for i in range(max(0, -start), min(BLOCK, out.size - start)):
            out[start + i] = normal[i]


@njit(inline="always")
def _radii(uniform: Any, bits: Any, radius: Any) -> None:
    """sqrt(-2 ln u), u = 2^e m with m in [sqrt(1/2), sqrt(2)) and ln m = 2 artanh((m - 1) / (m + 1)) by its series."""
    for i in range(PAIRS):
        shifted = bits[i] + (ONE - ROOT_HALF)
        radius[i] = np.float64(np.int32(shifted >> np.uint64(52)) - 1023)
        bits[i] = (shifted & FRACTION) + ROOT_HALF
    for i in range(PAIRS):
        s = (uniform[i] - 1.0) / (uniform[i] + 1.0)
        t = s * s
        series = 1 / 9 + t * (1 / 11 + t * (1 / 13 + t * (1 / 15 + t * (1 / 17))))
        series = 1.0 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * series)))
        radius[i] = np.sqrt(-2.0 * (radius[i] * 0.6931471805599453 + 2.0 * s * series))


@njit(inline="always")
def _rotate(word: Any, radius: Any, normal: Any) -> None:
    """radius (cos a, sin a) by the Taylor series at a / 4, then twice the double angle: no branch, so that it vectorises."""
    for i in range(PAIRS):
        a = np.float64(np.int32(word[PAIRS + i])) * (pi / 2 * 2.0**-32)
        q = a * a
        sine = 1 / 120 + q * (
            -1 / 5040 + q * (1 / 362880 + q * (-1 / 39916800 + q * (1 / 6227020800 + q * (-1 / 1307674368000))))
        )
        sine = a * (1 + q * (-1 / 6 + q * sine))
        cosine = 1 / 24 + q * (-1 / 720 + q * (1 / 40320 + q * (-1 / 3628800 + q * (1 / 479001600 + q * (-1 / 87178291200)))))
        cosine = 1 + q * (-1 / 2 + q * cosine)
        sine2, cosine2 = 2 * sine * cosine, 1 - 2 * sine * sine
        normal[i] = radius[i] * (1 - 2 * sine2 * sine2)
        normal[PAIRS + i] = radius[i] * (2 * sine2 * cosine2)
