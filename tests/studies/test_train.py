"""One run: a function of its configuration and seed; a run that diverges has a result."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from study_cases import plan_of

import hwsim
from hwsim.models import batches, evaluate, initial_model
from hwsim.studies import tasks
from hwsim.studies.schema import TrainingRun
from hwsim.studies.store import Store
from hwsim.studies.terms import Terms
from hwsim.studies.train import train
from hwsim.studies.worker import perform


def run_of(datapath: str = "fp32", seed: int = 0, lr: float = 0.1) -> TrainingRun:
    plan = plan_of(("lr: 0.1", f"lr: {lr}"))
    place = next(place for place in plan.places if (place.datapath, place.seed) == (datapath, seed))
    return plan.runs[place.id]


def test_fp32_is_the_plain_loop_bit_for_bit() -> None:
    run = run_of()
    task, data = tasks.build(run.task), tasks.data(run.task)
    model = initial_model(task, run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for inputs, targets in batches(data, 256, run.seed, 0):
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(inputs)
    (row,) = train(run).metrics
    assert row["train_loss"] == total / len(data.train_inputs)


def test_labels_are_cast_anew_in_each_step_and_the_test_set_keeps_its_own() -> None:
    tiny = "name: digits_mlp, epochs: 1, batch_size: 256, width: 4"
    labels = "labels: {format: int4, rounding: stochastic, scaling: {rule: fixed, value: 0.25}}"
    plan = plan_of((tiny, f"name: diabetes_regression, epochs: 2, batch_size: 200, {labels}"))
    run = next(iter(plan.runs.values()))
    task, data = tasks.build(run.task), tasks.data(run.task)
    model = initial_model(task, run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = [batch for epoch in range(2) for batch in batches(data, 200, run.seed, epoch)]
    fixed = {"rule": "fixed", "value": 0.25}
    for step, (inputs, targets) in enumerate(given):
        optimizer.zero_grad()
        cast = hwsim.quantize(targets, "int4", "stochastic", scaling=fixed, seed=run.seed, site="labels", step=step)
        task.loss(model(inputs), cast).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert train(run).metrics[-1]["test_loss"] == evaluate(model, task, data, 200)["loss"]


@pytest.mark.parametrize("datapath", ["fp32", "mine"])
def test_a_run_repeats_itself_whatever_the_global_generator_holds(datapath: str) -> None:
    run = run_of(datapath)
    first = train(run)
    state = torch.manual_seed(99).get_state()
    second = train(run)
    assert first.metrics == second.metrics
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_and_datapaths_make_a_difference() -> None:
    losses = [train(run_of(*which)).metrics[0]["test_loss"] for which in (("fp32", 0), ("fp32", 1), ("mine", 0))]
    assert len(set(losses)) == 3


def test_every_operation_is_accounted_for() -> None:
    outcome = train(run_of("mine"))
    assert outcome.coverage == {"operations": 1.0, "flops": 1.0}
    casts = {(row["role"], row["cast"]) for row in outcome.audit if row["gemm"] == "grad_weight"}
    assert ("grad_output", "my_e3m2 absmax per tensor") in casts


def test_a_run_that_diverges_is_a_result_with_the_steps_it_took_and_the_reason() -> None:
    outcome = train(run_of(lr=1e30))
    assert (outcome.status, outcome.steps) == ("diverged", 1)
    where = "first made by addmm at 3/output (forward) in step 1"
    assert outcome.reason == f"the loss is nan in step 1; {where}"
    assert outcome.origin == {"step": 1, "phase": "forward", "op": "addmm", "site": "3/output", "made": True}


def test_a_weight_that_is_not_finite_ends_the_run_in_the_step_that_made_it() -> None:
    plan = plan_of(("lr: 0.1", "lr: 1.0e+30, weight_decay: 1.0e+10"))
    outcome = train(next(iter(plan.runs.values())))
    assert (outcome.status, outcome.steps) == ("diverged", 0)
    assert outcome.reason.startswith("the parameter ")
    assert " is not finite after step 0; first made by add_ at 1." in outcome.reason
    assert outcome.reason.endswith(" (optimizer) in step 0")


def test_a_nan_in_a_format_without_one_is_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("mine")
    data = tasks.data(run.task)
    poisoned = type(data)(torch.full_like(data.train_inputs, torch.nan), data.train_targets, data.test_inputs, data.test_targets)
    monkeypatch.setattr(tasks, "data", lambda choice: poisoned)
    outcome = train(run)
    assert (outcome.status, outcome.steps, outcome.metrics) == ("diverged", 0, [])
    assert outcome.reason.startswith("in step 0: 1/output/input: x[0, 0]: got nan, which becomes NaN in a format that has none")


def test_a_performed_run_is_stored_with_all_that_repeats_it(tmp_path: Path) -> None:
    run = run_of("mine")
    finished = perform(run, tmp_path, Terms(origin={"command": "hwsim run tiny.yaml"}))
    assert (finished.id, finished.status) == (run.id, "done")
    record = Store(tmp_path).record(run.id)
    assert TrainingRun.model_validate_json(json.dumps(record["run"])).hash == run.hash == record["hash"]
    assert record["command"] == "hwsim run tiny.yaml"
    assert record["data_checksum"] == tasks.data(run.task).checksum
    (row,) = pq.read_table(tmp_path / "runs" / run.id / "metrics.parquet").to_pylist()
    assert row == {"id": run.id, **train(run).metrics[0]}


def test_equal_runs_store_equal_bytes(tmp_path: Path) -> None:
    run = run_of("mine")
    for folder in ("a", "b"):
        perform(run, tmp_path / folder)
    for name in ("metrics.parquet", "audit.parquet"):
        a, b = ((tmp_path / folder / "runs" / run.id / name).read_bytes() for folder in ("a", "b"))
        assert a == b


def test_a_diverged_run_is_stored_and_has_the_columns_of_the_others(tmp_path: Path) -> None:
    run = run_of(lr=1e30)
    assert perform(run, tmp_path).status == "diverged"
    table = pq.read_table(tmp_path / "runs" / run.id / "metrics.parquet")
    assert (table.num_rows, set(table.column_names)) == (0, {"id", "epoch", "step", "train_loss", "test_loss"})


def test_a_run_that_fails_is_stored_as_a_failure_and_as_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(choice: object) -> None:
        raise RuntimeError("out of luck")

    run = run_of()
    monkeypatch.setattr(tasks, "data", broken)
    finished = perform(run, tmp_path)
    assert (finished.status, finished.error) == ("failed", "RuntimeError: out of luck")
    assert Store(tmp_path).finished() == set()
    assert "out of luck" in Store(tmp_path).failed()[run.id]["traceback"]
