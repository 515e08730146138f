"""PARQ on an emulated machine: every operation is accounted for, and weights still end on the levels."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import hwsim
from hwsim.training import (
    LSBQ,
    PARQ,
    FormatLevels,
    Hard,
    Parq,
    ProxMap,
    Sigmoid,
    check_deployment,
    split_parameters,
    to_hardware,
)

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (32,), generator=torch.Generator().manual_seed(2))


def trained(datapath: str | dict[str, object] | None, prox_map: ProxMap, quantizer: object) -> tuple[nn.Module, PARQ, object]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    weights, others = split_parameters(model)
    base = torch.optim.SGD([{"params": weights}, {"params": others}], lr=0.1, momentum=0.9)
    optimizer = PARQ(base, [quantizer, None], prox_map, period=2)  # type: ignore[list-item]

    def steps() -> None:
        for _ in range(8):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            optimizer.step()

    if datapath is None:
        steps()
        return model, optimizer, None
    with hwsim.emulate(model, datapath, optimizer=optimizer) as machine:
        steps()
    return model, optimizer, machine


@pytest.mark.parametrize("prox_map", [Hard(), Parq(Sigmoid(0, 6))], ids=["hard", "parq"])
def test_a_machine_that_rounds_nowhere_changes_no_bit(prox_map: ProxMap) -> None:
    plain, _, _ = trained(None, prox_map, LSBQ(2))
    emulated, _, _ = trained("fp32", prox_map, LSBQ(2))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), emulated.parameters(), strict=True))


def test_forward_backward_and_latent_update_run_on_the_declared_datapath() -> None:
    _, optimizer, machine = trained("bf16", Parq(Sigmoid(0, 6)), LSBQ(2))
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}  # type: ignore[attr-defined]
    assert {"forward", "backward", "optimizer"} <= {row.phase for row in machine.audit()}  # type: ignore[attr-defined]
    for weight, _ in optimizer.latents():
        assert bool(torch.isin(weight, optimizer.levels_of(weight)[0]).all())


def test_the_update_of_the_latent_weights_is_rounded_as_the_datapath_says() -> None:
    _, optimizer, _ = trained({"optimizer": {"momentum": "bf16"}}, Hard(), LSBQ(2))
    states = [optimizer.base.state[latent]["momentum_buffer"] for _, latent in optimizer.latents()]
    assert all(torch.equal(state, state.bfloat16().float()) for state in states)
    _, plain, _ = trained(None, Hard(), LSBQ(2))
    assert any(not torch.equal(a, b) for (_, a), (_, b) in zip(optimizer.latents(), plain.latents(), strict=True))


def test_weights_trained_on_an_integer_datapath_deploy_with_the_same_logits() -> None:
    int4 = hwsim.format("int4")
    model, _, _ = trained("bf16", Hard(), FormatLevels(int4, "power_of_two"))
    for layer in (model[0], model[2]):  # type: ignore[index]
        nn.init.zeros_(layer.bias)
    assert check_deployment(model, to_hardware(model, int4), X).exact
