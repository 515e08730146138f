"""One pass of step and prox map has the bits of the two passes, and is taken only where it has."""

from typing import Any

import pytest
import torch
from torch import nn

import hwsim
from hwsim.training import LSBQ, PARQ, BinaryRelax, Hard, Linear, Parq, ProxMap, Sigmoid

SHAPES = [(70, 1001), (4105,), (3, 7)]
"""Rows that are no multiple of a block or a vector; a vector; too small for the loops."""


class Plain(torch.optim.SGD):
    """The same optimizer, which nothing is known of."""


def wrapped(kind: type[torch.optim.SGD], prox_map: ProxMap, dtype: torch.dtype, share: Any, **options: Any) -> PARQ:
    draw = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=draw, dtype=dtype)) for shape in SHAPES]
    bits = 4 if options.pop("many", False) else 2
    return PARQ(kind(weights, **{"lr": 0.1, **options}), LSBQ(bits), prox_map, granularity=share, warmup=1, period=4)


def steps(optimizer: PARQ, count: int, seed: int = 1) -> list[int]:
    """Train on random gradients, and count the weights of one pass in each step."""
    draw, fused = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        for weight, _ in optimizer.latents():
            weight.grad = torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
        fused.append(sum(1 for group in optimizer._drawn for _ in optimizer._fused(group)))
        optimizer.step()
    return fused


def everything(optimizer: PARQ) -> list[torch.Tensor]:
    states = [optimizer.base.state[u].get("momentum_buffer", torch.zeros(0)) for _, u in optimizer.latents()]
    return [*(t for pair in optimizer.latents() for t in pair), *states]


MAPS = [Hard(), Parq(Sigmoid(1, 7)), Parq(Linear(3, 5))]
OPTIONS: list[dict[str, Any]] = [
    {}, {"weight_decay": 0.01}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "maximize": True},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}, {"momentum": 0.9, "many": True}, {"maximize": True},
]  # fmt: skip
CASES = [(options, MAPS[1], "tensor") for options in OPTIONS] + [
    (OPTIONS[3], m, s) for m in MAPS for s in ("tensor", {"channel": 0})
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("options", "prox_map", "share"), CASES, ids=str)
def test_one_pass_has_the_bits_of_two(options: dict[str, Any], prox_map: ProxMap, share: Any, dtype: torch.dtype) -> None:
    together, apart = (wrapped(kind, prox_map, dtype, share, **options) for kind in (torch.optim.SGD, Plain))
    found, none = steps(together, 7), steps(apart, 7)
    begun = 2 if isinstance(prox_map, Hard) else max(prox_map.schedule.start, 2)  # type: ignore[attr-defined]
    assert found == [2 if step >= begun and step != 5 else 0 for step in range(7)]
    assert none == [0] * 7
    assert all(torch.equal(a, b) for a, b in zip(everything(together), everything(apart), strict=True))


LEFT_TO_TORCH: list[tuple[dict[str, Any], ProxMap]] = [
    ({"foreach": True}, Hard()), ({"fused": True}, Hard()), ({"lr": torch.tensor(0.1)}, Hard()), ({}, BinaryRelax(Linear(0, 9))),
]  # fmt: skip


@pytest.mark.parametrize(("options", "prox_map"), LEFT_TO_TORCH, ids=["foreach", "fused", "tensor lr", "another map"])
def test_two_passes_are_made_where_one_would_not_have_their_bits(options: dict[str, Any], prox_map: ProxMap) -> None:
    assert steps(wrapped(torch.optim.SGD, prox_map, torch.float32, "tensor", **options), 4) == [0] * 4


def test_a_first_step_with_momentum_and_weights_without_gradient_are_left_to_torch() -> None:
    optimizer = wrapped(torch.optim.SGD, Hard(), torch.float32, "tensor", momentum=0.9)
    steps(optimizer, 3)
    first, *others = (weight for weight, _ in optimizer.latents())
    before = first.detach().clone()
    first.grad, others[0].grad = None, torch.ones_like(others[0])
    assert len(list(optimizer._fused(optimizer._drawn[0]))) == 1
    optimizer.step()
    assert torch.equal(first, before)
    optimizer.base.state.clear()
    assert not list(optimizer._fused(optimizer._drawn[0]))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("share", ["tensor", {"channel": 0}], ids=str)
def test_no_bit_depends_on_the_threads(share: Any) -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        optimizer = wrapped(torch.optim.SGD, MAPS[1], torch.float32, share, momentum=0.9)
        assert sum(steps(optimizer, 7)) > 0
        found.append(everything(optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_on_an_emulated_machine_every_operation_is_seen() -> None:
    model = nn.Linear(100, 50, bias=False)
    optimizer = PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(2), period=5)
    with hwsim.emulate(model, "bf16", optimizer=optimizer) as machine:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 100)).sum().backward()
            optimizer.step()
    assert sum(row.count for row in machine.audit() if row.phase == "optimizer" and "add" in row.op) >= 3
