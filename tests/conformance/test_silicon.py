"""Every recorded set of GPU outputs is reproduced bit for bit."""

from __future__ import annotations

import pytest
import torch
from dot_products import bits, needs_silicon, recorded, rowwise

SETS = [
    ("v100_fp16", "d_fp32", "nvidia_volta_fp16"),
    ("v100_fp16", "d_fp16", "nvidia_volta_fp16_to_fp16"),
    ("a100_fp16", "d_fp32", "nvidia_ampere_fp16"),
    ("a100_fp16", "d_fp16", "nvidia_ampere_fp16_to_fp16"),
    ("a100_bf16", "d_fp32", "nvidia_ampere_bf16"),
    ("a100_tf32", "d_fp32", "nvidia_ampere_tf32"),
    ("ada_fp16", "d_fp32", "nvidia_ada_fp16"),
    ("ada_fp16", "d_fp16", "nvidia_ada_fp16_to_fp16"),
    ("ada_bf16", "d_fp32", "nvidia_ada_bf16"),
    ("ada_tf32", "d_fp32", "nvidia_ada_tf32"),
    ("ada_e4m3", "d_fp32", "nvidia_ada_fp8"),
    ("ada_e4m3", "d_fp16", "nvidia_ada_fp8_to_fp16"),
    ("ada_e5m2", "d_fp32", "nvidia_ada_fp8"),
    ("ada_e5m2", "d_fp16", "nvidia_ada_fp8_to_fp16"),
    ("h100_fp16", "d_fp32", "nvidia_hopper_fp16"),
    ("h100_fp16", "d_fp16", "nvidia_hopper_fp16_to_fp16"),
    ("h100_bf16", "d_fp32", "nvidia_hopper_bf16"),
    ("h100_tf32", "d_fp32", "nvidia_hopper_tf32"),
    ("h100_e4m3", "d_fp32", "nvidia_hopper_fp8"),
    ("h100_e4m3", "d_fp16", "nvidia_hopper_mma_sync_fp8_to_fp16"),
    ("h100_e5m2", "d_fp32", "nvidia_hopper_fp8"),
    ("h100_e5m2", "d_fp16", "nvidia_hopper_mma_sync_fp8_to_fp16"),
    ("b200_fp16", "d_fp32", "nvidia_blackwell_fp16"),
    ("b200_fp16", "d_fp16", "nvidia_blackwell_fp16_to_fp16"),
    ("b200_bf16", "d_fp32", "nvidia_blackwell_bf16"),
    ("b200_tf32", "d_fp32", "nvidia_blackwell_tf32"),
    ("b200_e4m3", "d_fp32", "nvidia_blackwell_mma_sync_fp8"),
    ("b200_e4m3", "d_fp16", "nvidia_blackwell_mma_sync_fp8_to_fp16"),
    ("b200_e5m2", "d_fp32", "nvidia_blackwell_mma_sync_fp8"),
    ("b200_e5m2", "d_fp16", "nvidia_blackwell_mma_sync_fp8_to_fp16"),
]


@needs_silicon
@pytest.mark.parametrize(("name", "output", "unit"), SETS)
def test_reproduces_every_recorded_dot_product(name: str, output: str, unit: str) -> None:
    data = recorded(name)
    # The H100 FP8 -> FP32 sets were recorded with C = 0.
    c = torch.zeros_like(data["c"]) if unit == "nvidia_hopper_fp8" else data["c"]
    assert torch.equal(bits(rowwise(data["a"], data["b"], c, unit)), bits(data[output]))
