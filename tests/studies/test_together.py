"""One run over two gloo processes started by torchrun: the same each time, resumed bit for bit, and averaged as declared."""

from pathlib import Path

import pytest
import torch
from study_cases import plan_of

from hwsim.studies.checkpoints import Checkpoints
from hwsim.studies.choices import CheckpointChoice
from hwsim.studies.ranks import Ranks
from hwsim.studies.schema import TrainingRun
from hwsim.studies.store import Store
from hwsim.studies.together import train_together
from hwsim.studies.train import train
from hwsim.studies.worker import perform


def run_of(datapath: str, processes: int = 2, epochs: int = 2) -> TrainingRun:
    plan = plan_of(
        ("epochs: 1, batch_size: 256", f"epochs: {epochs}, batch_size: 500"),
        ("fp32, mine", f"fp32, {datapath}"),
        ("seeds: [0, 1]", f"seeds: [0]\n  processes: {processes}"),
    )
    return next(plan.runs[place.id] for place in plan.places if place.datapath == datapath)


def test_the_number_of_processes_is_part_of_a_run() -> None:
    assert run_of("fp8_lm", 1).hash != run_of("fp8_lm", 2).hash


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_the_batch_and_their_weights_add_up_to_its_mean(size: int) -> None:
    losses = torch.arange(7.0)
    ranks = [Ranks(rank, size) for rank in range(size)]
    assert sorted(x for rank in ranks for x in losses[rank.share(7)].tolist()) == losses.tolist()
    averaged = sum(rank.weighted(losses[rank.share(7)].mean(), 7) for rank in ranks) / size
    assert averaged == pytest.approx(losses.mean())


@pytest.mark.large
def test_a_run_over_two_processes_is_stored_and_repeats_itself(tmp_path: Path) -> None:
    run = run_of("fp8_lm")
    for folder in ("a", "b"):
        assert perform(run, tmp_path / folder).status == "done"
    a, b = (Store(tmp_path / folder) for folder in ("a", "b"))
    for name in ("metrics.parquet", "audit.parquet"):
        assert (a.runs / run.id / name).read_bytes() == (b.runs / run.id / name).read_bytes()
    assert "fp8_e4m3fn" in (a.runs / run.id / "audit.parquet").read_bytes().decode("latin-1")
    assert a.record(run.id)["coverage"] == {"operations": 1.0, "flops": 1.0}


@pytest.mark.large
@pytest.mark.parametrize(("datapath", "processes"), [("fp8_delayed", 2), ("fp8_lm", 3)])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(datapath: str, processes: int, tmp_path: Path) -> None:
    run = run_of(datapath, processes)
    path, every = tmp_path / "run.pt", CheckpointChoice(epochs=1)
    whole = train_together(run, Checkpoints(path, run.hash, every), lambda row: None)
    assert path.exists()
    resumed = train_together(run, Checkpoints(path, run.hash, every), lambda row: None)
    assert resumed == whole


@pytest.mark.large
def test_two_processes_in_fp32_train_what_one_does_but_for_the_order_of_sums() -> None:
    two = train_together(run_of("bf16", 2), Checkpoints(), lambda row: None)
    one = train(run_of("bf16", 1))
    assert two.metrics[-1]["train_loss"] == pytest.approx(one.metrics[-1]["train_loss"], rel=0.02)
