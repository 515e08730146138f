"""The block formats, roundings and inputs that every backend is tested on."""

from __future__ import annotations

from functools import cache

import torch
from rounding_cases import differences

import hwsim
from hwsim.formats import Block, Codebook, Draw, Fixed, Float, Integer, Logarithmic, Posit, Projection, Rounding
from hwsim.formats.blocks import Blocks, quantize_blocks

DRAW = Draw(seed=5, site="layer", step=3, call=2, rank=1, offset=37)
SHAPE = (7, 45)

E2M1, E4M3, E5M2, FP32 = Float(2, 1, specials="finite"), Float(4, 3, specials="fn"), Float(5, 2), Float(8, 23)
E8M0 = Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False)
BF16, NF4 = Float(8, 7), hwsim.format("nf4")
UE5M3 = Float(5, 3, specials="fn", signed=False)

BLOCKS: dict[str, Block] = {
    **{f"mxfp4_{rule}": Block(E2M1, E8M0, 32, rule) for rule in ("floor", "ceil", "rceil", "even", "absmax", "mse")},
    "mxfp8_e4m3": Block(E4M3, E8M0, 32),
    "mxfp8_e5m2_even": Block(E5M2, E8M0, 32, "even"),
    "mxint8": Block(Fixed(8, 6, symmetric=True), E8M0, 32),
    "mxint8_element": Block(Fixed(8, 6), E8M0, 8, "rceil", special="element"),
    "msfp12": Block(Float(1, 2, bias=1, specials="finite"), E8M0, 16),
    "nvfp4": Block(E2M1, E4M3, 16, tensor_scale=FP32),
    "nvfp4_3x5": Block(E2M1, E4M3, tile=(3, 5), tensor_scale=FP32),
    "int8_two_level": Block(Integer(8), E4M3, 16, tensor_scale=FP32),
    "e5m2_two_level": Block(E5M2, E4M3, 16, tensor_scale=FP32),
    "int8_fp32": Block(Integer(8), FP32, 7),
    "int4_fp32_power": Block(Integer(4), FP32, 16, "rceil"),
    "e4m3_tile": Block(E4M3, FP32, tile=(4, 8)),
    "e4m3_power_tile": Block(E4M3, E8M0, tile=(2, 16), rule="ceil"),
    "e2m1_by_e4m3": Block(E2M1, E4M3, 16),
    "e2m1_by_e4m3_floor": Block(E2M1, E4M3, 16, "floor"),
    "e2m1_by_ue5m3_mse": Block(E2M1, UE5M3, 16, "mse"),
    "nf4_by_bf16": Block(NF4, BF16, 16),
    "nf4_mse_tile": Block(NF4, FP32, tile=(2, 5), rule="mse"),
    "nf4_two_level": Block(NF4, E4M3, 16, tensor_scale=FP32),
    "posit6_by_powers": Block(Posit(6, 1), E8M0, 16, "rceil"),
    "lns8_element": Block(Logarithmic(8, 3), E8M0, 8, "floor", special="element"),
    "uneven_levels": Block(Codebook((-3.0, -0.25, 0.0, 1.0)), FP32, 9),
    "e5m2_element": Block(E5M2, E8M0, 1, special="element"),
}


def varied(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Normal numbers of another binade in each row, powers of two and their neighbours, zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    low, high = (-14, 14) if dtype is torch.float16 else (-135, 120)
    x = x * 2.0 ** torch.randint(low, high, (*shape[:-1], 1), generator=generator).double()
    x = torch.where(torch.rand(shape, generator=generator) < 0.2, 2.0 ** x.abs().log2().round(), x).to(dtype)
    below = torch.nextafter(x, torch.zeros_like(x))
    x = torch.where(torch.rand(shape, generator=generator) < 0.1, below, x)
    x[..., 0, :] = 0.0
    x[..., 1, ::2] = -0.0
    return x


def with_specials(x: torch.Tensor) -> torch.Tensor:
    """x with NaN and both infinities in some rows."""
    x = x.clone()
    x[..., 2, 3], x[..., 3, 0], x[..., 4, -1] = float("nan"), float("inf"), float("-inf")
    return x


def projection(name: str, rounding: Rounding) -> Projection:
    """A rounding, and a place for NaN where the elements have none."""
    return Projection(rounding, nan="error" if BLOCKS[name].element.has_nan else "zero")


@cache
def given(dtype: torch.dtype) -> torch.Tensor:
    """What blocks are compared on."""
    return with_specials(varied(SHAPE, dtype))


@cache
def reference(name: str, rounding: Rounding, dtype: torch.dtype, axis: int = -1, rescale: bool = True) -> Blocks:
    """The blocks of the exact reference."""
    return quantize_blocks(given(dtype), BLOCKS[name], projection(name, rounding), axis, DRAW, "reference", rescale)


def agree(x: torch.Tensor, expected: Blocks, found: Blocks) -> None:
    """Assert that values and scales are the same, bit for bit and in the same dtypes."""
    assert found.scales.shape == expected.scales.shape
    assert found.scales.dtype == expected.scales.dtype
    assert not differences(expected.scales, expected.scales, found.scales.cpu())
    assert torch.equal(found.tensor_scale.cpu(), expected.tensor_scale)
    assert found.values.dtype == expected.values.dtype
    assert not differences(x, expected.values, found.values.cpu())
