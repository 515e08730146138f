"""Datapaths: `all` under each GEMM, overrides over the layers, and what a wrong one is told."""

import pytest

from hwsim.catalogue import shipped
from hwsim.config import loads
from hwsim.datapaths import GEMMS, datapath
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
