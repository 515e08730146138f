"""Datapaths: `all` under each GEMM, overrides over the layers, and what a wrong one is told."""

import json

import pytest

from hwsim.catalogue import shipped
from hwsim.config import loads
from hwsim.datapaths import GEMMS, Datapath, datapath
from hwsim.errors import ConfigError


@pytest.mark.parametrize("name", sorted(shipped("datapaths")))
def test_every_shipped_datapath_resolves(name: str) -> None:
    machine = datapath(name)
    assert machine.name == name
    assert machine.description


def test_all_stands_for_the_three_gemms_and_each_overrides_it_key_by_key() -> None:
    machine = datapath(
        {
            "gemm": {
                "all": {"input": {"format": "fp8_e4m3fn", "scaling": "absmax"}, "grad_output": "fp8_e5m2"},
                "grad_weight": {"input": {"rounding": "stochastic"}},
            }
        }
    )
    assert [str(machine.gemm.output.input), str(machine.gemm.grad_input.grad_output)] == [
        "fp8_e4m3fn absmax per tensor",
        "fp8_e5m2",
    ]
    assert str(machine.gemm.grad_weight.input) == "fp8_e4m3fn stochastic(24) absmax per tensor"


def test_a_plain_name_replaces_a_whole_cast() -> None:
    machine = datapath({"gemm": {"all": {"input": {"format": "int8", "scaling": "absmax"}}, "output": {"input": "bf16"}}})
    assert str(machine.gemm.output.input) == "bf16"


def test_an_override_changes_only_what_it_names() -> None:
    machine = datapath(
        {
            "gemm": {"all": {"input": "fp8_e4m3fn", "weight": "fp8_e4m3fn"}},
            "vector": "bf16",
            "overrides": {"head.*": {"gemm": {"output": {"weight": "bf16"}}}},
        }
    )
    head = machine.layer("head.linear")
    assert [str(head.gemm.output.weight), str(head.gemm.output.input), str(head.vector)] == ["bf16", "fp8_e4m3fn", "bf16"]
    assert str(head.gemm.grad_input.weight) == "fp8_e4m3fn"
    assert machine.layer("body") is machine


def test_a_formats_name_alone_is_all_of_a_layers_gemms() -> None:
    machine = datapath({"gemm": {"all": {"input": "int8", "mac": "fp32_sequential"}}, "overrides": {"head": {"gemm": "fp32"}}})
    gemm = machine.layer("head").gemm
    assert {str(getattr(gemm, g).input) for g in GEMMS} == {"fp32"}
    assert gemm.output.mac.is_native


FP8 = {"input": "fp8_e4m3fn", "weight": "fp8_e4m3fn", "grad_output": "fp8_e5m2"}
SHARED = {"gemm": {"all": FP8}, "products": {"gemm": {"output": {"input": "bf16"}}}}
OVERRIDDEN = {
    "nothing": ({}, ["fp8_e4m3fn", "bf16"]),
    "the vector unit alone": ({"vector": "fp16"}, ["fp8_e4m3fn", "bf16"]),
    "its GEMMs": ({"gemm": {"output": {"input": "int8"}}}, ["int8", "int8"]),
    "its products": ({"products": {"gemm": "fp16"}}, ["fp8_e4m3fn", "fp16"]),
    "its GEMMs and its products": ({"gemm": "int8", "products": {"gemm": {"grad_input": {"input": "fp16"}}}}, ["int8", "int8"]),
}


def test_products_are_completed_by_the_gemms_beside_them() -> None:
    machine = datapath(SHARED)
    assert [str(machine.of_products.output.input), str(machine.of_products.grad_input.grad_output)] == ["bf16", "fp8_e5m2"]
    assert datapath({"gemm": {"all": FP8}}).of_products == machine.gemm


@pytest.mark.parametrize("case", OVERRIDDEN)
@pytest.mark.parametrize("where", ["overrides", "last"])
def test_what_an_override_or_an_edge_says_of_gemms_holds_for_its_products_too(case: str, where: str) -> None:
    patch, expected = OVERRIDDEN[case]
    own = {"overrides": {"a": patch}} if where == "overrides" else {"last": {"layers": 1, **patch}}
    layer = datapath({**SHARED, **own}).placed(["b", "a"]).layer("a")
    assert [str(layer.gemm.output.input), str(layer.of_products.output.input)] == expected
    again = Datapath.model_validate_json(json.dumps(datapath({**SHARED, **own}).model_dump(mode="json")))
    assert again.placed(["b", "a"]).layer("a") == layer


def test_what_an_arithmetic_unit_writes_overflows_to_infinity_and_operands_saturate() -> None:
    machine = datapath({"gemm": {"all": {"input": "bf16", "result": "bf16"}}, "vector": "bf16", "optimizer": {"weight": "int8"}})
    output = machine.gemm.output
    assert output.input.projection.overflow == "saturate"
    assert output.result.projection.overflow == machine.vector.projection.overflow == "infinity"
    assert machine.optimizer.weight.projection.overflow == "saturate"


def test_a_layer_matches_one_override_at_most() -> None:
    machine = datapath({"overrides": {"a.*": {"vector": "bf16"}, "*.b": {"vector": "fp16"}}})
    with pytest.raises(ConfigError, match=r"layer 'a\.b' matches 'a\.\*' and '\*\.b'; allowed: one pattern a layer"):
        machine.layer("a.b")


def test_an_override_that_matches_no_layer_is_refused() -> None:
    machine = datapath({"overrides": {"haed.*": {"vector": "bf16"}}})
    with pytest.raises(ConfigError, match=r"overrides: 'haed\.\*' matches no layer; allowed: patterns of conv, head"):
        machine.check_layers(["conv", "head"])


WRONG = {
    "an unknown format": (
        "datapath:\n  gemm:\n    all:\n      input: {format: fp8_e4m3f}\n",
        r"d\.yaml:4: datapath\.gemm\.all\.input\.format: got 'fp8_e4m3f'; allowed: .*; did you mean 'fp8_e4m3fn'\?",
    ),
    "an unknown role": (
        "datapath:\n  gemm:\n    output:\n      inputs: bf16\n",
        r"d\.yaml:4: datapath\.gemm\.output\.inputs: unknown key",
    ),
    "an unknown GEMM": (
        "datapath:\n  gemm:\n    al:\n      input: bf16\n",
        r"d\.yaml:3: datapath\.gemm\.al: unknown key; allowed: all, grad_input, grad_weight, output; did you mean 'all'\?",
    ),
    "products that are no GEMMs": (
        "datapath:\n  products: bf16\n",
        r"d\.yaml:2: datapath\.products: got 'bf16' \(text\); allowed: a mapping \(gemm\)",
    ),
    "a vector unit of products": (
        "datapath:\n  products:\n    gemm: bf16\n    vector: bf16\n",
        r"d\.yaml:4: datapath\.products\.vector: unknown key; allowed: gemm",
    ),
    "an unknown GEMM of products": (
        "datapath:\n  products:\n    gemm: {al: {input: bf16}}\n",
        r"d\.yaml:3: datapath\.products\.gemm\.al: unknown key; allowed: all, .*; did you mean 'all'\?",
    ),
    "an impossible overflow": (
        "datapath:\n  vector: {format: int8, overflow: nan}\n",
        r"d\.yaml:2: datapath\.vector\.overflow: got 'nan' for int8, which has no NaN; allowed: saturate",
    ),
    "a scaling without its value": (
        "datapath:\n  vector:\n    format: int8\n    scaling: fixed\n",
        r"d\.yaml:4: datapath\.vector\.scaling: value: got None; allowed: a positive number with the rule `fixed`",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_told_its_line_and_path(case: str, tmp_path) -> None:
    text, message = WRONG[case]
    path = tmp_path / "d.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        datapath(path)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"datapath: got 'fp8_curent'; allowed: .*; did you mean 'fp8_current'\?"):
        datapath("fp8_curent")


def test_a_file_may_declare_the_formats_it_uses(tmp_path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("formats:\n  my_e5m3: {kind: float, exponent_bits: 5, mantissa_bits: 3}\ndatapath:\n  vector: my_e5m3\n")
    assert str(datapath(path).vector) == "my_e5m3"
    assert loads(path.read_text()).line(("datapath", "vector")) == 4


UNFIT = {
    "a channel that the input's gradient sums over": (
        "  gemm:\n    all:\n"
        "      input: int8\n      grad_output: int8\n"
        "      weight: {format: int8, scaling: {rule: absmax, granularity: {channel: 0}}}\n      mac: int8_int32\n",
        r"d\.yaml:\d: datapath\.gemm.*: got int8 absmax per channel 0, with scales along the axis that this GEMM sums over; "
        r"int8_int32 takes one scale a sum; allowed: a scale a tensor, a channel along the other axis, or `mac: native`",
    ),
    "blocks and a unit without scales": (
        "  gemm: {output: {input: mxfp8_e4m3, mac: nvidia_hopper_fp8}}\n",
        r"got mxfp8_e4m3, with scales for every 32 terms of the sum; nvidia_hopper_fp8 takes one scale a sum",
    ),
    "blocks of another size": (
        "  gemm: {output: {input: nvfp4, mac: nvidia_blackwell_mxfp4}}\n",
        r"got nvfp4, with scales for every 16 terms of the sum; nvidia_blackwell_mxfp4 takes a scale for every 32 terms; "
        r"allowed: runs of a multiple of 32, or `mac: native`",
    ),
    "block scales that the unit's do not have": (
        "  gemm: {output: {input: mxfp4, weight: mxfp4, mac: nvidia_blackwell_nvfp4}}\n",
        r"gemm\.output\.input: got mxfp4, with scales in e8m0fnu; allowed for nvidia_blackwell_nvfp4: scales in fp8_e4m3fn",
    ),
    "group scales that the unit's do not have": (
        "  gemm: {output: {input: {format: fp8_e5m2, scaling: {rule: absmax, granularity: {group: 32}}}, weight: mxfp8_e4m3, "
        "mac: nvidia_blackwell_mxfp8}}\n",
        r"got fp8_e5m2 absmax per group 32, with scales in fp32; allowed for nvidia_blackwell_mxfp8: scales in e8m0fnu",
    ),
    "a transform of a result": (
        "  gemm: {output: {result: {format: bf16, transform: hadamard_16}}}\n",
        r"result: transform: got 'hadamard_16'; allowed: on the operands of GEMMs",
    ),
    "a copy of a result": (
        "  vector: {format: bf16, requantize: false}\n",
        r"vector: got `requantize: false`; allowed: on the operands of GEMMs",
    ),
    "a clipped gradient of an optimizer state": (
        "  optimizer: {momentum: {format: int8, gradient: clip}}\n",
        r"momentum: got `gradient: clip`; allowed: on the operands of GEMMs",
    ),
    "a scale that trains where no gradient comes": (
        "  optimizer: {weight: {format: int8, scaling: learned}}\n",
        r"weight: scaling: got the rule `learned`; allowed: on the operands of GEMMs",
    ),
    "wire scales that ranks cannot share": (
        "  wire: {format: int8, scaling: {rule: absmax, granularity: {group: 4}}}\n",
        r"wire: scaling: got int8 absmax per group 4; allowed on the wire: one scale a tensor, by the rules none, fixed, absmax",
    ),
    "a wire scale that is kept": (
        "  wire: {format: int8, scaling: delayed}\n",
        r"wire: scaling: got int8 delayed per tensor; allowed on the wire: one scale a tensor",
    ),
    "a copy whose scales lie the other way": (
        "  gemm:\n    all:\n"
        "      input: {format: fp8_e4m3fn, scaling: {rule: absmax, granularity: {tile: [1, 128]}}, requantize: false}\n"
        "      weight: fp8_e4m3fn\n      grad_output: fp8_e5m2\n      mac: deepseek_fp8\n",
        r"with scales along the axis that this GEMM sums over; deepseek_fp8 takes a scale for every 128 terms",
    ),
    "values that a unit's ports do not have": (
        "  gemm: {output: {input: fp8_e5m2, weight: fp8_e4m3fnuz, mac: nvidia_hopper_fp8}}\n",
        r"gemm\.output\.weight: got fp8_e4m3fnuz for nvidia_hopper_fp8; allowed: values of fp8_e4m3fn, fp8_e5m2",
    ),
    "no cast before a unit of narrow ports": (
        "  gemm: {output: {input: fp16, mac: fp16_accumulate}}\n",
        r"gemm\.output\.weight: got no cast, so that fp16_accumulate is given values of fp32; allowed: values of fp16",
    ),
    "two transforms in one GEMM": (
        "  gemm: {output: {input: {format: int4, transform: hadamard_16}, weight: {format: int4, transform: hadamard_4}}}\n",
        r"got hadamard_16 and hadamard_4; allowed: the same transform for both operands, or for one",
    ),
    "a transform that there is not": (
        "  gemm: {output: {input: {format: int4, transform: hadamard_12}}}\n",
        r"transform: got 'hadamard_12'; allowed: hadamard_4, hadamard_16, hadamard_64, hadamard_256",
    ),
    "a product's operand that its gradient's unit has no port for": (
        "  products: {gemm: {grad_input: {input: bf16, weight: fp8_e5m2, grad_output: fp8_e5m2, mac: nvidia_hopper_fp8}}}\n",
        r"d\.yaml:2: datapath\.products\.gemm\.grad_input\.input: got bf16 for nvidia_hopper_fp8; allowed: values of fp8_e4m3fn",
    ),
    "a window without delayed scaling": (
        "  gemm: {output: {input: {format: int4, scaling: {rule: absmax, window: 4}}}}\n",
        r"window: got one with the rule `absmax`; allowed: window and margin with the rule `delayed`",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_casts_that_cannot_work_where_they_stand_are_refused_before_anything_runs(case: str, tmp_path) -> None:
    text, message = UNFIT[case]
    path = tmp_path / "d.yaml"
    path.write_text("datapath:\n" + text)
    with pytest.raises(ConfigError, match=message):
        datapath(path)


def test_power_of_two_group_scales_fit_a_unit_that_takes_powers_of_two() -> None:
    cast = {"format": "fp8_e4m3fn", "scaling": {"rule": "power_of_two", "granularity": {"group": 32}}}
    machine = datapath({"gemm": {"output": {"input": cast, "weight": "mxfp8_e4m3", "mac": "nvidia_blackwell_mxfp8"}}})
    assert machine.gemm.output.mac.name == "nvidia_blackwell_mxfp8"
