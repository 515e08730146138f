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
    return machine.gemm.model_dump()


SHIPPED = {
    "fp8_delayed": te("DelayedScaling", fp8_format="HYBRID", margin=0, amax_history_len=1024, amax_compute_algo="max"),
    "fp8_current": te("Float8CurrentScaling"),
    "mxfp8": te("MXFP8BlockScaling"),
    "nvfp4": te("NVFP4BlockScaling"),
    "mxfp6": {"torchao": {"mx": {"elem_dtype": "fp6_e3m2", "block_size": 32, "scale_calculation_mode": "FLOOR"}}},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_that_ships_is_the_same_machine(name: str) -> None:
    assert gemms(datapath(import_recipe(SHIPPED[name]))) == gemms(datapath(name))


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
