"""What makes the error of a cast: its causes in their order, and the facts of what went through it."""

import math
from itertools import groupby
from typing import Any

import pytest
import torch
from budget_cases import one, squared, trained
from torch import nn

import hwsim
from hwsim.budgets.causes import facts
from hwsim.datapaths import datapath
from hwsim.formats import Draw


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
