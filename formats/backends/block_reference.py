"""Blocks one at a time, by the definitions, in exact rational arithmetic: slow, and obviously right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import copysign, inf, isfinite, isnan, nan

import torch
from torch import Tensor

from hwsim.formats.block import FLOAT32, Block
from hwsim.formats.block_lowering import CANDIDATES
from hwsim.formats.errors import FormatError
from hwsim.formats.grid import power_of_two
from hwsim.formats.philox import Draw, word
from hwsim.formats.reference import SMALLEST_NORMAL_FLOAT32, check_projection, project, project_scaled
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS, result_dtype
from hwsim.formats.tiling import Tiling

from .refusal import refuse_special

NEAREST, TO_INFINITY = Projection(), Projection(overflow="infinity")


def quantize_block(
    x: Tensor, fmt: Block, projection: Projection, where: Tiling, draw: Draw, rescale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `hwsim.formats.blocks.quantize_blocks`; the scales come flat, block after block."""
    check_projection(fmt.element, projection)
    if fmt.special == "error" and not bool(x.isfinite().all()):
        refuse_special(x)
    dtype = result_dtype(fmt, x.dtype)
    given: list[float] = x.double().flatten().tolist()
    encoding, tensor = _tensor_scales(given, fmt)
    result, scales = [0.0] * len(given), []
    for places in _blocks(where):
        scale = _scale([given[i] for i in places], fmt, encoding)
        scales.append(scale)
        for i in places:
            random = word(i, draw) if projection.rounding.is_stochastic else 0
            try:
                result[i] = _element(given[i], scale, tensor, fmt, projection, dtype, random, rescale)
            except FormatError as error:
                raise FormatError(f"element {i} of x, {given[i]}: {error}", error.field) from error
    values = torch.tensor(result, dtype=torch.float64).view(x.shape).to(x.device, dtype)
    flat = torch.tensor(scales, dtype=torch.float64).to(x.device, fmt.scale.carrier)
    return torch.empty_like(x, dtype=dtype).copy_(values), flat, torch.tensor(tensor, dtype=torch.float32, device=x.device)


def _blocks(where: Tiling) -> Iterator[list[int]]:
    """The row-major indices of the elements of each block."""
    for matrix in range(where.outer if where.rows * where.columns else 0):
        for top in range(0, where.rows, where.height):
            for left in range(0, where.columns, where.width):
                rows = range(top, min(top + where.height, where.rows))
                columns = range(left, min(left + where.width, where.columns))
                yield [(matrix * where.rows + row) * where.columns + column for row in rows for column in columns]


def _element(
    x: float, scale: float, tensor: float, fmt: Block, projection: Projection, dtype: torch.dtype, random: int, rescale: bool
) -> float:
    if isnan(scale):
        return nan if rescale else float(project(0.0, fmt.element, projection, random))
    if fmt.tensor_scale is None:
        return float(project_scaled(x, scale, fmt.element, projection, CARRIERS[dtype], random)[rescale])
    if projection.flush_inputs and abs(x) < SMALLEST_NORMAL_FLOAT32:
        x = copysign(0.0, x)
    rounded = project(_product(x, scale, tensor), fmt.element, replace(projection, flush_inputs=False), random)
    if not rescale:
        return float(rounded)
    if not (rounded and scale and isfinite(rounded)):
        return float(rounded) * scale
    value = float(project(Fraction(rounded) * Fraction(scale) * Fraction(tensor), CARRIERS[dtype], TO_INFINITY))
    return copysign(value, float(rounded))


def _product(x: float, scale: float, tensor: float) -> float:
    """x / (s t) by the rule `two_level`: a product in float32."""
    decoding = _float32(Fraction(scale) * Fraction(tensor))
    encoding = _float32(1 / decoding) if decoding else Fraction(FLOAT32.max)
    single = float(project(x, FLOAT32, TO_INFINITY))
    if not (single and isfinite(single)):
        return single
    product = float(project(Fraction(single) * encoding, FLOAT32, TO_INFINITY))
    return copysign(product, x)


def _scale(block: list[float], fmt: Block, encoding: Fraction) -> float:
    """The scale of a block by its format's rule (see Block)."""
    if fmt.special == "nan" and not all(map(isfinite, block)):
        return nan
    amax = max((abs(Fraction(v)) for v in block if isfinite(v)), default=Fraction(0))
    largest, smallest = Fraction(fmt.element.max), fmt.scale.smallest_subnormal
    match fmt.scale_rule:
        case "two_level":
            factor = _float32(encoding * _float32(1 / largest))
            return float(project(_float32(_float32(amax) * factor), fmt.scale, NEAREST))
        case "absmax":
            return max(float(project(amax / largest, fmt.scale, NEAREST)), smallest) if amax else smallest
        case "mse":
            return _best(block, float(amax), fmt) if amax else smallest
    low, high = fmt.scale_exponents
    exponent = _exponent(amax, fmt) if amax else low
    return float(power_of_two(min(max(exponent, low), high)))


def _exponent(amax: Fraction, fmt: Block) -> int:
    match fmt.scale_rule:
        case "floor":
            return _floor_log2(amax) - fmt.element_exponent
        case "ceil":
            return _ceil_log2(amax) - fmt.element_exponent
        case "even":
            ulp = power_of_two(_floor_log2(amax) - fmt.element_mantissa_bits)
            return _floor_log2(round(amax / ulp) * ulp) - fmt.element_exponent
        case _:
            return _ceil_log2(amax / Fraction(fmt.element.max))


def _floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e - (x < power_of_two(e))


def _ceil_log2(x: Fraction) -> int:
    e = _floor_log2(x)
    return e + (x > power_of_two(e))


def _best(block: list[float], amax: float, fmt: Block) -> float:
    best, least = 0.0, inf
    for share in CANDIDATES:
        raw = amax * share
        quotient = Fraction(raw) / Fraction(fmt.element.max) if isfinite(raw) else raw
        scale = max(float(project(quotient, fmt.scale, NEAREST)), fmt.scale.smallest_subnormal)
        error = 0.0
        for x in block:
            if isfinite(x):
                distance = x - float(project(Fraction(x) / Fraction(scale), fmt.element, NEAREST)) * scale
                error += distance * distance
        if best == 0 or error < least:
            best, least = scale, error
    return best


def _tensor_scales(given: list[float], fmt: Block) -> tuple[Fraction, float]:
    """S and t of the rule `two_level`, ones elsewhere."""
    amax = _float32(max((abs(Fraction(v)) for v in given if isfinite(v)), default=Fraction(0)))
    if fmt.tensor_scale is None or not amax:
        return Fraction(1), 1.0
    encoding = _float32(_float32(Fraction(fmt.element.max) * Fraction(fmt.scale.max)) / amax)
    return encoding, float(_float32(1 / encoding))


def _float32(x: Fraction) -> Fraction:
    """The nearest float32, or its largest number."""
    return Fraction(project(x, FLOAT32, NEAREST))
