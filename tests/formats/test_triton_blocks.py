"""The Triton kernels for blocks give the bits of the exact reference; every format and rounding is in test_block_backends.py."""

from __future__ import annotations

import pytest
import torch
from block_cases import BLOCKS, DRAW, E2M1, UE5M3, agree, projection, varied, with_specials
from rounding_cases import differences

from hwsim.formats import Block, FormatError, Projection, Rounding
from hwsim.formats.backends import block_gpu
from hwsim.formats.blocks import Blocks, quantize_blocks
from hwsim.formats.tiling import tiling

pytest.importorskip("triton")
# The interpreter computes both sides of every choice, the side not taken too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRAWN = Rounding("stochastic")


def on_gpu(x: torch.Tensor, fmt: Block, rule: Projection = Projection(), axis: int = -1, rescale: bool = True) -> Blocks:
    return quantize_blocks(x.to(DEVICE), fmt, rule, axis, DRAW, "triton", rescale)


@pytest.mark.parametrize(
    ("name", "rounding", "dtype", "axis", "rescale"),
    [
        ("mxfp4_floor", DRAWN, torch.float32, 0, True),
        ("e4m3_power_tile", Rounding(), torch.bfloat16, -1, True),
        ("int4_fp32_power", Rounding("to_odd"), torch.float64, -1, False),
        ("mxfp8_e5m2_even", Rounding(), torch.float16, 1, True),
        ("int8_fp32", DRAWN, torch.float32, 1, False),
        ("nvfp4_3x5", DRAWN, torch.float64, -1, True),
        ("nvfp4", Rounding(), torch.bfloat16, 0, False),
        ("mxint8_element", Rounding(), torch.float32, -1, True),
        ("nf4_two_level", Rounding(), torch.float32, -1, True),
        ("posit6_by_powers", DRAWN, torch.float32, 0, True),
    ],
)
def test_scale_rules_roundings_dtypes_and_axes(
    name: str, rounding: Rounding, dtype: torch.dtype, axis: int, rescale: bool
) -> None:
    x, fmt, rule = with_specials(varied((5, 21), dtype)), BLOCKS[name], projection(name, rounding)
    expected = quantize_blocks(x, fmt, rule, axis, DRAW, "reference", rescale)
    agree(x, expected, on_gpu(x, fmt, rule, axis, rescale))


@pytest.mark.parametrize("special", ["nan", "element"])
def test_the_candidate_of_least_error_wins(special: str) -> None:
    x, fmt = with_specials(varied((5, 10), torch.float32)), Block(E2M1, UE5M3, 3, "mse", special=special)  # type: ignore[arg-type]
    rule = Projection(nan="zero")
    agree(x, quantize_blocks(x, fmt, rule, backend="reference"), on_gpu(x, fmt, rule))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for fmt in (BLOCKS["nvfp4"], Block(E2M1, UE5M3, 2)):
        agree(x, quantize_blocks(x, fmt, backend="reference"), on_gpu(x, fmt))


def test_blocks_that_many_programs_share() -> None:
    x = varied((3, 3000), torch.float32)
    for fmt in (BLOCKS["nvfp4"], Block(E2M1, UE5M3, 1500, "floor"), Block(E2M1, UE5M3, tile=(2, 1025))):
        agree(x, quantize_blocks(x, fmt, backend="torch"), on_gpu(x, fmt))


def test_strides_are_kept_and_the_index_is_row_major() -> None:
    fmt, x = BLOCKS["mxfp4_floor"], torch.randn(4, 6, 5)
    expected = quantize_blocks(x, fmt, Projection(DRAWN), draw=DRAW, backend="torch")
    view = x.transpose(0, 2).contiguous().transpose(0, 2)
    found = on_gpu(view, fmt, Projection(DRAWN))
    assert not differences(x, expected.values, found.values.cpu())
    assert found.values.stride() == view.stride()


def test_what_has_no_place_is_refused_with_its_index() -> None:
    x = torch.ones(3, 4)
    x[1, 2] = torch.nan
    with pytest.raises(FormatError, match=r"x\[1, 2\]: got nan, which becomes NaN"):
        on_gpu(x, Block(E2M1, UE5M3, 2, special="element"))
    with pytest.raises(FormatError, match=r"x\[1, 2\]: got nan in a block under `special: error`"):
        on_gpu(x, Block(E2M1, UE5M3, 2, special="error"))


def test_cuda_tensors_reach_the_kernels_by_default() -> None:
    for name in ("quantize", "quantize_block"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hwsim::{name}", "CUDA")


def test_cpu_tensors_need_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, fmt = torch.ones(2), BLOCKS["mxfp4_floor"]
    with pytest.raises(FormatError, match="x: got a tensor on cpu for the backend 'triton'; allowed: CUDA devices"):
        block_gpu.round_blocks(x, None, tiling(x.shape, fmt, -1)[0], (), x.dtype, x.dtype)  # type: ignore[arg-type]
