"""The error budget of one step: what is measured, what is predicted, and how the two agree."""

import io
import json
import math
from itertools import groupby
from typing import Any

import pytest
import scipy.stats
import torch
from budget_cases import LR, all_operands, trained
from rich.console import Console
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hwsim
from hwsim import ConfigError
from hwsim.budgets import Budget, spearman
from hwsim.budgets.causes import facts
from hwsim.budgets.machines import ROLES, Role
from hwsim.budgets.measured import role_orders
from hwsim.budgets.table import Row
from hwsim.casting import apply
from hwsim.datapaths import datapath
from hwsim.formats import Draw
from hwsim.layering import OPERANDS


class Attentive(nn.Module):
    """Attention over embedded tokens, its products of activations recomputed or not."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.embedding, self.qkv, self.head = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(8, 11)
        self.checkpointed = checkpointed

    def attended(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.softmax(q @ k.mT, -1) @ v

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        attended = checkpoint(self.attended, x, use_reentrant=False) if self.checkpointed else self.attended(x)
        result: Tensor = self.head(attended)
        return result


INT4 = {"format": "int4", "scaling": "absmax"}


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def tokenwise(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.reshape(-1, 11), targets.reshape(-1))


@pytest.fixture
def linear() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return nn.Linear(5, 3), (torch.randn(8, 5), torch.randn(8, 3))


def one(gemm: str, role: str, cast: Any = INT4) -> dict[str, Any]:
    return {"name": "one", "gemm": {gemm: {role: cast}}}


def rows_of(budget: Budget, gemm: str, role: str) -> list[Any]:
    return [row for row in budget.rows if (row.gemm, row.role) == (gemm, role)]


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
    found = hwsim.budget(*_with_loss(linear), one("output", "weight"), samples=400)
    row = rows_of(found, "output", "weight")[0]
    assert row.predicted == pytest.approx(row.measured, rel=0.03)


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


def test_the_causes_of_a_cast_add_up_to_it() -> None:
    model, made, batch = trained("digits_cnn")
    cast = {"format": "fp4_e2m1", "scaling": {"rule": "power_of_two"}}
    fixed = {"format": "int8", "scaling": {"rule": "fixed", "value": 0.01}}
    machine = {"name": "causes", "gemm": {"output": {"input": cast, "weight": fixed}, "grad_weight": {"grad_output": cast}}}
    found = hwsim.budget(model, made.loss, batch, machine, groups=False)
    groups = [list(rows) for _, rows in groupby(found.rows, key=lambda row: (row.site, row.gemm, row.role))]
    assert {row.cause for row in found.rows} == {"all", "clipping", "underflow", "rounding", "scale"}
    assert len(groups) == 9
    for whole, *causes in groups:
        assert sum(row.measured for row in causes) == pytest.approx(whole.measured, abs=1e-12)
        assert sum(row.predicted for row in causes) == pytest.approx(whole.predicted, abs=1e-12)
    by_cause = {row.cause: row.measured for row in groups[0]}
    assert by_cause["rounding"] != 0


@pytest.mark.parametrize("scaling", [{"rule": "fixed", "value": 0.25}, {"rule": "power_of_two"}], ids=lambda s: s["rule"])
def test_each_cause_is_what_the_loss_gains_where_it_is_let_in_after_those_before_it(scaling: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(64, 4), (torch.randn(32, 64), torch.randn(32, 4))
    found = hwsim.budget(model, squared, (x, y), one("output", "input", {"format": "int4", "scaling": scaling}))
    layer, x = model.double(), x.double()
    amax = x.abs().max() / 7
    ideal, scale = (amax, torch.exp2(torch.ceil(torch.log2(amax)))) if scaling["rule"] == "power_of_two" else (0.25, 0.25)
    clipped = x.clamp(-8 * ideal, 7 * ideal)
    underflowed = torch.where((x / ideal).round() == 0, 0.0, clipped)
    rounded = ideal * (x / ideal).round().clamp(-8, 7)
    whole = scale * (x / scale).round().clamp(-8, 7)
    with torch.no_grad():
        losses = [float(squared(layer(operand), y.double())) for operand in (x, clipped, underflowed, rounded, whole)]
    rows = {row.cause: row.measured for row in found.rows}
    for cause, before, after in zip(("clipping", "underflow", "rounding", "scale"), losses, losses[1:], strict=False):
        assert rows[cause] == pytest.approx(after - before, abs=1e-9)
    assert sum(row != 0 for row in rows.values()) == 4


def test_a_fixed_scale_clips_and_a_power_of_two_costs_something_by_itself() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(64, 4), (torch.randn(32, 64), torch.randn(32, 4))
    clipped = one("output", "input", {"format": "int8", "scaling": {"rule": "fixed", "value": 0.01}})
    scaled = one("output", "input", {"format": "int4", "scaling": "power_of_two"})
    for machine, cause, none in ((clipped, "clipping", "scale"), (scaled, "scale", "clipping")):
        rows = {row.cause: row for row in hwsim.budget(model, squared, batch, machine).rows}
        assert rows[cause].measured != 0
        assert rows[none].measured == rows[none].predicted == 0


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_an_emulated_unit_hides_nothing_of_its_operands_casts(rounding: str) -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(64, 4), (torch.randn(32, 64), torch.randn(32, 4))
    cast = {"format": "int8", "scaling": {"rule": "fixed", "value": 0.01}, "rounding": rounding}
    unit = {"accumulator": {"format": "fp32"}, "order": "sequential"}
    found = [
        hwsim.budget(model, squared, batch, {"name": "m", "gemm": {"all": {"input": cast, "grad_output": cast, **mac}}}, draws=4)
        for mac in ({}, {"mac": unit})
    ]
    plain, emulated = ([row for row in one.rows if row.role != "accumulator"] for one in found)
    numbers = [[(r.gemm, r.role, r.cause, r.measured, r.predicted, r.noise) for r in rows] for rows in (plain, emulated)]
    assert numbers[0] == numbers[1]
    assert {row.cause for row in emulated if row.measured} >= {"all", "clipping", "rounding"}
    assert {port: facts for port, facts in found[1].facts.items() if port in found[0].facts} == found[0].facts != {}
    assert all((row.noise > 0) is (rounding == "stochastic") for row in emulated if row.cause == "all")


@pytest.mark.parametrize(
    ("cast", "causes"),
    [
        ({"format": "uint4", "scaling": {"rule": "pact", "value": 1.0}}, ("clipping", "underflow", "rounding")),
        ({"format": "fp4_e2m1fn", "scaling": {"rule": "delayed", "window": 4}}, ("clipping", "underflow", "rounding")),
        ({"format": "int3", "scaling": "learned"}, ("clipping", "underflow", "rounding")),
    ],
    ids=["pact", "delayed", "learned"],
)
def test_what_a_scale_that_a_run_keeps_clips_is_told_from_what_it_rounds(cast: Any, causes: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(64, 4), (4 * torch.rand(32, 64) ** 2, torch.randn(32, 4))
    x[0, 0] = 8.0
    found = hwsim.budget(model, squared, (x, y), one("output", "input", cast))
    rows = {row.cause: row for row in found.rows}
    assert found.facts["weight/output/input"].causes == causes
    assert found.facts["weight/output/input"].clipped > 0
    assert all(rows[cause].measured != 0 and rows[cause].predicted != 0 for cause in causes)
    assert sum(rows[cause].measured for cause in causes) == pytest.approx(rows["all"].measured)


def test_an_unsigned_format_clips_what_is_negative_and_underflows_what_is_small() -> None:
    cast = datapath(one("output", "input", {"format": "uint4", "scaling": {"rule": "fixed", "value": 1.0}})).gemm.output.input
    found = facts(cast, torch.tensor([-1.0, 0.3, 0.4, 2.2, 17.0]), Draw(), -1)
    assert (found.clipped, found.underflowed) == (0.4, 0.4)


def test_facts_say_what_went_through_a_port(linear: Any) -> None:
    model, (x, y) = linear
    found = hwsim.budget(model, squared, (x, y), one("output", "input")).facts["weight/output/input"]
    assert (found.elements, found.clipped) == (40, 0)
    assert found.amax == pytest.approx(float(x.abs().max()))
    assert found.crest == pytest.approx(float(x.abs().max() / x.square().mean().sqrt()))
    assert sum(found.exponents.values()) == 40
    assert 0 < found.codes_used <= 1
    assert found.causes == ("underflow", "rounding", "scale")
    unit = found.amax / 7
    assert found.range == (math.floor(math.log2(unit)), math.floor(math.log2(7 * unit * (1 + 1e-7))))


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
    found = hwsim.budget(*_with_loss(linear), one("output", "weight"))
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
    found = hwsim.budget(*_with_loss(linear), {"name": "plain"})
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


def budgets_of(name: str, formats: list[str], lr: float = LR) -> list[Budget]:
    model, made, batch = trained(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return [
        hwsim.budget(model, made.loss, batch, all_operands(fmt), optimizer=optimizer, samples=16, causes=False, groups=False)
        for fmt in formats
    ]


EIGHT_BITS = ["int8", "fp8_e4m3fn", "fp8_e5m2", "mxfp8_e4m3", "mxint8"]


@pytest.mark.parametrize(
    ("name", "lr", "formats", "counted"),
    [
        ("digits_cnn", LR, EIGHT_BITS, 20),
        ("char_gpt", 0.3, ["fp8_e5m2"], 15),
        pytest.param("char_gpt", 0.3, ["int8", "fp8_e4m3fn"], 20, marks=pytest.mark.large),
    ],
)
def test_eight_bit_casts_are_predicted_in_rank_and_size(name: str, lr: float, formats: list[str], counted: int) -> None:
    found = budgets_of(name, formats, lr)
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


def _with_loss(linear: Any) -> tuple[nn.Module, Any, tuple[Tensor, Tensor]]:
    model, batch = linear
    return model, squared, batch


def test_the_gradients_of_a_scaled_loss_are_compared_unscaled(linear: tuple[nn.Module, tuple[Tensor, Tensor]]) -> None:
    model, batch = linear
    scaled = {"name": "scaled", "gemm": {"all": {"input": "bf16"}}, "loss_scaling": {"initial": 1024}}
    plain = {key: value for key, value in scaled.items() if key != "loss_scaling"}
    a, b = (hwsim.budget(model, squared, batch, declared, causes=False, predict=False) for declared in (scaled, plain))
    error = b.part("all").gradient_error
    assert error > 0
    assert a.part("all").gradient_error == pytest.approx(error, rel=1e-9)
    assert [row.measured for row in a.places] == pytest.approx([row.measured for row in b.places], rel=1e-6)


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
