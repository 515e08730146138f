"""What is predicted of a budget, and how it agrees with what is measured."""

import math
from typing import Any

import pytest
import scipy.stats
import torch
from budget_cases import LR, Attentive, all_operands, one, rows_of, squared, tokenwise, trained, with_loss
from torch import Tensor, nn

import hwsim
from hwsim.budgets import Budget, spearman
from hwsim.casting import apply
from hwsim.datapaths import datapath


@pytest.mark.parametrize("role", ["input", "weight", "result"])
def test_the_first_order_term_of_a_linear_layer_is_the_derivative_times_the_error(linear: Any, role: str) -> None:
    model, (x, y) = linear
    found = hwsim.budget(model, squared, (x, y), one("output", role), samples=0)
    layer = model.double()
    x = x.double().requires_grad_()
    out = layer(x)
    values = {"input": x, "weight": layer.weight, "result": out}
    (gradient,) = torch.autograd.grad(squared(out, y.double()), values[role])
    cast = datapath(one("output", role)).gemm.output
    error = apply(getattr(cast, role), values[role].detach()) - values[role].detach()
    assert rows_of(found, "output", role)[0].predicted == pytest.approx(float((gradient * error).sum()), rel=1e-6)


def test_the_loss_of_a_linear_model_is_predicted_by_derivative_and_curvature(linear: Any) -> None:
    found = hwsim.budget(*with_loss(linear), one("output", "weight"), samples=400)
    row = rows_of(found, "output", "weight")[0]
    assert row.predicted == pytest.approx(row.measured, rel=0.03)


def test_the_first_order_term_of_a_vector_unit_is_the_derivative_times_the_error_of_its_forward_results() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(16, 6), torch.randn(16, 3)
    machine = datapath({"name": "vector", "vector": "fp8_e4m3fn"})
    found = hwsim.budget(model, squared, (x, y), machine, samples=0)
    hidden = model.double()[1](model[0](x.double())).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(squared(model[2](hidden), y.double()), hidden)
    assert machine.vector is not None
    error = apply(machine.vector, hidden.detach()) - hidden.detach()
    predicted = {row.site: row.predicted for row in found.places}
    assert predicted["1"] == pytest.approx(float((gradient * error).sum()), rel=1e-6)
    assert predicted["0"] == predicted["2"] == 0  # sums of gradients, for the biases


@pytest.mark.parametrize("name", ["digits_cnn", "char_gpt"])
def test_what_the_vector_unit_changes_is_predicted(name: str) -> None:
    model, made, batch = trained(name)
    found = hwsim.budget(model, made.loss, batch, {"name": "vector", "vector": "bf16"}, causes=False, groups=False)
    assert not any(math.isnan(row.predicted) for row in found.places)
    assert found.rank_correlation >= 0.95
    assert found.part("all").predicted == pytest.approx(found.part("all").measured, rel=0.25)


STEPS = {"exp": "fp8_e5m2", "variance": "fp8_e5m2", "rsqrt": "fp8_e5m2"}
STEPPED = {"format": "fp32", "steps": STEPS}
DRAWN = {"format": "bf16", "rounding": "stochastic", "steps": {"log": "bf16"}}


@pytest.mark.parametrize(("name", "unit"), [("char_gpt", STEPPED), ("digits_cnn", DRAWN)], ids=["steps", "random words"])
def test_what_the_steps_inside_the_vector_unit_and_its_random_words_change_is_predicted(name: str, unit: Any) -> None:
    model, made, batch = trained(name)
    found = hwsim.budget(model, made.loss, batch, {"name": "vector", "vector": unit}, causes=False, groups=False)
    assert found.rank_correlation >= 0.95
    told = [row for row in found.places if abs(row.measured) >= 1e-6]
    assert len(told) >= 3
    for row in told:
        assert row.predicted == pytest.approx(row.measured, rel=0.15)


def test_what_the_optimizer_unit_changes_is_predicted() -> None:
    model, made, batch = trained("digits_cnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    unit = dict.fromkeys(("accumulate", "gradient", "momentum", "variance", "update", "weight"), "bf16")
    machine = {"name": "unit", "optimizer": unit}
    found = hwsim.budget(model, made.loss, batch, machine, optimizer=optimizer, causes=False, groups=False)
    assert {row.role for row in found.places} == set(unit)
    assert found.rank_correlation_after_step >= 0.95
    for row in found.places:
        if row.role != "weight":
            assert row.predicted == pytest.approx(row.measured, rel=0.02)


@pytest.mark.parametrize(("gemm", "role"), [("grad_weight", "grad_output"), ("grad_weight", "input"), ("grad_weight", "result")])
def test_backward_casts_are_judged_by_the_loss_after_the_step(linear: Any, gemm: str, role: str) -> None:
    model, batch = linear
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    row = rows_of(hwsim.budget(model, squared, batch, one(gemm, role), optimizer=optimizer), gemm, role)[0]
    assert row.measured != 0
    assert row.predicted == pytest.approx(row.measured, rel=1e-2)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_the_update_of_any_elementwise_optimizer_is_differentiated(make: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    batch = (torch.randn(16, 6), torch.randn(16, 3))
    optimizer = make(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        squared(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    machine = {"name": "backward", "gemm": {gemm: {"grad_output": "bf16"} for gemm in ("grad_input", "grad_weight")}}
    found = hwsim.budget(model, squared, batch, machine, optimizer=optimizer)
    assert len(found.places) == 3
    for row in found.places:
        assert row.predicted == pytest.approx(row.measured, rel=0.1)


@pytest.mark.parametrize("a", [[1.0, 2.0, 3.0, 4.0], [3.0, 1.0, 1.0, 2.0]])
def test_the_rank_correlation_is_spearmans(a: list[float]) -> None:
    b = [0.5, 0.1, 0.1, 0.9]
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


def agreement(found: list[Budget], forward: bool) -> tuple[float, float, int]:
    """The rank correlation, the share of changes of at least 1e-5 that are predicted within 20 %, and how many those are."""
    rows = [row for budget in found for row in budget.places if (row.gemm == "output") is forward]
    large = [row for row in rows if abs(row.measured) >= 1e-5]
    near = sum(abs(row.predicted - row.measured) <= 0.2 * abs(row.measured) for row in large)
    return spearman([row.measured for row in rows], [row.predicted for row in rows]), near / len(large), len(large)


def budgets_of(name: str, formats: list[str], lr: float = LR, sites: list[str] | None = None) -> list[Budget]:
    model, made, batch = trained(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options: dict[str, Any] = {"optimizer": optimizer, "sites": sites, "samples": 16, "causes": False, "groups": False}
    return [hwsim.budget(model, made.loss, batch, all_operands(fmt), **options) for fmt in formats]


EIGHT_BITS = ["int8", "fp8_e4m3fn", "fp8_e5m2", "mxfp8_e4m3", "mxint8"]


@pytest.mark.parametrize(
    ("name", "lr", "formats", "sites", "counted"),
    [
        ("digits_cnn", LR, ["int8", "mxfp8_e4m3"], None, 10),
        ("char_gpt", 0.3, ["fp8_e5m2"], ["blocks.1.attention.*", "head"], 3),
        pytest.param("digits_cnn", LR, EIGHT_BITS, None, 20, marks=pytest.mark.large),
        pytest.param("char_gpt", 0.3, ["int8", "fp8_e4m3fn", "fp8_e5m2"], None, 35, marks=pytest.mark.large),
    ],
)
def test_eight_bit_casts_are_predicted_in_rank_and_size(
    name: str, lr: float, formats: list[str], sites: list[str] | None, counted: int
) -> None:
    found = budgets_of(name, formats, lr, sites)
    for forward, least in ((True, 0.95), (False, 0.9)):
        rank, near, large = agreement(found, forward)
        assert rank >= least
        assert large >= counted
        assert near >= 0.85


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "narrow", "others"),
    [
        ("digits_cnn", ["int4", "fp4_e2m1", "mxfp4", "nvfp4", "nf4"], [*EIGHT_BITS, "int6", "fp6_e2m3fn", "mxfp6_e2m3", "int3"]),
        ("char_gpt", ["int4", "fp4_e2m1", "mxfp4"], ["int8", "fp8_e4m3fn", "int6", "int3"]),
    ],
    ids=["digits_cnn", "char_gpt"],
)
def test_narrow_casts_are_predicted_in_rank(name: str, narrow: list[str], others: list[str]) -> None:
    budgets = budgets_of(name, narrow)
    everything = budgets + budgets_of(name, others)
    assert agreement(budgets, True)[0] >= 0.9
    assert agreement(budgets, False)[0] >= 0.9
    assert agreement(everything, True)[0] >= 0.85
    assert agreement(everything, False)[0] >= 0.9


def test_the_prediction_casts_the_gradients_of_the_scaled_loss(linear: tuple[nn.Module, tuple[Tensor, Tensor]]) -> None:
    model, batch = linear
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    machine = one("grad_weight", "grad_output", "fp8_e5m2") | {"loss_scaling": {"initial": 256}}
    small = lambda outputs, targets: squared(outputs, targets) / 4096  # noqa: E731
    for declared in (machine, {key: value for key, value in machine.items() if key != "loss_scaling"}):
        row = hwsim.budget(model, small, batch, declared, optimizer=optimizer).places[0]
        assert row.measured != 0
        assert row.predicted == pytest.approx(row.measured, rel=1e-2)


@pytest.mark.parametrize(
    "scaling", [{"rule": "delayed", "window": 4}, {"rule": "learned"}, {"rule": "pact"}], ids=lambda s: s["rule"]
)
def test_a_scale_that_a_run_keeps_is_predicted_as_its_first_step_has_it(linear: Any, scaling: dict[str, Any]) -> None:
    model, (x, y) = linear
    machine = one("output", "input", {"format": "int4", "scaling": scaling})
    for causes in (True, False):
        row = rows_of(hwsim.budget(model, squared, (x.abs(), y), machine, samples=400, causes=causes), "output", "input")[0]
        assert row.measured != 0
        assert row.predicted == pytest.approx(row.measured, rel=0.15)


def test_products_of_two_activations_are_predicted_in_the_casts_that_are_declared_for_them() -> None:
    torch.manual_seed(0)
    ids = torch.arange(12).view(2, 6) % 11
    machine = {"name": "of two", "products": {"gemm": {"output": {"input": {"format": "int6", "scaling": "absmax"}}}}}
    found = hwsim.budget(Attentive(False), tokenwise, (ids, ids), machine, samples=400, causes=False, groups=False)
    assert len(found.places) == 2
    for row in found.places:
        assert ":bmm." in row.site
        assert row.predicted == pytest.approx(row.measured, rel=0.1)


@pytest.mark.parametrize("name", ["fp8_delayed", "w4a4_lsq", "w4a4_pact"])
def test_recipes_whose_scales_are_state_have_a_budget(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    machine = datapath(name).model_copy(update={"first": None, "last": None})
    found = hwsim.budget(model, squared, (torch.randn(8, 5), torch.randn(8, 3)), machine, groups=False)
    assert found.places
    assert all(math.isfinite(row.measured) and math.isfinite(row.predicted) for row in found.places if row.role != "accumulator")


def test_targets_that_the_loss_ignores_have_no_curvature() -> None:
    torch.manual_seed(0)
    model, x, targets = (
        nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)),
        torch.randn(6, 7, 8),
        torch.randint(5, (6, 7)),
    )
    targets[:, 4:] = targets[0] = -100

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.reshape(-1, 5), targets.reshape(-1))

    for row in hwsim.budget(model, loss, (x, targets), one("output", "weight"), samples=200, causes=False, groups=False).places:
        assert row.predicted == pytest.approx(row.measured, rel=0.05)


def test_checkpointing_changes_no_prediction() -> None:
    ids = torch.arange(12).view(2, 6) % 11
    cast = {"format": "fp8_e4m3fn", "scaling": "absmax"}
    machine = {"name": "m", "gemm": {"all": dict.fromkeys(("input", "weight", "grad_output"), cast)}}
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = Attentive(checkpointed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        budget = hwsim.budget(model, tokenwise, (ids, ids), machine, optimizer=optimizer, samples=2, causes=False, groups=False)
        found.append({(row.site, row.gemm, row.role): row.predicted for row in budget.places})
    assert found[1] == pytest.approx(found[0])
