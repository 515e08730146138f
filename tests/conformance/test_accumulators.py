"""Sequential accumulators against apytypes, and single steps against Berkeley SoftFloat (softfloatpy)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hwsim.macs import mac, matmul

ROUNDINGS = [
    (23, "nearest_even", "TIES_EVEN"),
    (13, "toward_zero", "TO_ZERO"),
    (10, "toward_negative", "TO_NEG"),
    (7, "nearest_even", "TIES_EVEN"),
    (7, "nearest_away", "TIES_AWAY"),
    (9, "toward_positive", "TO_POS"),
]


@pytest.mark.parametrize(("mantissa_bits", "rounding", "theirs"), ROUNDINGS)
def test_sequential_sums_equal_apytypes(mantissa_bits: int, rounding: str, theirs: str) -> None:
    apytypes = pytest.importorskip("apytypes", reason="apytypes is not installed")
    quantization = getattr(apytypes.QuantizationMode, theirs)
    a, b = torch.randn(20, 60).bfloat16().double(), torch.randn(60, 20).bfloat16().double()
    x, y = (apytypes.APyFloatArray.from_float(m.tolist(), exp_bits=8, man_bits=7) for m in (a, b))
    with apytypes.APyFloatAccumulatorContext(exp_bits=8, man_bits=mantissa_bits, quantization=quantization):
        expected = torch.tensor((x @ y).to_numpy())
    place = {"format": {"kind": "float", "exponent_bits": 8, "mantissa_bits": mantissa_bits}, "rounding": rounding}
    found = matmul(a, b, mac({"order": "sequential", "product": place, "accumulator": place}))
    assert torch.equal(found.double(), expected.double())


@pytest.mark.parametrize("width", [16, 32])
def test_one_fused_multiply_add_equals_softfloat(width: int) -> None:
    softfloat: Any = pytest.importorskip("softfloatpy", reason="softfloatpy is not installed")
    integer, real, fmt = (torch.int16, torch.float16, "fp16") if width == 16 else (torch.int32, torch.float32, "fp32")
    rng = torch.Generator().manual_seed(width)
    low, high = torch.iinfo(integer).min, torch.iinfo(integer).max
    a, b, c = (torch.randint(low, high, (60, 1), generator=rng, dtype=integer) for _ in range(3))
    values = [x.view(real).float() for x in (a, b, c)]
    found = matmul(values[0], values[1].T, mac({"order": "fma", "accumulator": {"format": fmt}}), values[2].expand(60, 60)).to(
        real
    )
    fused, kind, size = getattr(softfloat, f"f{width}_mul_add"), getattr(softfloat, f"Float{width}"), width // 8

    def step(*patterns: torch.Tensor) -> int:
        operands = [kind.from_bytes(int(x).to_bytes(size, "big", signed=True)) for x in patterns]
        return int.from_bytes(fused(*operands).to_bytes(), "big", signed=True)

    expected = torch.tensor([[step(a[i], b[j], c[i]) for j in range(60)] for i in range(60)], dtype=integer)
    same = (found.view(integer) == expected) | (found.isnan() & expected.view(real).isnan())
    assert same.all()
