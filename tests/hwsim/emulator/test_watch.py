"""The first operation that gives NaN or infinity is remembered, step by step."""

import pytest
import torch
from torch import Tensor, nn

from hwsim.emulator import emulate
from hwsim.formats.errors import NanError


class Steps(nn.Module):
    def __init__(self, expression) -> None:
        super().__init__()
        self.first, self.expression = nn.Linear(3, 3), expression

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(self.first(x)).exp()


INF = float("inf")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda x: x, None),
        (lambda x: x * 0 - 1e30, None),
        (lambda x: (x * 0).log(), ("log", "forward", "", True)),
        (lambda x: x * 0 + 200, ("exp", "forward", "", True)),
        (lambda x: x.clone().fill_(3e38).mul_(2), ("mul_", "forward", "", True)),
        (lambda x: (x * 1e20) @ torch.full((3, 3), 1e20), ("mm", "forward", "(model):mm.0/output", True)),
        (lambda x: x + torch.tensor([0.0, -INF, 0.0]), ("add", "forward", "", False)),
        (lambda x: (x + torch.tensor([0.0, -INF, 0.0]))[:, :1] * 1e38 * 1e38, ("mul", "forward", "", True)),
        (lambda x: (x * 0).abs().sqrt(), ("div", "backward", "", True)),
    ],
)
def test_the_first_operation_of_a_step_that_is_not_finite(expression, expected) -> None:
    model = Steps(expression)
    with emulate(model, "fp32", watch=True) as machine:
        model(torch.ones(2, 3)).sum().backward()
    found = machine.not_finite()
    assert (found and (found.op, found.phase, found.site, found.made)) == expected


def test_a_convolution_and_an_optimizer_s_step_are_watched() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
    with emulate(model, "fp32", optimizer=optimizer, watch=True) as machine:
        found = []
        for scale in (1e-3, 10.0):
            optimizer.zero_grad()
            (model(torch.ones(1, 1, 1, 1)) * scale).sum().backward()
            optimizer.step()
            found.append(machine.not_finite())
    assert found[0] is None
    assert str(found[1]) == "first made by add_ at 0.weight (optimizer) in step 1"
    with emulate(model, "fp32", watch=True) as machine:
        model(torch.ones(1, 1, 1, 1))
    assert str(machine.not_finite()) == "first given by convolution at 0/output (forward) in step 0"


def test_evaluation_is_watched_apart_and_nothing_is_without_being_asked() -> None:
    model = Steps(lambda x: x * 0 - INF)
    with torch.no_grad(), emulate(model, "fp32", watch=True) as machine:
        model.eval()(torch.ones(2, 3))
    assert machine.not_finite().phase == "evaluation"
    with emulate(model, "fp32") as machine:
        model(torch.ones(2, 3))
    assert machine.not_finite() is None


def test_a_nan_at_a_port_of_a_format_without_one_names_the_port() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    refused = pytest.raises(NanError, match=r"^0/output/input: x\[0, 1\]: got nan, which becomes NaN in a format that has none")
    with emulate(model, {"gemm": {"output": {"input": "int8"}}}), refused:
        model(torch.tensor([[1.0, torch.nan]]))
