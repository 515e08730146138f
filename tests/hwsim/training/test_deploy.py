"""Trained weights become codes and scales with proof, and the deployed network is compared bit for bit."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

import hwsim
from hwsim.casts import Cast
from hwsim.errors import ConfigError
from hwsim.fields import format_record
from hwsim.formats import Integer
from hwsim.training import PARQ, FormatLevels, Hard, check_deployment, split_parameters, to_hardware, unit_layer

X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(fmt: str, scale: str = "absmax", share: object = "tensor") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    weights, others = split_parameters(model)
    base = torch.optim.SGD([{"params": weights}, {"params": others}], lr=0.05)
    optimizer = PARQ(base, [FormatLevels(format_record(fmt), scale), None], Hard(), granularity=share, period=1)  # type: ignore[arg-type]
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("share", ["tensor", {"channel": 0}, {"group": 3}], ids=str)
@pytest.mark.parametrize("scale", ["absmax", "power_of_two", "mse"])
@pytest.mark.parametrize("fmt", ["int4", "int2", "fp4_e2m1"])
def test_codes_and_scales_give_back_the_trained_weights_bit_for_bit(fmt: str, scale: str, share: object) -> None:
    model = trained(fmt, scale, share)
    stored = to_hardware(model, format_record(fmt), share)
    assert list(stored) == ["0.weight", "3.weight"]
    for name, weight in stored.items():
        assert torch.equal(weight.values(), model.get_parameter(name))
        assert int(weight.codes.max()) < 1 << weight.format.bits


def test_weights_off_the_grid_are_refused_with_their_rate() -> None:
    model = trained("int4")
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 0.01
    with pytest.raises(
        ConfigError, match=r"to_hardware 0.weight: got a quantization rate of 9\d.\d+% on int4, first off the grid: .* in row 0"
    ):
        to_hardware(model, Integer(4))


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names: got '0.weihgt'; allowed: 0.weight, 0.bias"):
        to_hardware(trained("int4"), Integer(4), names=["0.weihgt"])


def test_a_datapath_with_scales_of_powers_of_two_gives_the_same_logits() -> None:
    model = trained("int4", "power_of_two", {"channel": 0})
    check = check_deployment(model, to_hardware(model, format_record("int4"), {"channel": 0}), X)
    exact = trained("int4", "power_of_two")
    for layer in (exact[0], exact[3]):
        nn.init.zeros_(layer.bias)
    zero_bias = check_deployment(exact, to_hardware(exact, format_record("int4")), X)
    assert zero_bias.exact
    assert all(layer.largest < 1e-5 for layer in check.layers)


def test_where_the_logits_differ_the_layers_say_so() -> None:
    model = trained("int4")
    check = check_deployment(model, to_hardware(model, Integer(4)), X)
    assert not check.exact
    assert [layer.name for layer in check.layers] == ["0", "3"]
    assert "differ, by" in str(check)
    assert 0 < check.logits.largest < 1e-5


def on_a_machine(cast: dict[str, Any], weights: str, scale: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network that was trained on a machine whose activations are cast, its weights drawn to a format."""
    machine = {"gemm": {"output": {"input": cast}}}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    drawn, others = split_parameters(model)
    base = torch.optim.SGD([{"params": drawn}, {"params": others}], lr=0.05)
    rule = FormatLevels(format_record(weights), scale)  # type: ignore[arg-type]
    optimizer = PARQ(base, [rule, None], Hard(), period=1)
    with hwsim.emulate(model, machine, optimizer=optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
    return model, machine


INT8 = {"format": {"kind": "integer", "bits": 8, "symmetric": True}, "scaling": "power_of_two"}
UNITS = [
    (INT8, "int4", "int8_int32"),
    (INT8, "ternary", "int8_int32"),
    ({"format": "fp8_e4m3fn", "scaling": "power_of_two"}, "fp4_e2m1", {"order": "sequential", "accumulator": {"format": "fp32"}}),
]


@pytest.mark.parametrize(("cast", "weights", "unit"), UNITS, ids=["int4", "ternary", "fp4"])
def test_a_low_bit_unit_gives_the_logits_of_the_emulated_training_bit_for_bit(cast: Any, weights: str, unit: Any) -> None:
    model, machine = on_a_machine(cast, weights, "power_of_two")
    layer = unit_layer(TypeAdapter(Cast).validate_python(cast), hwsim.mac(unit))
    check = check_deployment(model, to_hardware(model, format_record(weights)), X, layer, machine)
    assert check.exact, str(check)
    assert [str(found) for found in check.layers] == ["0: equal", "3: equal"]


def test_scales_that_are_no_powers_of_two_differ_in_the_last_bits_and_the_layers_say_where() -> None:
    cast = {**INT8, "scaling": "absmax"}
    model, machine = on_a_machine(cast, "int4", "absmax")
    layer = unit_layer(TypeAdapter(Cast).validate_python(cast), "int8_int32")
    check = check_deployment(model, to_hardware(model, format_record("int4")), X, layer, machine)
    assert not check.exact
    assert 0 < check.layers[0].largest < 1e-5


def test_a_unit_refuses_layers_and_scales_that_it_cannot_compute() -> None:
    layer = unit_layer(TypeAdapter(Cast).validate_python(INT8), "int8_int32")
    model = trained("int4", "power_of_two", {"group": 3})
    with pytest.raises(ConfigError, match=r"unit_layer: got scales per group.*; allowed: one a tensor, or one an output channel"):
        check_deployment(model, to_hardware(model, Integer(4), {"group": 3}), X, layer)
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1, groups=2, bias=False))
    nn.init.ones_(grouped[0].weight)
    with pytest.raises(ConfigError, match=r"unit_layer: got Conv2d.*; allowed: Linear, and Conv2d in one group"):
        check_deployment(grouped, to_hardware(grouped, Integer(4)), torch.ones(1, 2, 3, 3), layer)
