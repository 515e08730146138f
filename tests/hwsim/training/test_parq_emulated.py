"""PARQ on an emulated machine: every operation is accounted for, and weights still end on the levels."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import hwsim
from hwsim.datapaths import Datapath, LossScaling
from hwsim.errors import ConfigError
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


class TestLossScaling:
    """The loss's scale lifts gradients into fp16's range; the latent weights' step divides them, or is left out."""

    @staticmethod
    def trained(name: str, scaling: LossScaling | None, steps: int, clip: float | None = None) -> tuple[PARQ, float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        weights, others = split_parameters(model)
        base = torch.optim.AdamW([{"params": weights}, {"params": others}], lr=0.02)
        optimizer = PARQ(base, [LSBQ(2), None], Parq(Sigmoid(0, 6)), period=2, anneal_weight_decay=0.5)
        machine = hwsim.datapath(name).model_copy(update={"loss_scaling": scaling})
        assert isinstance(machine, Datapath)
        with hwsim.emulate(model, machine, optimizer=optimizer) as running:
            for _ in range(steps):
                optimizer.zero_grad()
                running.scale(cross_entropy(model(X), Y)).backward()
                if clip is not None:
                    running.unscale(optimizer)
                    clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
        return optimizer, running.state_dict()["loss_scaling"]["factor"]

    @staticmethod
    def everything(optimizer: PARQ) -> list[torch.Tensor]:
        moments = [t for state in optimizer.base.state.values() for t in state.values()]
        levels = [optimizer.levels_of(w)[0] for w, _ in optimizer.latents()]
        others = optimizer.param_groups[1]["params"]
        return [*others, *(t for pair in optimizer.latents() for t in pair), *levels, *moments]

    @pytest.mark.parametrize("clip", [None, 0.05], ids=["as it is", "clipped"])
    @pytest.mark.parametrize(
        ("name", "small", "large"), [("bf16", None, 2.0**16), ("fp16", 2.0**8, 2.0**11)], ids=["bf16", "fp16"]
    )
    def test_by_a_power_of_two_changes_no_bit_of_a_run(
        self, name: str, small: float | None, large: float, clip: float | None
    ) -> None:
        scalings = [None if factor is None else LossScaling(initial=factor) for factor in (small, large)]
        (plain, _), (scaled, _) = (self.trained(name, scaling, 5, clip) for scaling in scalings)
        assert plain.steps_done == scaled.steps_done == 5
        assert all(torch.equal(a, b) for a, b in zip(self.everything(plain), self.everything(scaled), strict=True))

    def test_leaves_out_a_step_with_infinite_gradients_and_its_place_in_the_schedules(self) -> None:
        """One step of an impossible scale, which then falls to one that a run without that step begins with."""
        failed, factor = self.trained("fp16", LossScaling(initial=2.0**40, backoff=2.0**-30), 6)
        assert factor == 2.0**10
        assert failed.steps_done == 5
        expected, _ = self.trained("fp16", LossScaling(initial=2.0**10), 5)
        assert all(torch.equal(a, b) for a, b in zip(self.everything(expected), self.everything(failed), strict=True))
        assert failed.param_groups[0]["weight_decay"] == expected.param_groups[0]["weight_decay"]

    def test_leaves_weights_that_were_not_drawn_yet_as_they_were(self) -> None:
        failed, _ = self.trained("fp16", LossScaling(initial=2.0**40), 1)
        torch.manual_seed(0)
        fresh = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
        assert failed.steps_done == 0
        for layer, (w, u) in zip((fresh[0], fresh[2]), failed.latents(), strict=True):
            assert torch.equal(w, layer.weight)
            assert torch.equal(u, layer.weight)

    def test_refuses_to_divide_gradients_again_that_were_stepped_on(self) -> None:
        model = nn.Linear(4, 2)
        optimizer = PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(1))
        machine = hwsim.datapath("fp16")
        with hwsim.emulate(model, machine, optimizer=optimizer) as running:
            running.scale(model(torch.ones(1, 4)).sum()).backward()
            optimizer.step()
            with pytest.raises(ConfigError, match="loss_scaling: the loss was not scaled"):
                running.unscale(optimizer)
