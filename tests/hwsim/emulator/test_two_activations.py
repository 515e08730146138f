"""Products of two activations: each operand has random words, and a scale that the run keeps, of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulator_cases import input_of, loss_of, model_of
from torch import Tensor, nn

from hwsim import emulate
from hwsim.emulator.gemms import _is_left
from hwsim.emulator.origins import Role
from hwsim.emulator.records import GemmNote
from hwsim.emulator.sites import storage_id

TERMS = 256


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a * self.gain, b)


def declared(cast: dict[str, Any], mac: str = "native") -> dict[str, Any]:
    return {"gemm": {"output": {"input": cast, "weight": cast, "mac": mac}}}


@pytest.mark.parametrize("mac", ["native", "int8_int32"])
def test_stochastic_roundings_of_the_two_are_independent(mac: str) -> None:
    """With shared words the roundings of equal values agree, and q q^T is too large on its diagonal."""
    cast = {"format": "int8", "rounding": "stochastic", "scaling": {"rule": "fixed", "value": 1.0}}
    q = torch.full((8, 64, TERMS), 0.5)
    with emulate(model := Product(), declared(cast, mac)):
        found = model(q, q.mT.contiguous())
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    # A product of two independent draws is 1 in a quarter of all cases: its deviation is sqrt(3) / 4.
    for values in (diagonal, found):
        error = values.mean() - TERMS / 4
        assert abs(error) < 5 * 3**0.5 / 4 * (TERMS / diagonal.numel()) ** 0.5


@pytest.mark.parametrize(
    "cast",
    [
        {"format": "fp8_e4m3fn", "scaling": {"rule": "delayed", "window": 4}},
        {"format": "int8", "scaling": "learned"},
    ],
    ids=["delayed", "learned"],
)
def test_each_has_a_kept_scale_of_its_own_in_both_passes(cast: dict[str, Any]) -> None:
    q = (100 * torch.randn(1, 16, 16)).requires_grad_()
    k = (0.01 * torch.randn(1, 16, 16)).requires_grad_()
    exact = torch.bmm(q.detach(), k.detach())
    model = Product()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with emulate(model, {"gemm": {"output": {"input": cast}, "grad_input": {"input": cast}}}, optimizer) as machine:
        for _ in range(2):
            found = model(q, k)
            found.sum().backward()
            optimizer.step()
        scales = machine.state_dict()["scales"]
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert [name for name in scales if name.endswith("/output/input.right")] == [
        f"{name}.right" for name in scales if name.endswith("/output/input")
    ]


FP8 = {"input": "fp8_e4m3fn", "weight": "fp8_e4m3fn", "grad_output": "fp8_e5m2"}
PRODUCTS = {
    "gemm": {"all": FP8},
    "products": {"gemm": {"all": {"input": "bf16", "grad_output": "fp16", "mac": "fp32_sequential"}}},
}


def casts_of(model: nn.Module, x: Tensor, machine: dict[str, Any]) -> dict[bool, set[str]]:
    """The casts of operands and the units, of the GEMMs of weights and (True) of those of two activations."""
    with emulate(model, machine) as running:
        loss_of(model(x)).backward()
        saved = running.state_dict()
    with emulate(model, machine) as resumed:
        resumed.load_state_dict(saved)
    assert resumed.audit() == running.audit()
    rows = [row for row in resumed.audit() if row.gemm and row.role != "result"]
    assert {row.gemm for row in rows} == {"output", "grad_input", "grad_weight"}
    return {of: {f"{row.cast} {row.mac}" for row in rows if (":" in row.site) is of} for of in (False, True)}


OF_WEIGHTS, OF_PRODUCTS = {"fp8_e4m3fn native", "fp8_e5m2 native"}, {"bf16 fp32_sequential", "fp16 fp32_sequential"}
OVERRIDDEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, OF_PRODUCTS),
    "the layer's GEMMs": ({"overrides": {"*attention": {"gemm": "int8"}}}, {"int8 native"}),
    "another layer's GEMMs": ({"overrides": {"blocks.*.mlp": {"gemm": "int8"}}}, OF_PRODUCTS),
}


@pytest.mark.parametrize("case", OVERRIDDEN)
def test_attention_s_products_run_on_products_in_both_passes_and_weights_on_the_layers_gemms(case: str) -> None:
    patch, expected = OVERRIDDEN[case]
    found = casts_of(model_of("transformer"), input_of("transformer"), {**PRODUCTS, **patch})
    assert found == {False: OF_WEIGHTS, True: expected}


def test_products_written_out_by_einsum_matmul_and_bmm_are_products_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Squares())
    found = casts_of(model, torch.randn(2, 4, 4), PRODUCTS)
    assert found == {False: OF_WEIGHTS, True: OF_PRODUCTS}


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bij,bkj->bik", x, x) + x @ x + torch.bmm(x, x)


def test_a_recurrent_layer_and_a_convolution_have_no_products() -> None:
    for name in ("lstm", "digits_cnn"):
        found = casts_of(model_of(name), input_of(name), PRODUCTS)
        assert found == {False: OF_WEIGHTS, True: set()}


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 6)])
@pytest.mark.parametrize("is_left", [True, False])
def test_a_recomputed_operand_that_lies_where_the_other_one_was_is_still_itself(rows: int, columns: int, is_left: bool) -> None:
    """The gradient of the right operand is left^T grad, summed over rows; that of the left one grad right^T, over columns."""
    kept, elsewhere = torch.zeros(2, 8, 8), torch.zeros(1)
    places = (storage_id(elsewhere), storage_id(kept)) if is_left else (storage_id(kept), storage_id(elsewhere))
    made = GemmNote(SimpleNamespace(layer=None), 0, None, *places, "input", "input")  # type: ignore[arg-type]
    made.rows, made.columns = rows, columns
    assert _is_left(made, kept, Role.INPUT, not is_left, rows if is_left else columns) is is_left
