"""Operands that two GEMMs read are cast once, and no bit and no statistic depends on it."""

import pytest
import torch
from emulator_cases import MODELS, Transformer, input_of, loss_of, model_of, optimizer_of, same, tensors_of, train
from torch import Tensor, nn

from hwsim.emulator import convolution, emulate
from hwsim.emulator.copies import Copies

FP8 = {
    "input": {"format": "fp8_e4m3fn", "scaling": "absmax"},
    "weight": {"format": "fp8_e4m3fn", "scaling": "absmax"},
    "grad_output": {"format": "fp8_e5m2", "scaling": "absmax"},
}
OTHER_COPY = {"gemm": {"all": FP8, "grad_input": {"weight": {"format": "int8", "scaling": "absmax"}}}}
OTHER_GRADIENT = {"gemm": {"all": FP8, "grad_weight": {"grad_output": "bf16"}}}
MACHINES = {"one cast": {"gemm": {"all": FP8}}, "two of the weight": OTHER_COPY, "two of the gradient": OTHER_GRADIENT}


CASES = [
    *((name, "one cast") for name in MODELS),
    *(("residual", name) for name in MACHINES),
    *(("mlp", name) for name in MACHINES),
]


def _without_copies(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Copies, "of", lambda self, port, x, role, again, make: make())
    patched.setattr(convolution, "_is_same", lambda to_input, to_weight: False)


@pytest.mark.parametrize(("name", "machine"), sorted(set(CASES)))
def test_training_with_copies_is_training_without(name: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, counted = [], []
    for copies, statistics in ((True, False), (True, True), (False, True)):
        model = model_of(name)
        optimizer = optimizer_of("sgd_momentum", model)
        with monkeypatch.context() as patched, emulate(model, MACHINES[machine], optimizer, statistics=statistics) as emulated:
            if not copies:
                _without_copies(patched)
            train(model, input_of(name), optimizer)
        found.append(tensors_of(model, optimizer))
        counted.append(emulated.statistics())
    assert same(found[0], found[1]) == same(found[0], found[2]) == []
    assert counted[1] == counted[2] != counted[0] == []


def _halved(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.mul_(0.5)


def _replaced(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data * 3


def _evaluated(model: nn.Module) -> None:
    with torch.inference_mode():
        model(input_of("transformer"))


class Tied(nn.Module):
    """Two layers of one weight, and one that is given no rows in every second call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.seldom = (nn.Linear(8, 8) for _ in range(3))
        self.b.weight = self.a.weight
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.b(torch.relu(self.a(x))).sum() + self.seldom(x[: self.calls % 2 * 4]).sum()


def test_shared_weights_and_layers_without_rows_are_counted_as_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    for copies in (True, False):
        with monkeypatch.context() as patched, emulate(model := Tied(), MACHINES["one cast"], statistics=True) as emulated:
            if not copies:
                _without_copies(patched)
            for _ in range(3):
                model(torch.ones(4, 8)).backward()
        counted.append(emulated.statistics())
    assert counted[0] == counted[1]


@pytest.mark.parametrize("between", [_halved, _replaced, _evaluated])
def test_a_weight_that_is_written_between_the_passes_is_cast_again(between, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for copies in (True, False):
        model = model_of("transformer")
        with monkeypatch.context() as patched, emulate(model, MACHINES["one cast"]):
            if not copies:
                _without_copies(patched)
            loss = loss_of(model(input_of("transformer")))
            between(model)
            loss.backward()
        found.append(tensors_of(model))
    assert same(*found) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_accumulated_and_checkpointed_gradients(reentrant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Transformer(checkpointing=reentrant)
        with emulate(model, MACHINES["one cast"]):
            losses = [loss_of(model(input_of("transformer"))) for _ in range(2)]
            for loss in losses:
                loss.backward(retain_graph=not reentrant)
        return tensors_of(model)

    kept = gradients()
    _without_copies(monkeypatch)
    assert same(kept, gradients()) == []


def test_a_weight_s_copy_serves_its_second_gemm_and_is_let_go() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with emulate(model, MACHINES["one cast"]) as machine:
        copies = machine._engine.copies
        y = model(torch.randn(4, 8))
        kept = [copy.values for copy in copies._weights.values()]
        assert len(kept) == 1, "the first layer has no input gradient"
        y.sum().backward()
        assert not copies._weights
