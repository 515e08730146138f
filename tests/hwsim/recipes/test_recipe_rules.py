"""Each recipe's scales and roundings against its rule written out by hand."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from recipe_cases import RECIPES, everywhere, numbers
from references import (
    BF16,
    E2M1,
    E3M2,
    E4M3,
    E5M2,
    FP16,
    TF32,
    exponent,
    hadamard,
    nvfp4,
    ocp,
    over,
    per_column,
    per_row,
    per_tensor,
    power_of_two,
    scaled,
    stochastic,
    tiles,
    to_float,
    to_half,
    to_integer,
)

import hwsim
from hwsim.casting import apply
from hwsim.datapaths import GEMMS, GemmPath, GemmPaths, datapath
from hwsim.formats import Draw
from hwsim.hadamard import rotate, signs
from hwsim.macs import mac, matmul

Reference = Callable[[np.ndarray], np.ndarray]


def by(where: Callable[[np.ndarray], np.ndarray], scale: Callable[[Fraction], Fraction], element) -> Reference:
    return lambda x: scaled(x, where(x), scale, element)


def plainly(element) -> Reference:
    return by(per_tensor, lambda amax: Fraction(1), element)


def ulp_of(mantissa_bits: int, min_exponent: int) -> Callable[[Fraction], Fraction]:
    return lambda x: Fraction(2) ** (max(exponent(x) if x else min_exponent, min_exponent) - mantissa_bits)


DRAW = Draw(5, "here")
INT8, INT8_DRAWN = to_integer(-128, 127), stochastic(-128, 127, DRAW, lambda x: Fraction(1))
BLOCKS, COLUMN_BLOCKS = tiles(1, 32), tiles(32, 1)
INT4, INT4_DRAWN = to_integer(-8, 7), stochastic(-8, 7, DRAW, lambda x: Fraction(1))
RULES: dict[tuple[str, str, str], Reference] = {
    ("tf32", "output", "input"): plainly(to_float(*TF32)),
    ("bf16", "output", "weight"): plainly(to_float(*BF16)),
    ("bf16_pure", "grad_input", "grad_output"): plainly(to_float(*BF16)),
    ("fp16", "output", "input"): to_half,
    ("fp16", "output", "weight"): to_half,
    ("fp16", "grad_weight", "grad_output"): to_half,
    ("fp8_current", "output", "input"): by(per_tensor, over(448), to_float(*E4M3)),
    ("fp8_current", "grad_weight", "grad_output"): by(per_tensor, over(57344), to_float(*E5M2)),
    ("fp8_deepseek", "output", "input"): by(tiles(1, 128), over(448, 1e-4), to_float(*E4M3)),
    ("fp8_deepseek", "output", "weight"): by(tiles(128, 128), over(448, 1e-4), to_float(*E4M3)),
    ("fp8_deepseek", "grad_input", "weight"): by(tiles(128, 128), over(448, 1e-4), to_float(*E4M3)),
    ("fp8_deepseek", "grad_weight", "input"): by(tiles(128, 1), over(448, 1e-4), to_float(*E4M3)),
    ("fp8_deepseek", "grad_input", "grad_output"): by(tiles(1, 128), over(448, 1e-4), to_float(*E4M3)),
    ("fp8_deepseek", "grad_weight", "grad_output"): by(tiles(128, 1), over(448, 1e-4), to_float(*E4M3)),
    ("mxfp8", "output", "input"): by(BLOCKS, power_of_two(448), to_float(*E4M3)),
    ("mxfp8", "grad_input", "weight"): by(COLUMN_BLOCKS, power_of_two(448), to_float(*E4M3)),
    ("mxfp8", "grad_weight", "grad_output"): by(COLUMN_BLOCKS, power_of_two(448), to_float(*E4M3)),
    ("mxfp6", "output", "weight"): by(BLOCKS, ocp(4), to_float(*E3M2)),
    ("mxfp4", "output", "input"): by(BLOCKS, ocp(2), to_float(*E2M1)),
    ("mxfp4", "grad_input", "grad_output"): by(BLOCKS, power_of_two(6), stochastic(None, 6, DRAW, ulp_of(1, 0))),
    ("nvfp4", "output", "input"): lambda x: nvfp4(x, tiles(1, 16)(x)),
    ("nvfp4", "output", "weight"): lambda x: nvfp4(x, tiles(16, 16)(x)),
    ("nvfp4", "grad_input", "weight"): lambda x: nvfp4(x, tiles(16, 16)(x)),
    ("fp8_lm", "output", "input"): by(per_tensor, power_of_two(448), to_float(*E4M3)),
    ("fp8_lm", "grad_input", "grad_output"): by(per_tensor, power_of_two(57344), to_float(*E5M2)),
    ("int8", "output", "weight"): by(per_row, over(127), INT8),
    ("int8", "grad_input", "weight"): by(per_row, over(127), INT8),
    ("a100_int8", "output", "weight"): by(per_row, over(127), INT8),
    ("a100_int8", "grad_input", "weight"): by(per_tensor, over(127), INT8),
    ("a100_int8", "grad_weight", "grad_output"): by(per_tensor, over(127), INT8_DRAWN),
    ("a100_int8_stochastic", "output", "weight"): by(per_row, over(127), INT8),
    ("a100_int8_stochastic", "grad_input", "weight"): by(per_tensor, over(127), INT8_DRAWN),
    ("a100_int8_stochastic", "grad_weight", "input"): by(per_tensor, over(127), INT8_DRAWN),
    ("int8_stochastic", "output", "input"): by(per_row, over(127), INT8),
    ("int8_stochastic", "grad_input", "grad_output"): by(per_row, over(127), INT8_DRAWN),
    ("int8_stochastic", "grad_weight", "input"): by(per_column, over(127), INT8_DRAWN),
    ("nvfp4", "grad_input", "grad_output"): lambda x: nvfp4(x, tiles(1, 16)(x), stochastic(None, 6, DRAW, ulp_of(1, 0), bits=8)),
    ("nvfp4", "grad_weight", "input"): lambda x: nvfp4(turned := hadamard(x, DRAW), tiles(16, 1)(turned)),
    ("nvfp4", "grad_weight", "grad_output"): lambda x: nvfp4(
        turned := hadamard(x, DRAW), tiles(16, 1)(turned), stochastic(None, 6, DRAW, ulp_of(1, 0), bits=8)
    ),
    ("mxfp6", "grad_weight", "grad_output"): by(COLUMN_BLOCKS, ocp(4), to_float(*E3M2)),
    ("int4_nearest", "output", "input"): by(per_tensor, over(7), INT4),
    ("int4_nearest", "grad_input", "weight"): by(per_row, over(7), INT4),
    ("int4_stochastic", "output", "weight"): by(per_row, over(7), INT4_DRAWN),
    ("int4_stochastic", "grad_weight", "grad_output"): by(per_tensor, over(7), INT4_DRAWN),
    ("mi300x_fp8", "output", "input"): by(per_tensor, over(240), to_float(3, -7, 240)),
    ("mi300x_fp8", "grad_input", "grad_output"): by(per_tensor, over(57344), to_float(2, -15, 57344)),
}


ELSEWHERE = {
    "fp32": "test_identity_emulation.py: plain torch, bit for bit",
    "adam8bit": "below, code by code",
    "fp8_delayed": "test_kept_scales.py: the window of the largest magnitudes",
    **dict.fromkeys(("ternary_lsq", "w4a4_lsq", "w4a8_lsq", "w8a8_lsq"), "test_kept_scales.py: learned steps"),
    "w4a4_pact": "test_kept_scales.py: learned clipping",
    "w4a4_dorefa": "test_kept_scales.py: DoReFa",
}
"""Rules that keep a state, train a scale or round nothing."""


ON_UNITS = {
    "mi300x_fp32": ("fp32", "amd_cdna3_fp32"),
    "a100_tf32": ("tf32", "nvidia_ampere_tf32"),
    **{
        f"a100_{name}": (name, "int8_int32")
        for name in ("w8a8_lsq", "w4a8_lsq", "w4a4_lsq", "ternary_lsq", "w4a4_pact", "w4a4_dorefa")
    },
    "mi300x_adam8bit": ("adam8bit", "amd_cdna3_fp32"),
    "h100_bf16": ("bf16", "nvidia_hopper_bf16"),
    "h100_bf16_pure": ("bf16_pure", "nvidia_hopper_bf16"),
    "h100_fp16": ("fp16", "nvidia_hopper_fp16"),
    "h100_fp8": ("fp8_current", "nvidia_hopper_fp8"),
    "h100_fp8_delayed": ("fp8_delayed", "nvidia_hopper_fp8"),
    "h100_fp8_lm": ("fp8_lm", "nvidia_hopper_fp8"),
    "b200_mxfp8": ("mxfp8", "nvidia_blackwell_mxfp8"),
    "b200_mxfp6": ("mxfp6", "nvidia_blackwell_mxfp6"),
    "b200_mxfp4": ("mxfp4", "nvidia_blackwell_mxfp4"),
    "b200_nvfp4": ("nvfp4", "nvidia_blackwell_nvfp4"),
}
"""Recipes on an accelerator's unit: all but the units is that of another recipe."""
GRADIENTS = ["grad_input", "grad_weight"]
"""What quantization-aware training computes in full precision."""


def without_units(paths: GemmPaths) -> dict[str, GemmPath]:
    return {gemm: getattr(paths, gemm).model_copy(update={"mac": mac("native")}) for gemm in GEMMS}


@pytest.mark.parametrize("name", ON_UNITS)
def test_a_recipe_on_an_accelerator_s_unit_is_the_recipe_but_for_its_units(name: str) -> None:
    (base, unit), machine = ON_UNITS[name], datapath(name)
    plain = datapath(base)
    assert machine.gemm.output.mac == mac(unit)
    native = [gemm for gemm in GEMMS if getattr(machine.gemm, gemm).mac.is_native]
    assert native == (GRADIENTS if unit == "int8_int32" else [])
    assert [(where, without_units(paths)) for where, paths in machine.gemm_paths] == [
        (where, without_units(paths)) for where, paths in plain.gemm_paths
    ]
    said = ("vector", "optimizer", "loss_scaling", "wire")
    assert [getattr(machine, key) for key in said] == [getattr(plain, key) for key in said]


LONG = {"output": (12, 200), "grad_input": (12, 200), "grad_weight": (200, 12)}
"""More than one tile along the sum."""


def test_every_recipe_s_rule_is_written_out() -> None:
    assert sorted({name for name, *_ in RULES} | ELSEWHERE.keys() | ON_UNITS.keys()) == RECIPES


def test_a_gradient_in_mxfp4_is_right_in_the_mean_where_ocp_s_scale_clips() -> None:
    """7 has OCP's scale 1, under which the largest value is 6."""
    x = torch.full((512, 32), 7.0)
    found = apply(datapath("mxfp4").gemm.grad_input.grad_output, x, DRAW)
    assert abs(float(found.mean()) - 7) < 5 / x.numel() ** 0.5
    assert float(apply(datapath("mxfp4").gemm.output.input, x).mean()) == 6


@pytest.mark.parametrize("case", RULES, ids="/".join)
def test_an_operand_is_cast_as_the_recipe_s_rule_says(case: tuple[str, str, str]) -> None:
    name, gemm, role = case
    cast = getattr(getattr(everywhere(name).gemm, gemm), role)
    x = numbers(40, 72, seed=4) if name != "fp8_deepseek" else numbers(*LONG[gemm], seed=4)
    axis = -1 if (gemm, role) in {("output", "input"), ("output", "weight"), ("grad_input", "grad_output")} else -2
    turned = rotate(x, signs(cast.rotation, DRAW), axis) if cast.rotation else x
    assert np.array_equal(apply(cast, turned, DRAW, axis).numpy(), RULES[case](x.numpy()))


@pytest.mark.parametrize("role", ["input", "weight", "grad_output"])
def test_an_fp16_operand_beyond_the_largest_value_is_infinite(role: str) -> None:
    x = torch.tensor([65504.0, 65519.0, 65520.0, -1e5, 1e-8])
    for gemm in ("output", "grad_input", "grad_weight"):
        path = getattr(everywhere("fp16").gemm, gemm)
        if getattr(path, role) is not None:
            assert np.array_equal(apply(getattr(path, role), x).numpy(), to_half(x.numpy()))


def test_h100_fp8_accumulates_fast_in_the_forward_pass_and_promotes_sums_of_128_in_the_gradients() -> None:
    gemm = datapath("h100_fp8").gemm
    a, b = (hwsim.quantize(numbers(*shape, seed=11), "fp8_e4m3fn") for shape in ((4, 256), (256, 5)))
    fast = matmul(a, b, "nvidia_hopper_fp8")
    promoted = matmul(a[:, :128], b[:128], "nvidia_hopper_fp8") + matmul(a[:, 128:], b[128:], "nvidia_hopper_fp8")
    assert torch.equal(matmul(a, b, gemm.output.mac), fast)
    for path in (gemm.grad_input, gemm.grad_weight):
        assert torch.equal(matmul(a, b, path.mac), promoted)
    assert not torch.equal(fast, promoted)


def test_fp8_lm_keeps_weights_and_states_with_power_of_two_scales() -> None:
    optimizer, x = datapath("fp8_lm").optimizer, numbers(300, seed=6) * 1e-5
    fp16 = by(per_tensor, power_of_two(65504), to_float(*FP16))(x.numpy())
    e4m3 = by(per_tensor, power_of_two(448), to_float(*E4M3))(x.numpy())
    for role, expected in {"weight": fp16, "variance": fp16, "momentum": e4m3, "gradient": e4m3}.items():
        assert np.array_equal(apply(getattr(optimizer, role), x).numpy(), expected)


def test_bf16_pure_rounds_weights_by_the_lower_sixteen_bits_of_float32() -> None:
    x = numbers(500, seed=7)
    cast = datapath("bf16_pure").optimizer.weight
    expected = plainly(stochastic(None, 2**127, DRAW, ulp_of(7, -126), bits=16))(x.numpy())
    assert np.array_equal(apply(cast, x, DRAW).numpy(), expected)


def dynamic_levels(signed: bool) -> list[float]:
    """Midpoints of 2^i (unsigned: 2^(i+1)) equal parts of [0.1, 1], times 10^(i-6), i = 0..6."""
    positive = []
    for i in range(7):
        edges = np.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        positive += (10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    both = [-v for v in positive] if signed else []
    return [float(np.float32(v)) for v in sorted([*positive, *both, 0.0, 1.0])]


@pytest.mark.parametrize(("state", "signed"), [("momentum", True), ("variance", False)])
def test_adam8bit_takes_the_nearest_dynamic_code_of_each_256_elements(state: str, signed: bool) -> None:
    x = numbers(2, 300, seed=8) if signed else numbers(2, 300, seed=8).square()
    cast = getattr(datapath("adam8bit").optimizer, state)
    y = apply(cast, x.reshape(-1)).numpy()
    levels = np.array(dynamic_levels(signed))
    assert cast.format.values().tolist() == levels.tolist()
    for start in range(0, 600, 256):
        block = x.reshape(-1)[start : start + 256].double().numpy()
        scale = np.abs(block).max()
        nearest = levels[np.abs(block[:, None] / scale - levels).argmin(1)]
        assert np.array_equal(y[start : start + 256], (nearest * scale).astype(np.float32))


def test_a_mean_square_scale_has_the_smallest_error_of_seventeen_candidates() -> None:
    x = numbers(64, seed=9)
    cast = everywhere("int8").gemm.output.input.model_copy(update={"format": datapath("int4_nearest").gemm.output.input.format})
    cast = cast.model_copy(update={"scaling": cast.scaling.model_copy(update={"rule": "mse"})})
    amax = Fraction(float(x.abs().max()))
    candidates = [over(7)(amax * i / 16) for i in range(8, 25)]
    int4 = to_integer(-8, 7)
    results = [scaled(x.numpy(), per_tensor(x.numpy()), lambda _, s=s: s, int4) for s in candidates]
    errors = [((r.astype(np.float64) - x.double().numpy()) ** 2).sum() for r in results]
    assert np.array_equal(apply(cast, x).numpy(), results[int(np.argmin(errors))])
    assert torch.equal(apply(cast, torch.zeros(3)), torch.zeros(3))
