"""Products of two activations: each operand has random words, and a scale that the run keeps, of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
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


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 6)])
@pytest.mark.parametrize("is_left", [True, False])
def test_a_recomputed_operand_that_lies_where_the_other_one_was_is_still_itself(rows: int, columns: int, is_left: bool) -> None:
    """The gradient of the right operand is left^T grad, summed over rows; that of the left one grad right^T, over columns."""
    kept, elsewhere = torch.zeros(2, 8, 8), torch.zeros(1)
    places = (storage_id(elsewhere), storage_id(kept)) if is_left else (storage_id(kept), storage_id(elsewhere))
    made = GemmNote(SimpleNamespace(layer=None), 0, None, *places, "input", "input")  # type: ignore[arg-type]
    made.rows, made.columns = rows, columns
    assert _is_left(made, kept, Role.INPUT, not is_left, rows if is_left else columns) is is_left
