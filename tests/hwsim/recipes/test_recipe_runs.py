"""Every recipe end to end: nothing unknown, everything accounted for, and a loss that is a number."""

import math

import pytest
import torch
from recipe_cases import RECIPES, Net, fresh, numbers, train
from torch import Tensor, nn

from hwsim.datapaths import datapath
from hwsim.emulator import Machine, emulate
from hwsim.layering import OPERANDS_OF


def run(model: nn.Module, x: Tensor, recipe: str, steps: int) -> tuple[list[float], Machine]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with emulate(model, recipe, optimizer=optimizer, seed=1) as machine:
        losses = train(model, x, machine, optimizer, steps)
    return losses, machine


def check(losses: list[float], machine: Machine) -> None:
    assert all(map(math.isfinite, losses))
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}
    assert not {row.role for row in machine.audit()} & {"unknown"}
    assert {row.gemm for row in machine.audit() if row.gemm} == {"output", "grad_input", "grad_weight"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_small_network_trains_on_the_recipe(recipe: str) -> None:
    check(*run(fresh(Net), numbers(2, 2, 4, 4), recipe, 2))


QUICK = {("resnet18", "fp8_current"), ("gpt", "fp8_current"), ("gpt", "w4a4_lsq"), ("gpt", "nvfp4")}
"""What the default suite runs of all."""


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        pytest.param(kind, recipe, marks=() if (kind, recipe) in QUICK else pytest.mark.large)
        for kind in ("resnet18", "gpt")
        for recipe in RECIPES
    ],
)
def test_resnet_18_and_a_gpt_train_on_the_recipe(kind: str, recipe: str) -> None:
    if kind == "resnet18":
        torchvision = pytest.importorskip("torchvision")
        model, x = fresh(lambda: torchvision.models.resnet18(num_classes=10)), numbers(2, 3, 32, 32)
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)
        gpt = fresh(lambda: transformers.GPT2LMHeadModel(config))
        model, x = Logits(gpt), torch.arange(32).reshape(2, 16)
    check(*run(model, x, recipe, 2))


class Logits(nn.Module):
    def __init__(self, gpt: nn.Module) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, ids: Tensor) -> Tensor:
        return self.gpt(ids).logits


def test_the_last_layers_run_on_what_the_recipe_says() -> None:
    machine = datapath("nvfp4").placed([str(i) for i in range(10)])
    assert [path for path in "0123456789" if str(machine.layer(path).gemm.output.input) == "bf16"] == ["8", "9"]
    assert str(machine.layer("7").gemm.output.input) == "nvfp4"


def test_an_override_stands_before_first_and_last() -> None:
    machine = datapath({"first": {"layers": 1, "gemm": "fp16"}, "overrides": {"a": {"gemm": "bf16"}}})
    assert str(machine.placed(["a", "b"]).layer("a").gemm.output.input) == "bf16"


BF16_HEAD = {"nvfp4", "b200_nvfp4", "fp8_deepseek"}
BF16_PRODUCTS = {
    "fp8_current": "native",
    "fp8_delayed": "native",
    "fp8_deepseek": "native",
    "fp8_lm": "native",
    "mxfp8": "native",
    "nvfp4": "native",
    "h100_fp8": "nvidia_hopper_bf16",
    "h100_fp8_delayed": "nvidia_hopper_bf16",
    "h100_fp8_lm": "nvidia_hopper_bf16",
    "mi300x_fp8": "amd_cdna3_bf16",
    "b200_mxfp8": "nvidia_blackwell_bf16",
    "b200_nvfp4": "nvidia_blackwell_bf16",
}
"""The recipes that keep attention's products in bf16, and on which unit."""


@pytest.mark.parametrize("recipe", ["nvfp4", "fp8_delayed", "h100_fp8"])
def test_only_attention_s_products_and_the_head_are_wider_where_the_recipe_says_so(recipe: str) -> None:
    _, machine = run(fresh(Net), numbers(2, 2, 4, 4), recipe, 1)
    rows = [row for row in machine.audit() if row.gemm and row.role != "result"]
    heads = {"head"} if recipe in BF16_HEAD else set()
    assert {row.site for row in rows if row.cast == "bf16"} == {"(model):bmm.0", "(model):bmm.1", *heads}
    assert {row.mac for row in rows if ":" in row.site} == {BF16_PRODUCTS[recipe]}
    assert all(row.cast.startswith(("nvfp4", "fp8")) for row in rows if row.cast != "bf16")


@pytest.mark.parametrize("recipe", RECIPES)
def test_products_of_two_activations_are_in_bf16_where_the_recipe_s_source_keeps_them_so(recipe: str) -> None:
    machine = datapath(recipe)
    if recipe in BF16_PRODUCTS:
        casts = [getattr(getattr(machine.of_products, gemm), role) for gemm, roles in OPERANDS_OF.items() for role in roles]
        assert {str(cast) for cast in casts} == {"bf16"}
        assert {getattr(machine.of_products, gemm).mac.name for gemm in OPERANDS_OF} == {BF16_PRODUCTS[recipe]}
    else:
        assert machine.products is None
    head = None if machine.last is None else str(machine.last.gemm.output.weight)
    assert (head == "bf16") is (recipe in BF16_HEAD)
