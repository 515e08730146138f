"""A machine that declares nothing computes what torch computes, bit for bit."""

from contextlib import nullcontext

import pytest
import torch
import torchvision
from emulator_cases import MODELS, OPTIMIZERS, input_of, model_of, optimizer_of, same, tensors_of, train, unfused

from hwsim.emulator import emulate


def plain(model_name: str, optimizer_name: str):
    model = model_of(model_name)
    optimizer = optimizer_of(optimizer_name, model)
    with unfused(recurrent=model_name in ("lstm", "gru")):
        losses = train(model, input_of(model_name), optimizer)
    return losses, tensors_of(model, optimizer)


def emulated(model_name: str, optimizer_name: str, datapath="fp32", **options):
    model = model_of(model_name)
    optimizer = optimizer_of(optimizer_name, model)
    with emulate(model, datapath, optimizer=optimizer, **options) as machine:
        losses = train(model, input_of(model_name), optimizer)
    return losses, tensors_of(model, optimizer), machine


@pytest.mark.parametrize("model_name", MODELS)
def test_every_network_trains_to_the_same_bits(model_name: str) -> None:
    losses, tensors, machine = emulated(model_name, "sgd_momentum")
    expected_losses, expected = plain(model_name, "sgd_momentum")
    assert losses == expected_losses
    assert same(tensors, expected) == []
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_every_optimizer_steps_to_the_same_bits(optimizer_name: str) -> None:
    losses, tensors, _ = emulated("mlp", optimizer_name)
    expected_losses, expected = plain("mlp", optimizer_name)
    assert losses == expected_losses
    assert same(tensors, expected) == []


def test_fp32_casts_that_are_declared_change_nothing_either() -> None:
    everywhere = {
        "gemm": "fp32",
        "vector": "fp32",
        "optimizer": dict.fromkeys(("gradient", "momentum", "variance", "state", "update", "weight"), "fp32"),
    }
    losses, tensors, machine = emulated("residual", "adam", everywhere)
    expected_losses, expected = plain("residual", "adam")
    assert losses == expected_losses
    assert same(tensors, expected) == []
    assert {row.role for row in machine.unemulated()} <= {"counter", "random", "steps"}


@pytest.mark.parametrize("model_name", ["digits_cnn", "transformer"])
def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(model_name: str) -> None:
    results = [emulated(model_name, "adam", "int4_stochastic", seed=seed)[1] for seed in (3, 3, 4)]
    assert same(results[0], results[1]) == []
    assert same(results[0], results[2]) != []


def test_evaluation_between_steps_does_not_change_training() -> None:
    def run(evaluating: bool) -> dict[str, torch.Tensor]:
        model = model_of("digits_cnn")
        optimizer = optimizer_of("sgd", model)
        with emulate(model, "int4_stochastic", optimizer=optimizer):
            for _ in range(2):
                train(model, input_of("digits_cnn"), optimizer, steps=1)
                if evaluating:
                    model.eval()
                    with torch.no_grad():
                        model(input_of("digits_cnn"))
                    model.train()
        return tensors_of(model)

    assert same(run(True), run(False)) == []


def test_an_unmodified_resnet_trains_to_the_same_bits() -> None:
    def run(machine: str | None) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = torchvision.models.resnet18(num_classes=4)
            x = torch.randn(2, 3, 32, 32)
        optimizer = optimizer_of("sgd_momentum", model)
        with emulate(model, machine, optimizer=optimizer) if machine else nullcontext():
            train(model, x, optimizer)
        return tensors_of(model, optimizer)

    assert same(run("fp32"), run(None)) == []
