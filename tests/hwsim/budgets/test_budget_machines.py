"""The machines of an error budget: which roles a datapath has, and what keeping some of them keeps."""

from typing import Any

import pytest

from hwsim.budgets.machines import ROLES, alone, roles, twin, without
from hwsim.datapaths import Datapath, datapath
from hwsim.errors import ConfigError

SUM = {"accumulator": {"format": "fp16"}, "order": "sequential"}
MAC = {**SUM, "operands": {"format": ["fp8_e4m3fn", "fp8_e5m2"]}}
EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "gemm": {"all": {"input": "fp8_e4m3fn", "weight": "fp8_e4m3fn", "grad_output": "fp8_e5m2", "result": "bf16", "mac": MAC}},
    "vector": "bf16",
    "optimizer": {"weight": "bf16"},
    "overrides": {"head": {"vector": "fp16"}},
}


@pytest.fixture
def everything() -> Datapath:
    return datapath(EVERYTHING)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ()),
        ({"gemm": {"output": {"input": "bf16"}}}, ("input",)),
        ({"gemm": {"grad_weight": {"mac": SUM}}}, ("accumulator",)),
        ({"optimizer": {"momentum": "bf16"}, "vector": "bf16"}, ("vector", "optimizer")),
        ({"overrides": {"head": {"gemm": {"all": {"weight": "int4"}}}}}, ("weight",)),
        (
            {"overrides": {"last": {"gemm": {"all": {"weight": "int4"}}}}, "last": {"layers": 1, "vector": "bf16"}},
            ("weight", "vector"),
        ),
        ({"products": {"gemm": {"output": {"input": "bf16", "mac": SUM}}}}, ("input", "accumulator")),
        (EVERYTHING, ROLES),
    ],
)
def test_the_roles_of_a_datapath_are_those_in_which_it_rounds_anywhere(given: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert roles(datapath({"name": "given", **given})) == expected


@pytest.mark.parametrize("role", ROLES)
def test_alone_has_one_role_and_without_has_the_others(everything: Datapath, role: Any) -> None:
    assert roles(alone(everything, role)) == (role,)
    assert roles(without(everything, role)) == tuple(other for other in ROLES if other != role)


def test_what_is_kept_is_kept_as_it_is(everything: Datapath) -> None:
    kept = alone(everything, "grad_output")
    assert kept.gemm.grad_weight.grad_output == everything.gemm.grad_weight.grad_output
    assert alone(everything, "vector").overrides["head"].vector == everything.overrides["head"].vector
    assert alone(everything, "optimizer").optimizer == everything.optimizer
    assert without(everything, "vector").gemm == everything.gemm


def test_products_keep_what_the_layers_keep() -> None:
    machine = datapath({"name": "of two", "gemm": {"all": {"input": "int8"}}, "products": {"gemm": "bf16"}})
    kept, left = alone(machine, "input"), without(machine, "input")
    assert kept.of_products.output.input == machine.of_products.output.input
    assert roles(kept) == ("input",)
    assert roles(left) == ("weight", "grad_output", "result")


def test_an_accumulator_alone_takes_operands_of_any_format(everything: Datapath) -> None:
    unit = alone(everything, "accumulator").gemm.output.mac
    assert unit.operands is None
    assert unit.accumulator == everything.gemm.output.mac.accumulator


def test_the_twin_rounds_nowhere(everything: Datapath) -> None:
    assert roles(twin(everything)) == ()
    assert twin(everything).name == "everything: none"


def test_names_say_what_is_kept(everything: Datapath) -> None:
    assert alone(everything, "input").name == "everything: only input"
    assert without(everything, "input").name == "everything: all but input"


def test_a_role_that_the_datapath_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget of 'plain': role: got 'weight'; allowed: vector"):
        alone(datapath({"name": "plain", "vector": "bf16"}), "weight")
