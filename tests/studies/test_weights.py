"""The quantizer of a study: weights drawn to few values while they are trained."""

import json
from pathlib import Path

import pytest
import torch
from study_cases import Edit, plan_of
from torch import nn

from hwsim.errors import ConfigError
from hwsim.models import initial_model
from hwsim.studies import tasks
from hwsim.studies.schema import TrainingRun
from hwsim.studies.store import Store
from hwsim.studies.train import train
from hwsim.studies.weights import QuantizerChoice, trainee
from hwsim.studies.worker import perform
from hwsim.training import PARQ

LR = "optimizer: {name: sgd, lr: 0.1}"
ONE = ("[fp32, mine]", "[fp32]"), ("[0, 1]", "[0]")
METHODS = ("ste", "binary_relax", "parq", "lsq", "post_training")


def run_of(choice: str, *edits: Edit) -> TrainingRun:
    plan = plan_of((LR, f"{LR}\n  quantizer: {choice}"), *ONE, *edits)
    (run,) = plan.runs.values()
    assert isinstance(run, TrainingRun)
    return run


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_a_finite_loss_with_its_weights_on_the_levels(method: str) -> None:
    outcome = train(run_of(f"{{method: {method}, levels: int4, period: 1, end: 0.5}}"))
    (row,) = outcome.metrics
    assert outcome.status == "done"
    assert row["quantization_rate"] == 1.0
    assert row["test_loss"] < 5
    assert outcome.coverage == {"operations": 1.0, "flops": 1.0}


@pytest.mark.parametrize(
    ("levels", "count"),
    [("{rule: ternary}", 3), ("ternary", 3), ("{rule: lsbq, bits: 1}", 2), ("{rule: uniform, bits: 1}", 2), ("binary", 2)],
)
def test_a_learned_step_makes_ternary_and_binary_levels_too(levels: str, count: int) -> None:
    run = run_of(f"{{method: lsq, levels: {levels}}}")
    model = initial_model(tasks.build(run.task), 0)
    trainee(model, run.quantizer, lambda parameters: torch.optim.SGD(parameters, lr=1.0), 1)
    assert model[1].weight.detach().unique().numel() == count


def test_the_rate_rises_over_time_where_weights_are_drawn_slowly() -> None:
    run = run_of("{method: parq, levels: {rule: lsbq, bits: 2}, end: 0.9}", ("epochs: 1", "epochs: 3"))
    rates = [row["quantization_rate"] for row in train(run).metrics]
    assert rates[0] < rates[1] < rates[2] == 1.0


@pytest.mark.parametrize("method", ["lsq", "post_training", "ste"])
def test_the_rate_counts_the_weights_that_are_exactly_on_a_level(method: str) -> None:
    choice = QuantizerChoice.model_validate({"method": method, "levels": "int4", "period": 100})
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    trained = trainee(model, choice, lambda parameters: torch.optim.SGD(parameters, lr=0.1), 10)
    assert trained.rate is not None
    model(torch.ones(1, 8)).sum().backward()
    trained.optimizer.step()
    assert trained.rate() == 1.0
    spoilt = next(p for p in model.parameters() if p.shape == (4, 8))
    with torch.no_grad():
        spoilt[0, 0] = torch.nan
    assert trained.rate() == 39 / 40  # a NaN is on no level
    assert spoilt.isnan().sum() == 1


def test_post_training_tests_rounded_weights_and_trains_with_the_others() -> None:
    choice = QuantizerChoice.model_validate({"method": "post_training", "levels": "ternary"})
    model = nn.Linear(8, 3)
    before = model.weight.detach().clone()
    trained = trainee(model, choice, lambda parameters: torch.optim.SGD(parameters, lr=1.0), 1)
    with trained.testing():
        assert model.weight.unique().numel() == 3
    assert torch.equal(model.weight, before)
    assert not isinstance(trained.optimizer, PARQ)


def test_layers_that_are_kept_are_not_drawn() -> None:
    run = run_of("{method: ste, levels: int4, keep: ['3']}")
    model = initial_model(tasks.build(run.task), 0)
    trained = trainee(model, run.quantizer, lambda parameters: torch.optim.SGD(parameters, lr=1.0), 1)
    assert isinstance(trained.optimizer, PARQ)
    assert [tuple(weight.shape) for weight, _ in trained.optimizer.latents()] == [(4, 64)]


def test_a_run_is_stored_with_its_quantizer_and_read_back(tmp_path: Path) -> None:
    run = run_of("{method: ste, levels: {rule: lsbq, bits: 2}}")
    perform(run, tmp_path)
    record = Store(tmp_path).record(run.id)
    assert TrainingRun.model_validate_json(json.dumps(record["run"])).hash == run.hash


def test_methods_and_levels_are_axes_with_names_of_their_own() -> None:
    axes = "grid: {quantizer.method: [ste, parq], quantizer.levels: [int4, {rule: lsbq, bits: 1}]}"
    plan = plan_of(
        (LR, f"{LR}\n  quantizer: {{method: ste, levels: int4}}"), ("grid: {datapath: [fp32, mine]}", axes), ("[0, 1]", "[0]")
    )
    assert [tuple(place.settings.values()) for place in plan.places] == [
        (method, levels) for method in ("ste", "parq") for levels in ("int4", "rule lsbq, bits 1")
    ]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "{method: stee, levels: int4}",
            "study.quantizer.method: got 'stee'; allowed: binary_relax, lsq, parq, post_training, ste",
        ),
        ("{method: stee, levels: int4}", "did you mean 'ste'?"),
        ("{method: ste}", "study.quantizer.levels: missing"),
        ("{method: ste, levels: int44}", "format: got 'int44'"),
        ("{method: ste, levels: int16}", "FormatLevels of int16 bits: got 16; allowed: a whole number from 1 to 8"),
        ("{method: ste, levels: {rule: lsbq, bits: 9}}", "study.quantizer.levels.bits: got 9"),
        ("{method: ste, levels: {rule: lsbq, bits: 3, optimal: true}}", "LSBQ bits: got 3 with optimal=True; allowed: 1 or 2"),
        ("{method: ste, levels: {rule: lsqb, bits: 3}}", "allowed: format, lsbq, ternary, uniform; did you mean 'lsbq'?"),
        ("{method: parq, levels: int4, start: 0.5, end: 0.5}", "end: got 0.5 with start 0.5; allowed: a later share of the run"),
        ("{method: lsq, levels: nf4}", "levels: got none that one learned step makes; allowed with lsq: binary, lsbq or"),
        ("{method: lsq, levels: {rule: lsbq, bits: 2}}", "1 bit, ternary, int2 to int8, granularity tensor"),
        ("{method: ste, levels: int4, periode: 3}", "study.quantizer.periode: unknown key"),
    ],
)
def test_a_wrong_quantizer_is_refused_with_its_place(choice: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        run_of(choice)
    assert "tiny.yaml:11: study.quantizer" in str(refusal.value)
    assert message in str(refusal.value)
