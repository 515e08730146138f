"""Block formats: what they are, how their scales follow from the largest magnitude, and what zeros, NaN and infinities become."""

from __future__ import annotations

import pytest
import torch
from block_cases import BLOCKS, E2M1, E4M3, E5M2, E8M0, FP32, varied, with_specials
from rounding_cases import differences, same

import hwsim
from hwsim.formats import Block, Codebook, Float, FormatError, Integer, Posit, Projection
from hwsim.formats.blocks import dequantize_blocks, quantize_blocks

BACKENDS = ("reference", "torch", "numba")


@pytest.mark.parametrize(
    ("name", "bits", "bits_per_element", "largest"),
    [
        ("mxfp8_e4m3", 8, 8.25, 448 * 2.0**127),
        ("mxfp8_e5m2", 8, 8.25, 57344 * 2.0**127),
        ("mxfp6_e3m2", 6, 6.25, 28 * 2.0**127),
        ("mxfp6_e2m3", 6, 6.25, 7.5 * 2.0**127),
        ("mxfp4", 4, 4.25, 6 * 2.0**127),
        ("mxint8", 8, 8.25, 1.984375 * 2.0**127),
        ("nvfp4", 4, 4.5, 6 * 448 * torch.finfo(torch.float32).max),
        ("bfp16", 8, 9.0, 1.984375 * 2.0**127),
        ("msfp12", 4, 4.5, 1.75 * 2.0**127),
        ("msfp16", 8, 8.5, 1.984375 * 2.0**127),
    ],
)
def test_shipped_formats(name: str, bits: int, bits_per_element: float, largest: float) -> None:
    fmt = hwsim.format(name)
    assert isinstance(fmt, Block)
    assert (fmt.bits, fmt.bits_per_element, fmt.max) == (bits, bits_per_element, largest)


@pytest.mark.parametrize(
    ("element", "emax", "mantissa_bits"),
    [
        (E4M3, 8, 3),
        (E5M2, 15, 2),
        (E2M1, 2, 1),
        (BLOCKS["mxint8"].element, 0, 6),
        (BLOCKS["msfp12"].element, 0, 2),
        (Integer(4), 2, 2),
    ],
    ids=str,
)
def test_largest_exponent_and_mantissa_bits_of_elements(element: hwsim.Format, emax: int, mantissa_bits: int) -> None:
    fmt = Block(element, E8M0, 32)
    assert (fmt.element_exponent, fmt.element_mantissa_bits) == (emax, mantissa_bits)


@pytest.mark.parametrize(
    ("scale", "tensor_scale", "rule"),
    [(E8M0, None, "floor"), (E4M3, None, "absmax"), (FP32, None, "absmax"), (E4M3, FP32, "two_level")],
)
def test_default_rule_follows_from_the_scale_format(scale: Float, tensor_scale: Float | None, rule: str) -> None:
    assert Block(E2M1, scale, 16, tensor_scale=tensor_scale).scale_rule == rule


def test_yaml_mapping_and_round_trip() -> None:
    fmt = hwsim.format({"kind": "block", "element": "fp4_e2m1", "scale": "fp8_e4m3fn", "tile": [4, 8], "rule": "absmax"})
    assert fmt == Block(E2M1, E4M3, tile=(4, 8), rule="absmax")
    from hwsim.fields import format_mapping

    assert hwsim.format(format_mapping(fmt)) == fmt


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"size": 0}, "size", "got 0; allowed: whole numbers from 1"),
        ({"size": True}, "size", "got True; allowed: whole numbers"),
        ({"tile": (4, 0), "size": None}, "tile", r"got \(4, 0\)"),
        ({"tile": (4, 4)}, "size", "one of the two"),
        ({"size": None}, "size", "one of the two"),
        ({"rule": "flor"}, "rule", "did you mean 'floor'"),
        ({"remainder": "fil"}, "remainder", "did you mean 'fill'"),
        ({"special": "non"}, "special", "did you mean 'nan'"),
        ({"element": Block(E2M1, E8M0, 4)}, "element", "allowed: any format but blocks"),
        ({"element": Codebook((-1.0, 0.0))}, "element", "whose largest value is 0.0; allowed: a positive one"),
        ({"element": Posit(8), "rule": "even"}, "rule", "got 'even' with posit8_2, whose values have no number of mantissa bits"),
        ({"scale": Integer(8)}, "scale", "allowed: a float format"),
        ({"scale": E2M1}, "special", "has no NaN; allowed: error, element"),
        ({"tensor_scale": FP32, "rule": "floor"}, "tensor_scale", "with `two_level` and only there"),
        ({"rule": "two_level"}, "tensor_scale", "with `two_level` and only there"),
        ({"tensor_scale": E5M2, "scale": E4M3}, "tensor_scale", "allowed: fp32"),
    ],
)
def test_wrong_declarations_are_refused(given: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        Block(**{"element": E2M1, "scale": E8M0, "size": 32, **given})  # type: ignore[arg-type]
    assert error.value.field == field


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rule", "amax", "exponent"),
    [
        ("floor", 4.0, 0),
        ("floor", 7.99, 0),
        ("floor", 8.0, 1),
        ("ceil", 4.0, 0),
        ("ceil", 4.01, 1),
        ("ceil", 8.0, 1),
        ("rceil", 6.0, 0),
        ("rceil", 6.0000005, 1),
        ("rceil", 4.0, 0),
        ("rceil", 3.0, -1),
        ("even", 6.99, 0),
        ("even", 7.0, 1),
        ("even", 6.9999995, 0),
        ("absmax", 6.0, 0),
        ("absmax", 8.0, 0),
        ("absmax", 8.99, 0),
        ("absmax", 9.0, 1),
        ("absmax", 18.0, 1),
    ],
)
def test_scale_rules_of_fp4_by_powers_of_two(rule: str, amax: float, exponent: int, backend: str) -> None:
    x = torch.zeros(32)
    x[5] = -amax
    q = quantize_blocks(x, Block(E2M1, E8M0, 32, rule), backend=backend)  # type: ignore[arg-type]
    assert q.scales.tolist() == [2.0**exponent]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_exponent_just_below_every_power_of_two_is_that_of_the_binade(dtype: torch.dtype, backend: str) -> None:
    """floor(log2(x)) in the tensor's dtype rounds up here: so microxcaling mis-scales prev(2^k) for nearly all k."""
    low, high = (-12, 15) if dtype is torch.float16 else (-120, 126)
    powers = torch.tensor([2.0**k for k in range(low, high)], dtype=dtype)
    x = torch.nextafter(powers, torch.zeros_like(powers))[:, None]
    q = quantize_blocks(x, Block(E4M3, E8M0, 32), backend=backend)
    assert q.scales.flatten().tolist() == [2.0 ** max(k - 1 - 8, -127) for k in range(low, high)]
    if dtype is torch.float32:
        assert quantize_blocks(torch.tensor([255.99998]), Block(E4M3, E8M0, 32), backend=backend).values.tolist() == [224.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fmt", "scale", "code"),
    [
        (BLOCKS["mxfp4_floor"], 2.0**-127, 0),
        (BLOCKS["mxfp4_mse"], 2.0**-127, 0),
        (BLOCKS["nvfp4"], 0.0, 0),
        (BLOCKS["e2m1_by_e4m3"], 2.0**-9, 1),
        (BLOCKS["int8_fp32"], 2.0**-149, 1),
    ],
    ids=str,
)
def test_a_block_of_zeros_has_the_smallest_scale_and_keeps_its_signs(fmt: Block, scale: float, code: int, backend: str) -> None:
    x = torch.tensor([0.0, -0.0])
    q = quantize_blocks(x, fmt, backend=backend)
    assert q.scales.tolist() == [scale]
    assert fmt.scale.encode(q.scales).tolist() == [code]
    assert q.tensor_scale.item() == 1
    assert q.values.tolist() == [0.0, 0.0]
    assert q.values.signbit().tolist() == [False, fmt.element.has_negative_zero]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("value", "exponent"),
    [(2.0**-149, -127), (2.0**-126, -127), (2.0**-125, -127), (2.0**-124, -126), (2.0**127, 125), (1e-300, -127), (1e300, 127)],
)
def test_scale_exponents_stop_at_the_ends_of_e8m0(value: float, exponent: int, backend: str) -> None:
    x = torch.tensor([value, -value], dtype=torch.float64)
    assert quantize_blocks(x, BLOCKS["mxfp4_floor"], backend=backend).scales.tolist() == [2.0**exponent]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_or_infinity_makes_its_block_nan_and_no_other(bad: float, backend: str) -> None:
    x = torch.ones(3, 32)
    x[1, 7] = bad
    fmt = BLOCKS["mxfp4_floor"]
    q = quantize_blocks(x, fmt, backend=backend)
    assert fmt.scale.encode(q.scales).flatten().tolist() == [125, 255, 125]
    assert q.values.isnan().all(1).tolist() == [False, True, False]
    assert quantize_blocks(x, fmt, backend=backend, rescale=False).values[1].tolist() == [0.0] * 32


@pytest.mark.parametrize("backend", BACKENDS)
def test_special_error_names_the_element(backend: str) -> None:
    x = torch.ones(3, 32)
    x[1, 7] = float("inf")
    with pytest.raises(FormatError, match=r"x\[1, 7\]: got inf in a block under `special: error`"):
        quantize_blocks(x, Block(E2M1, E8M0, 32, special="error"), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_special_element_leaves_the_rest_of_the_block_alone(backend: str) -> None:
    x = torch.tensor([1.0, float("inf"), float("nan"), -3.0])
    fmt = Block(E5M2, E8M0, 4, special="element")
    assert quantize_blocks(x, fmt, backend=backend).values[[0, 3]].tolist() == [1.0, -3.0]
    assert quantize_blocks(x, fmt, Projection(overflow="infinity"), backend=backend).values[1] == float("inf")
    with pytest.raises(FormatError, match="NaN"):
        quantize_blocks(x, Block(E2M1, E8M0, 4, special="element"), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mse_finds_a_scale_no_worse_than_any_other_candidate(backend: str) -> None:
    x = varied((16, 16), torch.float32, seed=3)[5:]
    q = quantize_blocks(x, Block(E2M1, E4M3, 16, "mse"), backend=backend)
    error = (q.values.double() - x.double()).square().sum(1)
    for scale in (E4M3.values()[E4M3.values() > 0]).double():
        near = ((x.double().abs().amax(1) / 6 / scale) > 0.7) & ((x.double().abs().amax(1) / 6 / scale) < 1.9)
        trial = hwsim.quantize(x / scale, E2M1).double() * scale
        assert (error <= (trial.double() - x.double()).square().sum(1) + 1e-12 * x.double().square().sum(1))[near].all()


def test_elements_times_scales_are_the_values() -> None:
    for name, fmt in BLOCKS.items():
        x = with_specials(varied((7, 45), torch.float32))
        nan = Projection(nan="zero")
        q, elements = quantize_blocks(x, fmt, nan), quantize_blocks(x, fmt, nan, rescale=False).values
        tensor = q.tensor_scale if fmt.tensor_scale else None
        codes, scale_codes = fmt.element.encode(elements), fmt.scale.encode(q.scales)
        found = dequantize_blocks(codes, scale_codes, fmt, tensor_scale=tensor)
        assert not differences(x, q.values, found), name


@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "nvfp4", "mxfp8_e5m2"])
def test_quantizing_again_changes_nothing(name: str) -> None:
    x = varied((7, 48), torch.float32)
    once = hwsim.quantize(x, name)
    if name != "nvfp4":
        assert same(hwsim.quantize(once, name), once)
    parts = hwsim.quantize(x, name, return_parts=True)
    assert same(parts.values, once)


def test_short_last_block_is_filled_or_refused() -> None:
    x = torch.randn(2, 40)
    whole, rest = (quantize_blocks(part, BLOCKS["mxfp4_floor"]).values for part in (x, x[:, 32:]))
    assert torch.equal(whole[:, 32:], rest)
    with pytest.raises(FormatError, match="remainder: axis 1 has 40 elements, blocks have 32"):
        quantize_blocks(x, Block(E2M1, E8M0, 32, remainder="error"))


@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range_is_refused(axis: int) -> None:
    with pytest.raises(FormatError, match=rf"axis: got {axis} for a tensor of shape \(2, 40\); allowed: -2 to 1"):
        quantize_blocks(torch.ones(2, 40), BLOCKS["mxfp4_floor"], axis=axis)


def test_a_tile_needs_two_axes() -> None:
    with pytest.raises(FormatError, match="tile: got"):
        quantize_blocks(torch.ones(40), BLOCKS["e4m3_tile"])


def test_a_tile_gives_both_orientations_the_same_values() -> None:
    x = torch.randn(32, 48)
    fmt = hwsim.format("nvfp4_16x16")
    assert torch.equal(hwsim.quantize(x.T.contiguous(), fmt), hwsim.quantize(x, fmt).T)


def test_codes_of_a_block_format_need_scales() -> None:
    fmt = hwsim.format("mxfp4")
    codes = torch.ones(1, dtype=torch.int64)
    for call in (fmt.values, lambda: fmt.encode(codes.float()), lambda: fmt.decode(codes), lambda: fmt.grid):
        with pytest.raises(FormatError, match="allowed: "):
            call()


def test_parts_are_what_the_hardware_holds() -> None:
    q = hwsim.quantize(torch.tensor([[6.0, -3.0] + 30 * [0.5]]), "mxfp4", return_parts=True)
    assert q.codes.tolist() == [[7, 13] + 30 * [1]]
    assert q.codes.dtype == q.scale_codes.dtype == torch.int64
    assert q.scale_codes.tolist() == [[127]]
    assert q.tensor_scale is None
    assert hwsim.quantize(torch.randn(4, 32), "nvfp4", return_parts=True).tensor_scale.shape == ()


def test_a_cast_to_blocks_runs_along_the_axis_given() -> None:
    from hwsim.casting import apply, elements
    from hwsim.casts import Cast

    cast = Cast(format=hwsim.format("mxfp8_e4m3"))
    x = torch.randn(64, 3)
    assert torch.equal(apply(cast, x, axis=0), hwsim.quantize(x.T.contiguous(), "mxfp8_e4m3").T)
    with pytest.raises(hwsim.ConfigError, match="scales vary along the axis"):
        elements(cast, x)
    with pytest.raises(hwsim.ConfigError, match="finds its own scales"):
        hwsim.quantize(x, "mxfp4", scaling="absmax")
