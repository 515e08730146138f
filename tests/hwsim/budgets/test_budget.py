"""The error budget of one step: what is measured, of places alone and together, and how it is told."""

import io
import json
import math
from typing import Any

import pytest
import scipy.stats
import torch
from budget_cases import INT4, Attentive, all_operands, one, squared, tokenwise, trained, with_loss
from rich.console import Console
from torch import Tensor, nn

import hwsim
from hwsim import ConfigError
from hwsim.budgets import Budget
from hwsim.budgets.machines import ROLES, Role
from hwsim.budgets.measured import role_orders
from hwsim.budgets.table import Row
from hwsim.layering import OPERANDS


@pytest.mark.parametrize(
    ("name", "layer", "gemm", "roles"),
    [
        ("digits_cnn", "3", "output", ("weight",)),
        ("digits_cnn", "3", "all", OPERANDS),
        pytest.param("char_gpt", "blocks.0.contract", "all", OPERANDS, marks=pytest.mark.large),
    ],
)
def test_a_planted_bad_layer_is_the_top_row(name: str, layer: str, gemm: str, roles: tuple[str, ...]) -> None:
    model, made, batch = trained(name)
    good, bad = ({"format": fmt, "scaling": "absmax"} for fmt in ("fp8_e4m3fn", "int3"))
    overrides = {layer: {"gemm": {gemm: dict.fromkeys(roles, bad)}}}
    machine = {"name": "planted", "gemm": {"all": dict.fromkeys(OPERANDS, good)}, "overrides": overrides}
    top = hwsim.budget(model, made.loss, batch, machine, causes=False, predict=False, groups=False).rows[0]
    assert (top.site, top.cause, top.cast) == (layer, "all", "int3 absmax per tensor")
    assert top.role in roles


def test_totals_are_all_each_role_gemm_and_layer_all_but_each_and_the_interaction() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (torch.randn(16, 8), torch.randint(4, (16,)))
    found = hwsim.budget(model, nn.functional.cross_entropy, batch, all_operands("int4"), causes=False)
    alone = sum(row.measured for row in found.places if row.gemm == "output")
    assert found.part("interaction").measured == pytest.approx(found.part("all").measured - alone)
    kinds = {"only weight", "all but weight", "only grad_output", "only GEMM output", "all but layer 2", "all, after the step"}
    assert {row.part for row in found.totals} >= kinds
    assert found.part("only GEMM output").measured == pytest.approx(found.part("all").measured)
    assert math.isfinite(found.part("all").predicted)
    assert 0.5 < found.part("all").cosine < 1
    assert found.part("all").sqnr < found.part("only weight").sqnr
    few = hwsim.budget(model, nn.functional.cross_entropy, batch, all_operands("int4"), causes=False, groups=False)
    parts = ["all", "all, after the step", "interaction", "interaction, after the step"]
    assert [row.part for row in few.totals] == parts


def test_what_acts_in_the_backward_pass_only_is_judged_by_the_loss_after_the_step() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (torch.randn(16, 8), torch.randint(4, (16,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = hwsim.budget(
        model, nn.functional.cross_entropy, batch, all_operands("int4"), optimizer=optimizer, causes=False, predict=False
    )
    whole = found.part("all, after the step")
    assert whole.measured == found.part("all").step_loss
    assert found.part("interaction, after the step").measured == pytest.approx(
        whole.measured - sum(row.step_loss for row in found.places)
    )
    for group in ("grad_output", "GEMM grad_input", "GEMM grad_weight"):
        only, rest = found.part(f"only {group}"), found.part(f"all but {group}")
        assert only.judged_by == rest.judged_by == "step_loss"
        assert only.measured != 0
        assert rest.measured not in (whole.measured, found.part("all").measured)
    assert found.part("all but weight").judged_by == found.part("all but GEMM output").judged_by.removeprefix("step_") == "loss"


def test_a_site_of_a_layer_that_has_several_has_totals_of_its_own() -> None:
    torch.manual_seed(0)
    ids = torch.arange(12).view(2, 6) % 11
    machine = {"name": "m", "gemm": {"output": {"input": INT4, "weight": INT4}}}
    found = hwsim.budget(Attentive(False), tokenwise, (ids, ids), machine, causes=False, predict=False)
    sites = dict.fromkeys(row.site for row in found.places)
    assert {row.part for row in found.totals if " site " in row.part} == {
        f"{what} site {site}" for what in ("only", "all but") for site in sites if site not in ("qkv", "head")
    }
    product = next(row for row in found.places if row.site not in ("qkv", "head"))
    ports = [place for place in found.places if place.site == product.site]
    assert len(ports) == 1
    assert found.part(f"only site {product.site}").measured == pytest.approx(product.measured)
    assert found.part(f"all but site {product.site}").measured == pytest.approx(product.all_but)


def test_forward_casts_change_gradients_weights_and_accuracy_too() -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(5, 3), (torch.randn(40, 5), torch.randint(3, (40,)))
    y[0] = -100
    found = hwsim.budget(
        model, nn.functional.cross_entropy, (x, y), one("output", "weight", {"format": "int2", "scaling": "absmax"})
    )
    gradients, accuracies = [], []
    for machine in (one("output", "weight", {"format": "int2", "scaling": "absmax"}), {"name": "wide"}):
        copy = nn.Linear(5, 3)
        copy.load_state_dict(model.state_dict())
        copy.double()
        with hwsim.emulate(copy, machine):
            outputs = copy(x.double())
            nn.functional.cross_entropy(outputs, y).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in copy.parameters() if p.grad is not None]))
        accuracies.append(float((outputs.argmax(1) == y)[1:].double().mean()))
    row, (cast, wide) = found.places[0], gradients
    assert row.gradient_error == pytest.approx(float((cast - wide).norm() / wide.norm()))
    assert row.cosine == pytest.approx(float(nn.functional.cosine_similarity(cast, wide, dim=0)))
    assert row.gradient_bias == pytest.approx(float((cast - wide).sum() / wide.abs().sum()))
    assert row.update_error == pytest.approx(row.gradient_error)
    assert (found.accuracy, row.accuracy) == pytest.approx((accuracies[1], accuracies[0] - accuracies[1]))
    assert row.accuracy != 0


def test_targets_that_are_no_class_numbers_have_no_accuracy(linear: Any) -> None:
    found = hwsim.budget(*with_loss(linear), one("output", "weight"))
    assert math.isnan(found.accuracy)
    assert math.isnan(found.places[0].accuracy)


def test_the_headline_says_which_loss_it_speaks_of(linear: Any) -> None:
    model, batch = linear
    for gemm, words in (("output", "the batch's loss"), ("grad_weight", "its loss after the step")):
        found = hwsim.budget(model, squared, batch, one(gemm, "input"), causes=False)
        assert f"alone, weight {gemm} input changes {words} most ({found.places[0].measured:+.3g})." in found.headline
    assert found.headline.startswith(f"one changes the loss of this batch after the step by {found.places[0].measured:+.3g}")


def test_the_changes_of_two_losses_are_ranked_apart() -> None:
    def row(role: str, judged_by: Any, measured: float, predicted: float) -> Row:
        return Row("m", "s", "output", role, "all", measured, predicted, 0.0, judged_by=judged_by)

    forward = [row("a", "loss", 3.0, 3.0), row("b", "loss", 2.0, 2.0), row("c", "loss", 1.0, 1.0)]
    backward = [row("d", "step_loss", 0.3, 0.1), row("e", "step_loss", 0.2, 0.2), row("f", "step_loss", 0.1, 0.3)]
    found = Budget("m", (*forward, *backward), (Row("m", "", "", "", "all", 1.0, math.nan, 0.0, part="all"),), 1.0, 0.9)
    assert (found.rank_correlation, found.rank_correlation_after_step) == (1.0, -1.0)
    assert found.headline.endswith("rank correlation 1.000 for the batch's loss and -1.000 for its loss after the step.")


def test_all_but_a_place_is_what_the_others_change_together(linear: Any) -> None:
    model, batch = linear
    both = {"name": "both", "gemm": {"output": {"input": INT4, "weight": INT4}}}
    found = hwsim.budget(model, squared, batch, both, causes=False, predict=False)
    alone, without = ({row.role: getattr(row, name) for row in found.places} for name in ("measured", "all_but"))
    assert without == {"input": alone["weight"], "weight": alone["input"]}
    assert math.isnan(hwsim.budget(model, squared, batch, one("output", "weight")).places[0].all_but)


def test_the_shares_of_roles_are_shapleys_and_add_up_to_the_change_after_the_step() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(4, 8), torch.randn(4, 2))
    machine = {"name": "two", "gemm": {"all": {"input": INT4, "weight": INT4}}}
    found = hwsim.budget(model, squared, batch, machine, causes=False, predict=False)
    alone = {
        role: hwsim.budget(model, squared, batch, {"name": role, "gemm": {"all": {role: INT4}}}, causes=False, predict=False)
        for role in ("input", "weight")
    }
    after = {role: one.part("all, after the step").measured for role, one in alone.items()}
    both = found.part("all, after the step").measured
    shares = {role: found.part(f"share of {role}").measured for role in alone}
    assert sum(shares.values()) == pytest.approx(both)
    assert shares["input"] == pytest.approx((after["input"] + both - after["weight"]) / 2)


@pytest.mark.parametrize("roles", [ROLES[:2], ROLES[:4], ROLES[:5], ROLES])
def test_roles_are_taken_up_in_every_order_or_in_some_that_are_always_the_same(roles: tuple[Role, ...]) -> None:
    orders = role_orders(roles)
    assert len(orders) == min(math.factorial(len(roles)), 24 if len(roles) < 5 else 8)
    assert orders == role_orders(roles)
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(roles))}
    assert all(order[::-1] in orders for order in orders)


def test_more_roles_than_every_set_is_run_of_have_shares_that_add_up_too() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 2), (torch.randn(4, 4), torch.randn(4, 2))
    casts = dict.fromkeys(("input", "weight", "grad_output", "result"), "fp8_e4m3fn")
    machine = {"name": "five", "gemm": {"all": casts}, "optimizer": {"gradient": "fp8_e5m2"}}
    found = hwsim.budget(model, squared, batch, machine, causes=False, predict=False)
    shares = [row.measured for row in found.totals if row.part.startswith("share of ")]
    assert len(shares) == 5
    assert sum(shares) == pytest.approx(found.part("all, after the step").measured)


def test_weights_are_compared_after_as_many_steps_as_are_asked_for(linear: Any) -> None:
    model, batch = linear
    machine = one("grad_weight", "grad_output")
    errors = []
    for steps in (1, 2):
        copy = nn.Linear(5, 3).double()
        weights = []
        for cast in (machine, {"name": "wide"}):
            copy.load_state_dict(model.state_dict())
            start = torch.cat([p.detach().flatten().double() for p in copy.parameters()])
            optimizer = torch.optim.SGD(copy.parameters(), lr=0.05)
            with hwsim.emulate(copy, cast, optimizer):
                for _ in range(steps):
                    optimizer.zero_grad()
                    squared(copy(batch[0].double()), batch[1].double()).backward()
                    optimizer.step()
            weights.append(torch.cat([p.detach().flatten() for p in copy.parameters()]) - start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        found = hwsim.budget(model, squared, batch, machine, optimizer=optimizer, steps=steps)
        errors.append(found.places[0].update_error)
        assert errors[-1] == pytest.approx(float((weights[0] - weights[1]).norm() / weights[1].norm()))
        assert (found.places[0].predicted == found.places[0].predicted) is (steps == 1)
    assert 0 < errors[0] != errors[1]


def test_a_change_has_a_confidence_interval_over_seeds_and_draws(linear: Any) -> None:
    model, batch = linear
    cast = {"format": "int4", "scaling": "absmax", "rounding": "stochastic"}
    row = hwsim.budget(model, squared, batch, one("output", "weight", cast), seeds=[0, 1], draws=3).rows[0]
    assert row.interval == pytest.approx(scipy.stats.t.ppf(0.975, 5) * row.noise / 6**0.5)
    certain = hwsim.budget(model, squared, batch, one("output", "weight")).rows[0]
    assert math.isnan(certain.interval)
    assert certain.intervals == {}


def test_every_metric_has_a_confidence_interval_over_seeds_and_draws(linear: Any) -> None:
    model, batch = linear
    cast = {"format": "int4", "scaling": "absmax", "rounding": "stochastic"}
    both = [hwsim.budget(model, squared, batch, one("output", "weight", cast), seeds=[0], draws=n).places[0] for n in (1, 2)]
    first, mean = both
    metrics = {"step_loss", "sqnr", "cosine", "gradient_error", "gradient_bias", "update_error"}
    assert set(mean.intervals) == metrics
    for name in metrics:
        # Of two draws the mean lies as far from either as the deviation over sqrt(2).
        assert mean.intervals[name] == pytest.approx(
            scipy.stats.t.ppf(0.975, 1) * abs(getattr(mean, name) - getattr(first, name))
        )


def test_the_terminal_table_has_the_interval_and_the_loss_of_every_row(linear: Any) -> None:
    model, batch = linear
    cast = {"format": "int4", "scaling": "absmax", "rounding": "stochastic"}
    found = hwsim.budget(model, squared, batch, one("grad_weight", "grad_output", cast))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found)
    lines = [line for line in console.export_text().splitlines() if "weight grad_weight grad_output" in line and "│" in line]
    (cells,) = ([cell.strip() for cell in line.strip("│").split("│")] for line in lines)
    row = found.places[0]
    assert cells[:4] == ["weight grad_weight grad_output", "step loss", f"{row.measured:+.3e}", f"{row.interval:.1e}"]


def test_a_budget_is_read_back_from_its_json(linear: Any) -> None:
    model, batch = linear
    found = hwsim.budget(model, squared, batch, all_operands("int4"))
    again = Budget.of(json.loads(found.to_json()))
    assert again.to_json() == found.to_json()
    assert again.facts == found.facts


def test_an_accumulator_is_measured_by_gemm() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(4, 8), torch.randn(4, 2))
    unit = {"accumulator": {"format": "fp12_e6m5"}, "order": "sequential"}
    found = hwsim.budget(model, squared, batch, {"name": "narrow", "gemm": {"output": {"mac": unit}}}, sites=["2"])
    assert [(row.site, row.role, row.cause) for row in found.rows] == [
        ("2", "accumulator", "all"),
        ("2", "accumulator", "accumulation"),
    ]
    assert found.rows[0].measured == found.rows[1].measured != 0


def test_noise_is_the_spread_over_draws_and_zero_without_them(linear: Any) -> None:
    model, batch = linear
    for rounding, random in (("nearest_even", False), ("stochastic", True)):
        cast = {"format": "int4", "scaling": "absmax", "rounding": rounding}
        row = hwsim.budget(model, squared, batch, one("output", "weight", cast), seeds=[0, 1], draws=3).rows[0]
        assert (row.noise > 0) is random


def test_a_place_draws_the_same_words_alone_as_in_the_whole_machine(linear: Any) -> None:
    model, batch = linear
    cast = {"format": "int4", "scaling": "absmax", "rounding": "stochastic"}
    machine = one("output", "weight", cast)
    found = hwsim.budget(model.double(), squared, (batch[0].double(), batch[1].double()), machine, seeds=[7], draws=1)
    with torch.no_grad(), hwsim.emulate(model, machine, seed=7):
        loss = float(squared(model(batch[0].double()), batch[1].double()))
    assert found.loss + found.rows[0].measured == pytest.approx(loss, abs=1e-15)


def test_the_model_and_its_optimizer_are_left_alone(linear: Any) -> None:
    model, batch = linear
    optimizer = torch.optim.Adam(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    hwsim.budget(model, squared, batch, all_operands("int4"), optimizer=optimizer)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None and p.dtype is torch.float32 for p in model.parameters())
    assert not optimizer.state
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_budget_as_json_has_a_row_for_each_cause(linear: Any) -> None:
    model, batch = linear
    found = json.loads(hwsim.budget(model, squared, batch, one("output", "weight")).to_json())
    assert {"datapath", "site", "gemm", "role", "cause", "measured", "predicted", "noise"} <= set(found["rows"][0])
    assert found["headline"].startswith("one changes the loss of this batch by ")


def test_a_machine_that_rounds_nowhere_changes_nothing(linear: Any) -> None:
    found = hwsim.budget(*with_loss(linear), {"name": "plain"})
    assert (found.rows, found.part("all").measured) == ((), 0.0)
    assert "rounds nowhere" in found.headline


def test_a_model_that_has_diverged_has_no_error_to_split(linear: Any) -> None:
    model, batch = linear
    torch.nn.init.constant_(model.bias, torch.nan)
    found = hwsim.budget(model, squared, batch, one("output", "weight"))
    assert found.headline == "one: the loss of this batch is nan without any rounding; there is no error to split."
    assert json.loads(found.to_json())["loss"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sites": ["head"]}, "budget: sites: got 'head'; allowed: weight"),
        ({"steps": 0}, "budget: steps: got 0; allowed: a whole number from 1 on"),
        ({"batch": torch.zeros(3)}, r"batch: got Tensor; allowed: \(inputs, targets\)"),
    ],
)
def test_wrong_arguments_are_refused(linear: Any, change: dict[str, Any], text: str) -> None:
    model, batch = linear
    arguments = {"batch": batch} | change
    with pytest.raises(ConfigError, match=text):
        hwsim.budget(model, squared, datapath=one("output", "weight"), **arguments)


def test_the_gradients_of_a_scaled_loss_are_compared_unscaled(linear: tuple[nn.Module, tuple[Tensor, Tensor]]) -> None:
    model, batch = linear
    scaled = {"name": "scaled", "gemm": {"all": {"input": "bf16"}}, "loss_scaling": {"initial": 1024}}
    plain = {key: value for key, value in scaled.items() if key != "loss_scaling"}
    a, b = (hwsim.budget(model, squared, batch, declared, causes=False, predict=False) for declared in (scaled, plain))
    error = b.part("all").gradient_error
    assert error > 0
    assert a.part("all").gradient_error == pytest.approx(error, rel=1e-9)
    assert [row.measured for row in a.places] == pytest.approx([row.measured for row in b.places], rel=1e-6)
