"""Trained weights become codes and scales with proof, and the deployed network is compared bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import hwsim
from hwsim.casts import Cast
from hwsim.errors import ConfigError
from hwsim.fields import format_record
from hwsim.formats import Integer
from hwsim.training import (
    LSQ,
    PARQ,
    FormatLevels,
    Hard,
    HardwareWeight,
    Parq,
    Sigmoid,
    check_deployment,
    split_parameters,
    to_hardware,
    unit_layer,
)
from hwsim.training.deploy import unscaled_layer
from hwsim.training.nearest import nearest
from hwsim.training.rows import from_rows, granularity, to_rows

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


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (lambda m: to_hardware(m, Integer(4), names=["0.weihgt"]), r"names: got '0.weihgt'; allowed: 0.weight, 0.bias"),
        (
            lambda m: to_hardware(m, Integer(4), names=[]),
            r"to_hardware: got no weight; allowed: .* at least one matrix of a layer",
        ),
        (lambda m: to_hardware(nn.LayerNorm(4), Integer(4)), r"to_hardware: got no weight"),
        (lambda m: to_hardware(m, format_record("fp32")), r"to_hardware format: got fp32 of 32 bits; allowed: at most 16"),
        (lambda m: check_deployment(m, {}, X), r"check_deployment weights: got none; allowed: at least one `weight` of a layer"),
        (
            lambda m: check_deployment(m, to_hardware(m, Integer(16), names=["0.bias"]), X),
            r"check_deployment weights: got 0.bias; allowed: at least one `weight` of a layer that the model runs",
        ),
        (
            lambda m: check_deployment(nn.Flatten(), to_hardware(m, Integer(4)), X),
            r"check_deployment weights: got '0.weight'; allowed: ",
        ),
    ],
)
def test_what_would_prove_nothing_is_refused(store, message: str) -> None:  # type: ignore[no-untyped-def]
    model = trained("int4")
    with torch.no_grad():
        model[0].bias.fill_(1.0)
    with pytest.raises(ConfigError, match=message):
        store(model)


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


def rounded(model: nn.Module, share: object, names: tuple[str, ...]) -> nn.Module:
    """A model with these weights rounded to int4 times scales."""
    for name in names:
        weight = model.get_parameter(name).data
        rows = to_rows(weight, granularity(share))
        weight.copy_(from_rows(nearest(rows, FormatLevels(Integer(4)).levels(rows)), weight.shape, granularity(share)))
    return model


@pytest.mark.parametrize("share", ["tensor", {"channel": 0}, {"channel": 1}], ids=str)
@pytest.mark.parametrize(
    ("layer", "inputs"),
    [(Conv1D(3, 4), (2, 4)), (Conv1D(4, 4), (2, 5, 4)), (nn.ConvTranspose2d(2, 3, 3), (2, 2, 5, 5)),
     (nn.ConvTranspose2d(3, 3, 3), (2, 3, 5, 5)), (nn.ConvTranspose1d(2, 3, 3), (2, 2, 5)), (nn.Conv2d(2, 3, 3), (2, 5, 5))],
    ids=["conv1d_of_gpt", "square_conv1d_of_gpt", "transposed", "square_transposed", "transposed_1d", "without_a_batch"],
)  # fmt: skip
def test_layers_whose_outputs_are_not_the_first_axis_are_computed_from_the_weight_itself(
    layer: nn.Module, inputs: tuple[int, ...], share: object
) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    model = rounded(nn.Sequential(layer), share, ("0.weight",))
    check = check_deployment(model, to_hardware(model, Integer(4), share), torch.randn(inputs))
    assert [str(found) for found in check.layers] == ["0: equal"]
    assert check.exact


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [(nn.Linear(4, 3), (4,)), (nn.Linear(4, 3), (2, 5, 4)), (nn.Conv1d(2, 3, 3), (2, 2, 5)), (nn.Conv2d(2, 3, 3), (2, 2, 5, 5)),
     (nn.Conv3d(2, 3, 3), (2, 2, 5, 5, 5))],
    ids=["vector", "batch", "1d", "2d", "3d"],
)  # fmt: skip
def test_other_layers_are_scaled_once_after_the_sum(layer: nn.Module, inputs: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    model = rounded(nn.Sequential(layer).double(), {"channel": 0}, ("0.weight",))
    stored = to_hardware(model, Integer(4), {"channel": 0})
    check = check_deployment(model, stored, torch.randn(inputs).double())
    assert check.layers[0].largest < 1e-14
    zero_bias = {"weight": stored["0.weight"].elements(), "bias": torch.zeros(3).double()}
    x = torch.randn(inputs).double()
    columns = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (len(inputs) - 2))
    unscaled = torch.func.functional_call(layer, zero_bias, (x,))
    expected = unscaled * stored["0.weight"].scales.reshape(columns) + layer.bias.reshape(columns)
    assert torch.equal(unscaled_layer(layer, stored["0.weight"], x), expected)


class Gpt(nn.Module):
    """A GPT-2 of one layer, whose head has the table of embeddings for its weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gpt = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.gpt(tokens).logits
        return logits


@pytest.mark.parametrize("share", ["tensor", {"channel": 1}], ids=str)
def test_a_gpt_is_checked_with_its_head_whose_weight_is_that_of_the_embedding(share: object) -> None:
    model = Gpt()
    names = tuple(name for name, p in model.named_parameters() if p.ndim == 2 and "wpe" not in name)
    check = check_deployment(rounded(model, share, names), to_hardware(model, Integer(4), share), torch.arange(6)[None])
    block = "gpt.transformer.h.0"
    assert [layer.name for layer in check.layers] == [
        f"{block}.attn.c_attn", f"{block}.attn.c_proj", f"{block}.mlp.c_fc", f"{block}.mlp.c_proj", "gpt.lm_head",
    ]  # fmt: skip
    assert all(not layer.different for layer in check.layers[:-1])
    assert check.logits.largest < 1e-6


def test_a_hugging_face_model_trains_is_stored_and_comes_back_in_a_fresh_model_of_its_configuration(tmp_path: Path) -> None:
    int4, tokens = Integer(4), torch.arange(8)[None]
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    model = AutoModelForCausalLM.from_config(config)
    weights, others = split_parameters(model)
    base = torch.optim.AdamW([{"params": weights}, {"params": others}], lr=0.01)
    optimizer = PARQ(base, [FormatLevels(int4), None], Parq(Sigmoid(0, 4)), granularity={"channel": 0}, period=1)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    stored = to_hardware(model, int4, {"channel": 0})
    block = "transformer.h.0"
    assert set(stored) == {
        "transformer.wte.weight",  # which is the head's, too
        f"{block}.attn.c_attn.weight", f"{block}.attn.c_proj.weight", f"{block}.mlp.c_fc.weight", f"{block}.mlp.c_proj.weight",
    }  # fmt: skip
    config.save_pretrained(tmp_path)
    codes = {name: (weight.codes.to(torch.int8), weight.scales) for name, weight in stored.items()}
    rest = {name: p.detach() for name, p in model.named_parameters() if name not in stored}
    torch.save({"codes": codes, "rest": rest}, tmp_path / "weights.pt")
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    read = {name: HardwareWeight(int4, code.long(), s, granularity({"channel": 0})) for name, (code, s) in saved["codes"].items()}
    assert not fresh.load_state_dict(saved["rest"] | {name: weight.values() for name, weight in read.items()}, strict=False)[1]
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    with torch.no_grad():
        assert torch.equal(fresh.eval()(tokens).logits, model.eval()(tokens).logits)
    assert {name: weight.codes.tolist() for name, weight in to_hardware(fresh, int4, {"channel": 0}).items()} == {
        name: weight.codes.tolist() for name, weight in stored.items()
    }


LEARNED = [(1, False, "binary"), (1, True, "ternary"), (2, True, "int2"), (4, True, "int4")]


@pytest.mark.parametrize(("bits", "zero", "fmt"), LEARNED)
def test_weights_that_lsq_learned_are_stored_and_checked_as_the_network_computes_with_them(
    bits: int, zero: bool, fmt: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for layer in (model[0], model[3]):
        parametrize.register_parametrization(layer, "weight", LSQ(layer.weight, bits, zero=zero))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    stored = to_hardware(model, format_record(fmt))
    assert list(stored) == ["0.weight", "3.weight"]
    assert all(torch.equal(stored[f"{i}.weight"].values(), model[i].weight) for i in (0, 3))
    check = check_deployment(model, stored, X)
    assert [layer.name for layer in check.layers] == ["0", "3"]
    assert check.logits.largest < 1e-5
    swapped = {"0.weight": stored["0.weight"], "3.weight": replace(stored["3.weight"], scales=2 * stored["3.weight"].scales)}
    assert not check_deployment(model, swapped, X).exact


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
    plain = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False))
    nn.init.ones_(plain[0].weight)
    with pytest.raises(ConfigError, match=r"unit_layer: got Conv2d.* with an input of 3 axes; allowed: .* and an input of 4"):
        check_deployment(plain, to_hardware(plain, Integer(4)), torch.ones(2, 3, 3), layer)
