"""Recomputation draws the random words of the forward pass again."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from emulator_cases import Block, Transformer, input_of, loss_of, same, tensors_of
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from hwsim.emulator import emulate
from hwsim.errors import ConfigError

STOCHASTIC = {"format": "fp8_e4m3fn", "rounding": "stochastic"}
MACHINE = {
    "gemm": {"all": {"input": STOCHASTIC, "weight": STOCHASTIC, "grad_output": {"format": "fp8_e5m2", "rounding": "stochastic"}}},
    "vector": {"format": "bf16", "rounding": "stochastic"},
}
GEMMS_ONLY = {"gemm": MACHINE["gemm"]}


def gradients(model: nn.Module, x: Tensor, machine, repeats: int = 1) -> tuple[dict[str, Tensor], set[str]]:
    with emulate(model, machine, seed=11) as running:
        for _ in range(repeats):
            loss_of(model(x)).backward()
    return tensors_of(model), {row.phase for row in running.audit()}


def transformer(checkpointing: bool | None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(checkpointing)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("repeats", [1, 2])
def test_checkpointed_gradients_equal_plain_ones_with_stochastic_operands(reentrant: bool, repeats: int) -> None:
    expected, _ = gradients(transformer(None), input_of("transformer"), GEMMS_ONLY, repeats)
    found, phases = gradients(transformer(reentrant), input_of("transformer"), GEMMS_ONLY, repeats)
    assert same(found, expected) == []
    assert "recompute" in phases


class Shared(nn.Module):
    """One block that runs three times, each time checkpointed."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.block, self.reentrant = Block(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_that_runs_three_times_finds_each_call_again(reentrant: bool) -> None:
    def run(reentrant: bool | None) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Shared(reentrant)
        x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        return gradients(model, x, GEMMS_ONLY)[0]

    assert same(run(reentrant), run(None)) == []


class Inline(nn.Module):
    """Checkpoints a function between other operations, without a module of its own."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
        self.reentrant = reentrant

    def middle(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ x.mT) @ x @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x @ x @ self.weight
        x = self.middle(x) if self.reentrant is None else checkpoint(self.middle, x, use_reentrant=self.reentrant)
        return x @ x


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_function_has_the_sites_it_had_in_the_forward_pass(reentrant: bool) -> None:
    def run(reentrant: bool | None) -> dict[str, Tensor]:
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        return gradients(Inline(reentrant), x, GEMMS_ONLY)[0]

    assert same(run(reentrant), run(None)) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_pass_is_the_forward_pass_with_a_stochastic_vector_unit(reentrant: bool) -> None:
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def inner(self, x: Tensor) -> Tensor:
            y = self.block(x)
            seen.append(y.detach().clone())
            return y

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant, **({} if reentrant else {"early_stop": False}))

    model = Watched()
    with emulate(model, MACHINE, seed=2):
        for _ in range(2):
            loss_of(model(torch.randn(2, 4, 8, requires_grad=True))).backward()
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("saving", [nullcontext, save_on_cpu])
def test_gradients_of_gradients_are_refused(saving: Any) -> None:
    model = nn.Linear(3, 3)
    with emulate(model, "fp32"), saving(), pytest.raises(ConfigError, match="create_graph"):
        torch.autograd.grad(model(torch.ones(2, 3)).square().sum(), model.weight, create_graph=True)


class Nested(nn.Module):
    """A checkpointed layer inside of a checkpointed module."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.inner, self.reentrant = nn.Linear(8, 8), nn.Linear(8, 8), reentrant

    def body(self, x: Tensor) -> Tensor:
        y = self.first(x).tanh()
        return self.inner(y) if self.reentrant is None else checkpoint(self.inner, y, use_reentrant=self.reentrant)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.reentrant is None else checkpoint(self.body, x, use_reentrant=self.reentrant)


@pytest.mark.filterwarnings("ignore:None of the inputs")  # torch's, of a checkpoint that runs without gradients inside of another
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_inside_of_a_checkpoint(reentrant: bool) -> None:
    found = []
    for kind in (None, reentrant):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, x = Nested(kind), torch.randn(4, 8, requires_grad=True)
        with emulate(model, "fp8_current"):
            model(x).square().sum().backward()
        found.append({"x": x.grad, **tensors_of(model)})
    assert same(*found) == []
