"""Scales that a run keeps: histories of delayed scaling, scales that train, the loss's scale, the signs of a rotation."""

from typing import Any

import pytest
import torch
from recipe_cases import Net, fresh, numbers, train
from torch import Tensor, nn
from torch.nn import functional as F

import hwsim
from hwsim.casting import apply
from hwsim.emulator import emulate
from hwsim.errors import ConfigError
from hwsim.formats import Draw
from hwsim.formats.philox import word
from hwsim.hadamard import rotate, signs
from hwsim.training.dorefa import dorefa_activation, dorefa_weight
from hwsim.training.lsq import LSQ
from hwsim.training.pact import PACT


def delayed(window: int, margin: int = 0) -> dict[str, Any]:
    return {"format": "fp8_e4m3fn", "scaling": {"rule": "delayed", "window": window, "margin": margin}}


@pytest.mark.parametrize("margin", [0, 2])
def test_a_delayed_scale_comes_from_the_largest_magnitudes_of_the_steps_before(margin: int) -> None:
    layer = nn.Linear(4, 3, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    amaxes = [[3.0, 5.0], [0.5], [7.0], [0.0], [0.0], [0.0]]
    xs = [[torch.tensor([[amax, -amax / 3, amax / 7, 0.0]]) for amax in step] for step in amaxes]
    with emulate(layer, {"gemm": {"output": {"input": delayed(2, margin)}}}, optimizer=optimizer) as machine:
        ys = []
        for step in xs:
            ys.append([layer(x).detach() for x in step])
            optimizer.step()
        (state,) = machine.state_dict()["scales"].values()
    expected, weight = 1.0, layer.weight.detach().T
    for i, step in enumerate(xs):
        for x, y in zip(step, ys[i], strict=True):
            assert torch.equal(y, hwsim.quantize(x, "fp8_e4m3fn", scaling={"rule": "fixed", "value": expected}) @ weight)
        largest = max(max(step) for step in amaxes[max(i - 1, 0) : i + 1])
        expected = float(torch.tensor(largest / 448 * 2**margin)) if largest else expected
    assert state["scale"] == expected


def test_evaluation_takes_the_delayed_scale_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with emulate(model, {"gemm": {"output": {"input": delayed(4)}}}) as machine:
        model(torch.ones(2, 4))
        before = machine.state_dict()["scales"]["0/output/input"]["history"]
        with torch.no_grad():
            model.eval()(100 * torch.ones(2, 4))
        assert torch.equal(machine.state_dict()["scales"]["0/output/input"]["history"], before)


@pytest.mark.parametrize("recipe", ["fp8_delayed", "w4a4_lsq", "w4a4_pact", "nvfp4", "fp16", "adam8bit"])
def test_a_run_resumed_from_its_state_is_the_uninterrupted_one(recipe: str) -> None:
    x = numbers(4, 2, 8, 8)

    def run(parts: list[int]) -> list[float]:
        model, losses, state, optimizer_state = fresh(Net), [], None, None
        for steps in parts:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            with emulate(model, recipe, optimizer=optimizer, seed=2) as machine:
                if state is not None:
                    machine.load_state_dict(state)
                    optimizer.load_state_dict(optimizer_state)
                losses += train(model, x, machine, optimizer, steps)
                state, optimizer_state = machine.state_dict(), optimizer.state_dict()
        return losses

    assert run([2, 1]) == run([3])


def test_a_state_of_another_seed_is_refused() -> None:
    with emulate(nn.Linear(2, 2), "nvfp4", seed=1) as machine:
        state = machine.state_dict()
        with pytest.raises(ConfigError, match="got the state of seed 7; allowed: seed 1"):
            machine.load_state_dict(state | {"seed": 7})


class Twin(nn.Module):
    """A layer whose operands go through quantizers of hwsim.training, by autograd."""

    def __init__(self, layer: nn.Module, of_input: Any, of_weight: Any) -> None:
        super().__init__()
        self.layer, self.of_input, self.of_weight = layer, of_input, of_weight

    def forward(self, x: Tensor) -> Tensor:
        a, w = self.of_input(x), self.of_weight(self.layer.weight)
        if isinstance(self.layer, nn.Conv2d):
            return F.conv2d(a, w, None, self.layer.stride, self.layer.padding, self.layer.dilation, self.layer.groups)
        return F.linear(a, w)


def lsq_machine(format: str = "int4") -> dict[str, Any]:
    cast = {"format": format, "scaling": "learned", "requantize": False}
    return {"gemm": {"all": {"input": cast, "weight": cast}}}


LAYERS = {
    "linear": (lambda: nn.Linear(12, 5, bias=False), lambda: numbers(9, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), lambda: numbers(3, 4, 7, 7)),
}


def both(make: Any, x: Tensor, machine: dict[str, Any], of_input: Any, of_weight: Any) -> tuple[Any, Any, Any]:
    """Output, gradients of input, weight and scales: on the machine, and by autograd."""
    layer, twin = fresh(make), None
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with emulate(nn.Sequential(layer), machine) as running:
        y = layer(a)
        grad = numbers(*y.shape, seed=5)
        y.backward(grad)
        scales = running.learned_scales()
    twin = Twin(fresh(make), of_input(b), of_weight(layer.weight))
    z = twin(b)
    z.backward(grad)
    return (y, a.grad, layer.weight.grad, scales), (z, b.grad, twin.layer.weight.grad, twin), layer


@pytest.mark.parametrize("kind", LAYERS)
def test_a_learned_step_is_that_of_lsq(kind: str) -> None:
    make, x = LAYERS[kind][0], LAYERS[kind][1]()
    (y, grad_x, grad_w, scales), (z, grad_b, grad_v, twin), _ = both(
        make, x, lsq_machine(), lambda x: LSQ(x, 4), lambda w: LSQ(w, 4)
    )
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(grad_x, grad_b)
    torch.testing.assert_close(grad_w, grad_v)
    for port, module in (("0/output/input", twin.of_input), ("0/output/weight", twin.of_weight)):
        torch.testing.assert_close(scales[port].detach(), module.step.detach())
        torch.testing.assert_close(scales[port].grad, module.step.grad, rtol=1e-4, atol=1e-6)


def test_a_learned_step_a_channel_is_that_of_lsq_on_each_channel() -> None:
    cast = {"format": "int4", "scaling": {"rule": "learned", "granularity": {"channel": 0}}, "requantize": False}
    layer, x = fresh(LAYERS["linear"][0]), numbers(9, 12)
    with emulate(nn.Sequential(layer), {"gemm": {"all": {"weight": cast}}}) as machine:
        y = layer(x)
        y.backward(numbers(9, 5, seed=5))
        (scale,) = machine.learned_scales().values()
    modules = [LSQ(row, 4) for row in layer.weight.detach()]
    w = layer.weight.detach().clone().requires_grad_()
    F.linear(x, torch.stack([m(row) for m, row in zip(modules, w, strict=True)])).backward(numbers(9, 5, seed=5))
    torch.testing.assert_close(scale.grad, torch.stack([m.step.grad for m in modules]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.weight.grad, w.grad)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_learned_clipping_is_that_of_pact(kind: str) -> None:
    make, x = LAYERS[kind][0], LAYERS[kind][1]()
    pact = {"format": "uint4", "scaling": {"rule": "pact", "value": 1.5}, "requantize": False}
    (y, grad_x, grad_w, scales), (z, grad_b, grad_v, twin), _ = both(
        make, x, {"gemm": {"all": {"input": pact}}}, lambda x: PACT(4, 1.5), lambda w: nn.Identity()
    )
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(grad_x, grad_b)
    torch.testing.assert_close(grad_w, grad_v)
    torch.testing.assert_close(scales["0/output/input"].grad, twin.of_input.alpha.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_dorefa_weights_and_activations_and_their_gradients(kind: str) -> None:
    make, x = LAYERS[kind][0], LAYERS[kind][1]()
    machine = hwsim.datapath("w4a4_dorefa").gemm.output
    paths = {"input": machine.input, "weight": machine.weight}
    (y, grad_x, grad_w, _), (z, grad_b, grad_v, _), _ = both(
        make, x, {"gemm": {"all": paths}}, lambda x: lambda v: dorefa_activation(v, 4), lambda w: lambda v: dorefa_weight(v, 4)
    )
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(grad_x, grad_b)
    torch.testing.assert_close(grad_w, grad_v)


def test_scales_that_train_are_parameters_of_the_block_s_optimizer() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    with emulate(model, lsq_machine(), optimizer=optimizer) as machine:
        model(numbers(5, 6).requires_grad_()).square().sum().backward()
        scales = machine.learned_scales()
        before = {port: scale.detach().clone() for port, scale in scales.items()}
        optimizer.step()
        assert sorted(scales) == ["0/output/input", "0/output/weight"]
        for port, scale in scales.items():
            torch.testing.assert_close(scale.detach(), before[port] - 0.1 * scale.grad)
        assert len(optimizer.param_groups) == 3
        assert {row.role for row in machine.audit() if row.site.endswith("/scale")} == {"scale"}
    assert len(optimizer.param_groups) == 1


def loss_scaled(**scaling: Any) -> dict[str, Any]:
    return {"loss_scaling": {"initial": 8.0, "interval": 2, **scaling}}


def test_a_step_whose_gradients_are_not_finite_changes_nothing_and_halves_the_scale() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, loss_scaled(), optimizer=optimizer) as machine:
        factors = []
        for value in (1.0, 1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            before = model.weight.detach().clone()
            loss = machine.scale(model(torch.full((1, 2), 0.5)).sum() * value)
            loss.backward()
            optimizer.step()
            moved = -0.1 * 0.5 if value == 1.0 else 0.0
            torch.testing.assert_close(model.weight.detach(), before + moved)
            factors.append(machine.state_dict()["loss_scaling"]["factor"])
    assert factors == [8.0, 16.0, 8.0, 8.0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_every_one_of_several_optimizers_divides_its_own_gradients_once(order: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.125) for layer in model]
    with emulate(model, loss_scaled(interval=1), optimizer=optimizers[0]) as machine:
        for _ in range(2):
            with torch.no_grad():
                model[0].weight.fill_(0.5)
                model[1].weight.fill_(2.0)
            machine.scale(model(torch.ones(1, 2)).sum()).backward()
            for i in order:
                optimizers[i].step()
                optimizers[i].zero_grad()
            assert model[0].weight.tolist() == [[0.25, 0.25]]
            assert model[1].weight.tolist() == [[1.875]]
        assert machine.state_dict()["loss_scaling"]["factor"] == 32.0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_infinity_in_one_optimizer_s_gradients_stops_that_one_and_halves_the_scale(order: tuple[int, int]) -> None:
    model = nn.ModuleList([nn.Linear(2, 1, bias=False) for _ in range(2)])
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    before = [layer.weight.detach().clone() for layer in model]
    with emulate(model, loss_scaled(), optimizer=optimizers[0]) as machine:
        machine.scale(model[0](torch.ones(1, 2)).sum() + model[1](torch.ones(1, 2)).sum() * float("inf")).backward()
        for i in order:
            optimizers[i].step()
        assert machine.state_dict()["loss_scaling"] == {"factor": 4.0, "finite_steps": 0}
    torch.testing.assert_close(model[0].weight.detach(), before[0] - 0.1)
    assert torch.equal(model[1].weight, before[1])


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("recipe", ["fp16", "fp32"])
def test_gradients_are_clipped_as_they_are_without_the_loss_s_scale(recipe: str, set_to_none: bool) -> None:
    model, x = fresh(lambda: nn.Linear(4, 2, bias=False)), numbers(8, 4)
    expected = fresh(lambda: nn.Linear(4, 2, bias=False))
    optimizers = [torch.optim.SGD(m.parameters(), lr=10.0) for m in (model, expected)]
    with emulate(model, recipe, optimizer=optimizers[0]) as machine:
        for _ in range(2):
            optimizers[0].zero_grad(set_to_none)
            machine.scale(model(x).square().mean().mul(0.01)).backward()
            machine.unscale(optimizers[0])
            machine.unscale(optimizers[0])
            nn.utils.clip_grad_norm_(model.parameters(), 0.005)
            optimizers[0].step()
    for _ in range(2):
        optimizers[1].zero_grad()
        expected(x).square().mean().mul(0.01).backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.005)
        optimizers[1].step()
    torch.testing.assert_close(model.weight, expected.weight, rtol=2e-3, atol=1e-4)


def test_gradients_that_were_unscaled_and_are_not_finite_are_dropped_by_the_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with emulate(model, loss_scaled(), optimizer=optimizer) as machine:
        machine.scale(model(torch.ones(1, 2)).sum() * float("inf")).backward()
        machine.unscale(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert machine.state_dict()["loss_scaling"]["factor"] == 4.0
    assert torch.equal(model.weight, before)


def test_a_second_step_on_one_scaled_loss_is_refused() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, loss_scaled(), optimizer=optimizer) as machine:
        machine.scale(model(torch.ones(1, 2)).sum()).backward()
        optimizer.step()
        with pytest.raises(ConfigError, match="loss_scaling: the loss was not scaled"):
            optimizer.step()


def test_a_scaled_gradient_beyond_fp16_halves_the_scale_and_changes_nothing() -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with emulate(model, "fp16", optimizer=optimizer) as machine:
        machine.scale((3 * model(torch.full((8, 4), 0.125))).sum()).backward()
        optimizer.step()
        assert machine.state_dict()["loss_scaling"]["factor"] == 32768
    assert torch.equal(model.weight, before)


def test_an_activation_beyond_fp16_is_infinite_as_half_makes_it() -> None:
    model, x = nn.Linear(2, 1, bias=False), torch.tensor([[1e5, 0.0]])
    with torch.no_grad(), emulate(model, "fp16"):
        model.weight.fill_(1.0)
        assert model(x).item() == x.half()[0, 0].item() == float("inf")


def test_a_loss_that_was_not_scaled_is_refused() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, loss_scaled(), optimizer=optimizer):
        model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(ConfigError, match=r"loss_scaling: the loss was not scaled; allowed: machine\.scale\(loss\)"):
            optimizer.step()


def test_a_rotation_is_orthogonal_and_its_signs_are_philox_bits() -> None:
    draw = Draw(11, "x/grad_weight/hadamard")
    sign = signs(16, draw)
    assert sign.tolist() == [-1.0 if word(i, draw) >> 31 else 1.0 for i in range(16)]
    identity = rotate(torch.eye(16), sign, 1)
    sylvester = torch.ones(1, 1)
    for _ in range(4):
        sylvester = torch.cat([torch.cat([sylvester, sylvester], 1), torch.cat([sylvester, -sylvester], 1)])
    assert torch.equal(identity, sign[:, None] * sylvester / 4)
    a, b = numbers(5, 40), numbers(40, 3, seed=1)
    torch.testing.assert_close(rotate(a, sign, 1) @ rotate(b, sign, 0), a @ b, rtol=1e-4, atol=1e-4)


HALVES = {
    "linear": (lambda: nn.Linear(40, 6), lambda: numbers(9, 40)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), lambda: numbers(3, 4, 7, 7)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", HALVES)
def test_a_rotation_alone_leaves_a_model_of_half_precision_what_it_is(kind: str, dtype: torch.dtype) -> None:
    layer, x = fresh(HALVES[kind][0]).to(dtype), HALVES[kind][1]().to(dtype)
    turned = {"format": "fp32", "transform": "hadamard_16"}
    results = []
    for machine in ({}, {"gemm": {"all": dict.fromkeys(("input", "weight", "grad_output"), turned)}}):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        with emulate(layer, machine):
            y = layer(leaf)
            y.backward(numbers(*y.shape, seed=2).to(dtype))
        results.append([y.detach(), leaf.grad, layer.weight.grad])
    for plain, rotated in zip(*results, strict=True):
        torch.testing.assert_close(
            rotated, plain, rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps * float(plain.abs().max())
        )


def test_a_copy_of_the_first_gemm_is_transposed_where_requantization_is_declined() -> None:
    grouped = {"format": "int4", "scaling": {"rule": "absmax", "granularity": {"group": 4}}, "requantize": False}
    layer, x, grad = nn.Linear(8, 8, bias=False), numbers(8, 8), numbers(8, 8, seed=2)
    machine = hwsim.datapath({"gemm": {"all": dict.fromkeys(("input", "weight", "grad_output"), grouped)}})
    leaf = x.clone().requires_grad_()
    with emulate(layer, machine):
        layer(leaf).backward(grad)
    cast = machine.gemm.output.input
    a, w, g = apply(cast, x, axis=1), apply(cast, layer.weight.detach(), axis=1), apply(cast, grad, axis=1)
    assert torch.equal(leaf.grad, g @ w)
    assert torch.equal(layer.weight.grad, g.T @ a)
