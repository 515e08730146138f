"""Trained weights become codes and scales with proof, and the deployed network is compared bit for bit."""

import pytest
import torch
from torch import nn

from hwsim.errors import ConfigError
from hwsim.fields import format_record
from hwsim.formats import Integer
from hwsim.training import PARQ, FormatLevels, Hard, check_deployment, split_parameters, to_hardware

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
