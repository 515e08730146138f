"""Microscaling blocks against torchao's `to_mx`, NVFP4 against TransformerEngine's rule, within float32's normal range."""

from __future__ import annotations

import warnings

import pytest
import torch

import hwsim
from hwsim.formats import Block

RULES = {"FLOOR": "floor", "CEIL": "ceil", "RCEIL": "rceil", "EVEN": "even"}
ELEMENTS = {
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp6_e3m2": "fp6_e3m2",
    "fp6_e2m3": "fp6_e2m3",
    "fp4_e2m1": "float4_e2m1fn_x2",
}


def blocks_of(dtype: torch.dtype, rows: int = 512) -> torch.Tensor:
    """Rows of 64 normal numbers, of another magnitude in each row; a sixth of them powers of two or next to one."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 64, generator=generator) * 2.0 ** torch.randint(-90, 90, (rows, 1), generator=generator)
    powers = torch.copysign(2.0 ** x.abs().log2().round(), x)
    pick = torch.randint(0, 12, x.shape, generator=generator)
    x = torch.where(pick == 0, powers, x).to(dtype)
    return torch.where(pick == 1, torch.nextafter(powers.to(dtype), torch.zeros_like(x)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("mode", RULES)
def test_scales_and_elements_equal_torchao(mode: str, element: str, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao")
        from torchao.prototype.mx_formats.config import ScaleCalculationMode
        from torchao.prototype.mx_formats.mx_tensor import to_mx

    x = blocks_of(dtype)
    theirs = getattr(torch, ELEMENTS[element], ELEMENTS[element])
    scale, data = to_mx(x, theirs, 32, ScaleCalculationMode[mode])
    fmt = Block(hwsim.format(element), hwsim.format("e8m0fnu"), 32, RULES[mode])  # type: ignore[arg-type]
    q = hwsim.quantize(x, fmt, return_parts=True)
    assert torch.equal(q.scale_codes, scale.view(torch.uint8).to(torch.int64))
    bits = data.view(torch.uint8)
    codes = fmt.element.unpack(bits) if element == "fp4_e2m1" else bits.to(torch.int64)
    assert torch.equal(q.codes, codes.reshape(x.shape))


def transformer_engine(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The scaled elements (before their rounding to E2M1), block scales and tensor scale, each operation in float32."""
    six, largest = torch.tensor(6.0), torch.tensor(torch.finfo(torch.float32).max)
    amax = x.float().abs().max()
    encode = torch.minimum(torch.div(torch.tensor(448.0 * 6.0), amax), largest)
    decode = torch.div(torch.tensor(1.0), encode)
    blocks = x.float().reshape(x.shape[0], -1, 16)
    scale = blocks.abs().amax(-1, keepdim=True) * (encode * torch.reciprocal(six))
    scale = scale.clamp(-448, 448).to(torch.float8_e4m3fn)
    inverse = torch.minimum(torch.div(torch.tensor(1.0), scale.float() * decode), largest)
    return (blocks * inverse).clamp(-6, 6).reshape(x.shape), scale.squeeze(-1), decode


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spread", [0, 3, 8])
def test_nvfp4_equals_transformer_engine(spread: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(spread)
    x = torch.randn(512, 256, generator=generator) * 2.0 ** -torch.randint(0, spread + 1, (512, 256), generator=generator)
    x = x.to(dtype)
    scaled, scale, decode = transformer_engine(x)
    q = hwsim.quantize(x, "nvfp4", return_parts=True)
    assert torch.equal(q.scale_codes, scale.view(torch.uint8).to(torch.int64))
    assert torch.equal(q.tensor_scale, decode)
    assert torch.equal(q.elements, hwsim.quantize(scaled, "fp4_e2m1").to(dtype))


def test_nvfp4_blocks_that_underflow_have_zero_scales() -> None:
    x = torch.full((1, 32), 1e-6)
    x[0, :16] = 1.0
    scaled, scale, _ = transformer_engine(x)
    q = hwsim.quantize(x, "nvfp4", return_parts=True)
    assert q.scale_codes.tolist() == scale.view(torch.uint8).to(torch.int64).tolist() == [[126, 0]]
    assert torch.equal(q.elements, hwsim.quantize(scaled, "fp4_e2m1"))
    assert q.values[0, 16:].tolist() == [0.0] * 16
