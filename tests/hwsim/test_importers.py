"""Recipes of other libraries become the datapaths that the shipped files declare."""

from pathlib import Path
from typing import Any

import pytest

from hwsim.datapaths import Datapath, datapath
from hwsim.errors import ConfigError
from hwsim.importers import datapath_file, import_recipe


def te(recipe: str, **fields: Any) -> dict[str, Any]:
    return {"transformer_engine": {"recipe": recipe, **fields}}


def gemms(machine: Datapath) -> dict[str, Any]:
    return {"gemm": machine.gemm.model_dump(), "products": machine.of_products.model_dump()}


SHIPPED = {
    "fp8_delayed": te("DelayedScaling", fp8_format="HYBRID", margin=0, amax_history_len=1024, amax_compute_algo="max"),
    "fp8_current": te("Float8CurrentScaling"),
    "mxfp8": te("MXFP8BlockScaling"),
    "nvfp4": te("NVFP4BlockScaling"),
}
MXFP6 = {"torchao": {"mx": {"elem_dtype": "fp6_e3m2", "block_size": 32, "scale_calculation_mode": "FLOOR"}}}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_that_ships_is_the_same_machine(name: str) -> None:
    assert gemms(datapath(import_recipe(SHIPPED[name]))) == gemms(datapath(name))


def test_a_configuration_of_torchao_is_the_recipe_that_ships_but_for_products_which_it_leaves_in_bf16() -> None:
    machine = datapath(import_recipe(MXFP6))
    assert machine.gemm == datapath("mxfp6").gemm
    assert str(machine.of_products.output.input) == "bf16"


OTHERS = {
    "te blocks": (te("Float8BlockScaling"), "output.weight", "fp8_e4m3fn power_of_two per tile (128, 128)"),
    "te e4m3": (te("DelayedScaling", fp8_format="E4M3"), "grad_input.grad_output", "fp8_e4m3fn delayed per tensor"),
    "ao tensorwise": ({"torchao": {"float8": "tensorwise"}}, "grad_input.grad_output", "fp8_e5m2 absmax per tensor"),
    "ao rowwise": ({"torchao": {"float8": "rowwise"}}, "grad_input.weight", "fp8_e4m3fn power_of_two per channel 1"),
    "ao rowwise, weight gradient": ({"torchao": {"float8": "rowwise_with_gw_hp"}}, "grad_weight.input", "bf16"),
    "modelopt int8": (
        {"modelopt": {"*weight_quantizer": {"num_bits": 8, "axis": 0}}},
        "output.weight",
        "int8_symmetric absmax per channel 0",
    ),
    "modelopt fp8": (
        {"modelopt": {"*input_quantizer": {"num_bits": [4, 3], "axis": None}}},
        "output.input",
        "fp8_e4m3fn absmax per tensor",
    ),
    "modelopt int4": (
        {"modelopt": {"*weight_quantizer": {"num_bits": 4, "block_sizes": {-1: 128}}, "default": {"enable": False}}},
        "output.weight",
        "int4_symmetric absmax per group 128",
    ),
    "modelopt nvfp4": (
        {
            "modelopt": {
                "*weight_quantizer": {"num_bits": [2, 1], "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": [4, 3]}}
            }
        },
        "output.weight",
        "block(fp4_e2m1fn by 16, scale fp8_e4m3fn two_level)",
    ),
}


FLAGS = {
    "none": ({}, "nvfp4_16x16", "stochastic(8)", "hadamard_16"),
    "no rotation": ({"disable_rht": True}, "nvfp4_16x16", "stochastic(8)", None),
    "nearest gradients": ({"disable_stochastic_rounding": True}, "nvfp4_16x16", "nearest_even", "hadamard_16"),
    "weights in rows": ({"disable_2d_quantization": True}, "nvfp4", "stochastic(8)", "hadamard_16"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_the_flags_of_nvfp4_switch_off_what_they_name(case: str) -> None:
    fields, weight, rounding, transform = FLAGS[case]
    machine = datapath(import_recipe(te("NVFP4BlockScaling", **fields)))
    assert str(machine.gemm.output.weight) == weight
    assert str(machine.gemm.grad_input.grad_output.rounding) == rounding
    assert machine.gemm.grad_weight.grad_output.transform == transform


FP8 = {"*weight_quantizer": {"num_bits": (4, 3), "axis": None}, "*input_quantizer": {"num_bits": (4, 3), "axis": None}}
OFF = {"enable": False}
UNUSED = {
    "nn.BatchNorm1d": {"*": OFF},
    "nn.LeakyReLU": {"*": OFF},
    "*[kv]_bmm_quantizer": OFF,
    "*output_quantizer": OFF,
    "default": OFF,
}
CONFIGURATIONS = {
    "a quant_cfg": {**FP8, **UNUSED},
    "the whole": {"quant_cfg": {**FP8, **UNUSED}, "algorithm": "max"},
    "a method": {"quant_cfg": FP8, "algorithm": {"method": "max"}},
    "a list": [{"quantizer_name": name, "cfg": cfg} for name, cfg in FP8.items()]
    + [{"quantizer_name": "default", "enable": False}],
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_modelopt_configuration_is_read_whole_or_in_part(case: str) -> None:
    assert import_recipe({"modelopt": CONFIGURATIONS[case]}) == import_recipe({"modelopt": FP8})


SWITCHED_OFF = {
    "*lm_head*": ("lm_head", [None, None]),
    "output.*": ("output", [None, None]),
    "*lm_head.weight_quantizer": ("lm_head", ["fp8_e4m3fn absmax per tensor", None]),
    "*lm_head*input_quantizer": ("lm_head", [None, "fp8_e4m3fn absmax per tensor"]),
}


@pytest.mark.parametrize("pattern", SWITCHED_OFF)
def test_a_layer_whose_quantizers_are_off_is_not_cast(pattern: str, tmp_path: Path) -> None:
    layer, expected = SWITCHED_OFF[pattern]
    file = tmp_path / "imported.yaml"
    file.write_text(datapath_file({"modelopt": {**FP8, pattern: OFF, "default": OFF}}))
    for path, casts in ((layer, expected), ("body", ["fp8_e4m3fn absmax per tensor"] * 2)):
        gemm = datapath(file).layer(path).gemm
        assert [None if c is None else str(c) for c in (gemm.output.input, gemm.output.weight)] == casts


@pytest.mark.parametrize("recipe", ["MXFP8BlockScaling", "Float8BlockScaling"])
@pytest.mark.parametrize(("chosen", "expected"), [({}, "fp8_e4m3fn"), ({"fp8_format": "HYBRID"}, "fp8_e5m2")])
def test_the_gradients_of_block_scalings_are_e4m3_unless_hybrid_is_said(
    recipe: str, chosen: dict[str, str], expected: str
) -> None:
    gemm = datapath(import_recipe(te(recipe, **chosen))).gemm
    assert expected in str(gemm.grad_input.grad_output)
    assert "fp8_e4m3fn" in str(gemm.output.input)


@pytest.mark.parametrize("case", OTHERS)
def test_a_setting_becomes_a_cast(case: str) -> None:
    given, where, expected = OTHERS[case]
    gemm, role = where.split(".")
    assert str(getattr(getattr(datapath(import_recipe(given)).gemm, gemm), role)) == expected


def test_the_text_of_a_datapath_file_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "imported.yaml"
    file.write_text(datapath_file(te("MXFP8BlockScaling")))
    assert gemms(datapath(file)) == gemms(datapath("mxfp8"))


WRONG = {
    "library": ({"brevitas": {}}, "import: got 'brevitas'; allowed: modelopt, torchao, transformer_engine"),
    "recipe": (te("DelayedScalling"), "recipe: got 'DelayedScalling'.*did you mean 'DelayedScaling'"),
    "field": (te("DelayedScaling", amax_len=3), "transformer_engine: key: got 'amax_len'"),
    "algorithm": (te("DelayedScaling", amax_compute_algo="most_recent"), "amax_compute_algo: got 'most_recent'; allowed: max"),
    "margin of blocks": (te("MXFP8BlockScaling", margin=3), "margin: got 3; allowed: 0"),
    "history of blocks": (te("MXFP8BlockScaling", amax_history_len=3), "transformer_engine: key: got 'amax_history_len'"),
    "amaxes of one rank": (te("DelayedScaling", reduce_amax=False), "reduce_amax: got False; allowed: True"),
    "calibration": ({"modelopt": {"quant_cfg": FP8, "algorithm": "awq_lite"}}, "algorithm: got 'awq_lite'; allowed: max"),
    "two quantizers": (
        {"modelopt": {"*weight_quantizer": [{"num_bits": 4}, {"num_bits": 8}]}},
        r"quant_cfg: \*weight_quantizer: got",
    ),
    "layer class": ({"modelopt": {**FP8, "nn.Linear": {"*": OFF}}}, "quant_cfg: got 'nn.Linear'"),
    "float8 name": ({"torchao": {"float8": "row"}}, "float8: got 'row'; allowed: rowwise, rowwise_with_gw_hp, tensorwise"),
    "element": ({"torchao": {"mx": {"elem_dtype": "int8"}}}, "elem_dtype: got 'int8'"),
    "bits": ({"modelopt": {"*weight_quantizer": {"num_bits": [3, 3]}}}, r"num_bits: got \[3, 3\]"),
    "quantizer": ({"modelopt": {"*output_quantizer": {"num_bits": 8}}}, r"quant_cfg: got '\*output_quantizer'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_datapath_cannot_say_is_refused(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        import_recipe(given)
