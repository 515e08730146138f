"""NVFP4 where blocks underflow; `hwsim conform` compares it with TransformerEngine's rule everywhere else."""

from __future__ import annotations

import torch

import hwsim
from hwsim.conformance.blocks import transformer_engine


def test_nvfp4_blocks_that_underflow_have_zero_scales() -> None:
    x = torch.full((1, 32), 1e-6)
    x[0, :16] = 1.0
    scaled, scale, _ = transformer_engine(x)
    q = hwsim.quantize(x, "nvfp4", return_parts=True)
    assert q.scale_codes.tolist() == scale.view(torch.uint8).to(torch.int64).tolist() == [[126, 0]]
    assert torch.equal(q.elements, hwsim.quantize(scaled, "fp4_e2m1"))
    assert q.values[0, 16:].tolist() == [0.0] * 16
