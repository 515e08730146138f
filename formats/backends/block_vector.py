"""Blocks as tensor operations, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hwsim.formats.bits import power_of_two
from hwsim.formats.block_lowering import (
    ABSMAX,
    CANDIDATES,
    CEIL,
    ELEMENT,
    ERROR,
    EVEN,
    MSE,
    TWO_LEVEL,
    BlockRule,
    ScaleNumbers,
)
from hwsim.formats.level_lowering import AnyRule, numbers_of
from hwsim.formats.scaled import UNSCALED, Geometry
from hwsim.formats.tiling import Tiling

from .refusal import refuse_special
from .vector import multiply, round_tensor

MAX_EXPONENT = 1 << 11


class RoundTensor(Protocol):
    """Rounds a tensor by a rule: see `vector.round_tensor`."""

    def __call__(
        self, x: Tensor, rule: AnyRule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """The rounded tensor."""
        ...


def round_blocks(
    x: Tensor,
    rule: BlockRule,
    where: Tiling,
    draw: Sequence[int],
    dtype: torch.dtype,
    scale_dtype: torch.dtype,
    rounded: RoundTensor = round_tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """x rounded block by block, in `dtype` with x's strides; the scales, flat; the tensor's scale.

    Args:
        rounded: what rounds the elements by their scales.

    Raises:
        FormatError: NaN or infinity where the rule refuses them.
    """
    if not x.numel():
        ones = torch.ones((), device=x.device)
        return torch.empty_like(x, dtype=dtype), torch.empty(where.blocks, dtype=scale_dtype, device=x.device), ones
    finite = x.isfinite()
    if rule.numbers.special == ERROR and not bool(finite.all()):
        refuse_special(x)
    magnitude = torch.where(finite, x.detach(), 0).abs().to(torch.float64)
    encoding, tensor = _tensor_scales(magnitude, rule.numbers)
    amax = where.gather(magnitude).amax((2, 4))
    scales = _scales(amax, x, rule, where, encoding)
    if rule.numbers.special != ELEMENT:
        scales = torch.where(where.gather(finite, True).all(4).all(2), scales, torch.nan)
    known = where.spread(scales.isfinite()).view(x.shape)
    given, divisors = torch.where(known, x.detach(), 0), torch.where(scales.isfinite(), scales, 1.0)
    if rule.numbers.rule == TWO_LEVEL:
        y = _round_products(given, where.spread(divisors), tensor, rule, draw, dtype, rounded)
    else:
        y = rounded(given, rule.element, divisors.flatten().to(scale_dtype), where.geometry, draw, dtype)
    if numbers_of(rule.element).rescale:
        y = torch.where(known, y, torch.nan)
    return torch.empty_like(x, dtype=dtype).copy_(y), scales.flatten().to(scale_dtype), tensor.to(torch.float32)


def _round_products(
    x: Tensor, scales: Tensor, tensor: Tensor, rule: BlockRule, draw: Sequence[int], dtype: torch.dtype, rounded: RoundTensor
) -> Tensor:
    """Elements by the rule `two_level`: the product with the inverse of the scales is one in float32."""
    both = scales * tensor
    encoding = both.to(torch.float32).reciprocal().clamp(max=torch.finfo(torch.float32).max).view(x.shape)
    flushed = torch.where(x.abs() < rule.numbers.flush_inputs, torch.copysign(torch.zeros_like(x), x), x)
    elements = rounded(flushed.to(torch.float32) * encoding, rule.element, None, UNSCALED, draw, torch.float64)
    rescale = numbers_of(rule.element).rescale
    return (multiply(elements.flatten(), both, dtype) if rescale else elements).to(dtype).view(x.shape)


def _tensor_scales(magnitude: Tensor, numbers: ScaleNumbers) -> tuple[Tensor, Tensor]:
    """S (float32) and t (float64) of the rule `two_level`, ones elsewhere."""
    one = torch.ones((), dtype=torch.float32, device=magnitude.device)
    if numbers.rule != TWO_LEVEL:
        return one, one.double()
    largest = torch.finfo(torch.float32).max
    amax = magnitude.amax().to(torch.float32).clamp(max=largest)
    encoding = torch.where(amax > 0, torch.full_like(amax, numbers.top).div(amax).clamp(max=largest), one)
    return encoding, (1 / encoding).double()


def _scales(amax: Tensor, x: Tensor, rule: BlockRule, where: Tiling, encoding: Tensor) -> Tensor:
    """The scale of each block (float64) from its largest finite magnitude (float64)."""
    numbers = rule.numbers
    if numbers.rule == TWO_LEVEL:
        largest = torch.finfo(torch.float32).max
        raw = amax.to(torch.float32).clamp(max=largest) * (encoding * numbers.reciprocal).clamp(max=largest)
        return round_tensor(raw.double(), rule.scale, None, UNSCALED, (), torch.float64)
    if numbers.rule == ABSMAX:
        return torch.where(amax > 0, _quotient(amax, rule), numbers.smallest_scale)
    if numbers.rule == MSE:
        return torch.where(amax > 0, _best(amax, x, rule, where), numbers.smallest_scale)
    exponent = torch.where(amax > 0, _exponent(amax, numbers), -MAX_EXPONENT)
    return power_of_two(exponent.clamp(numbers.low, numbers.high))


def _quotient(amax: Tensor, rule: BlockRule) -> Tensor:
    """amax by the largest element, in the scale format, at least its smallest positive value."""
    divisor = torch.full((), rule.numbers.element_max, dtype=torch.float64, device=amax.device)
    count = max(amax.numel(), 1)
    quotient = round_tensor(amax, rule.scale, divisor, Geometry(count, count), (), torch.float64)
    return quotient.clamp(min=rule.numbers.smallest_scale)


def _exponent(amax: Tensor, numbers: ScaleNumbers) -> Tensor:
    """The exponent of a power of two by the rules `floor`, `ceil`, `even` and `rceil`."""
    mantissa, exponent = torch.frexp(amax)
    exponent = exponent.to(torch.int64)
    if numbers.rule == CEIL:
        return exponent - 1 + (mantissa > 0.5) - numbers.element_exponent
    if numbers.rule == EVEN:
        return exponent - 1 + (mantissa >= 1 - 2.0 ** -(numbers.mantissa_bits + 2)) - numbers.element_exponent
    limit, limit_exponent = torch.frexp(torch.full((), numbers.element_max, dtype=torch.float64, device=amax.device))
    if numbers.rule:
        return exponent - limit_exponent + (mantissa > limit)
    return exponent - 1 - numbers.element_exponent


def _best(amax: Tensor, x: Tensor, rule: BlockRule, where: Tiling) -> Tensor:
    """The candidate with the least squared error, summed in row-major order."""
    given = torch.where(x.isfinite(), x.detach(), 0).to(torch.float64).reshape(-1)
    best, least = torch.zeros_like(amax), torch.full_like(amax, torch.inf)
    for share in CANDIDATES:
        scale = _quotient(amax * share, rule)
        trial = round_tensor(given, rule.trial, scale.flatten(), where.geometry, (), torch.float64)
        distance = where.gather(given - trial * where.spread(scale))
        error = torch.zeros_like(amax)
        for row in range(where.height):
            for column in range(where.width):
                error = error + distance[:, :, row, :, column] * distance[:, :, row, :, column]
        better = (error < least) | (best == 0)
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
