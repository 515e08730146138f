"""Gradients between data-parallel processes, in the datapath's wire format."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_worker import batch
from torch import nn

from hwsim.casting import apply
from hwsim.datapaths import datapath
from hwsim.emulator import emulate
from hwsim.errors import ConfigError

WORKER = Path(__file__).parent / "ddp_worker.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two gloo processes report of three steps with FP8 gradients on the wire."""
    folder = tmp_path_factory.mktemp("ddp")
    workers = [subprocess.Popen([sys.executable, str(WORKER), str(rank), str(folder)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.large
def test_both_ranks_have_the_same_parameters_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["parameters"] == ranks[1]["parameters"]
    assert ranks[0]["local"] != ranks[1]["local"]


@pytest.mark.large
def test_the_mean_is_the_cast_sum_of_cast_shares_with_a_scale_common_to_all_ranks(ranks: list[dict[str, Any]]) -> None:
    cast = datapath("fp8_lm").wire
    local = [torch.tensor(rank["local"]) for rank in ranks]
    amax = max(x.abs().max() for x in local)
    scale = 2.0 ** torch.ceil(torch.log2(amax.double() / 448)).float()
    shares = [apply(cast, x / 2, kept=scale) for x in local]
    assert torch.equal(torch.tensor(ranks[0]["mean"]), apply(cast, shares[0] + shares[1], kept=scale))


@pytest.mark.large
def test_the_audit_counts_the_wire_as_emulated(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["coverage"] == {"operations": 1.0, "flops": 1.0}
    assert ranks[0]["wire"] == ["fp8_e4m3fn power_of_two per tensor"]


@pytest.mark.large
@pytest.mark.parametrize("recipe", ["w8a8_lsq", "w4a4_pact", "fp8_delayed"])
def test_both_ranks_keep_the_same_scales_bit_for_bit(ranks: list[dict[str, Any]], recipe: str) -> None:
    one, other = (rank[recipe] for rank in ranks)
    assert one["steps"] == other["steps"]
    assert one["parameters"] == other["parameters"]


@pytest.mark.large
def test_scales_that_train_step_along_the_mean_of_the_ranks_gradients(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["w8a8_lsq"] for rank in ranks)
    assert one["local"] != other["local"]
    for step in (1, 2):
        for site, grad in one["local"][step].items():
            before, after = (torch.tensor(one["steps"][i][site]["parameter"]) for i in (step - 1, step))
            mean = (torch.tensor(grad) + torch.tensor(other["local"][step][site])) / 2
            torch.testing.assert_close(after, before - 0.1 * mean)


@pytest.mark.large
def test_a_delayed_scale_has_seen_the_tensors_of_every_rank(ranks: list[dict[str, Any]]) -> None:
    history = ranks[0]["fp8_delayed"]["steps"][2]["0/output/input"]["history"]
    largest = [max(batch(step, rank).abs().max().item() for rank in range(2)) for step in (2, 1, 0)]
    assert history[1:4] == largest


def test_a_hook_needs_a_wire_format() -> None:
    with emulate(nn.Linear(2, 2), "fp32") as machine, pytest.raises(ConfigError, match="the datapath declares no wire format"):
        machine.gradient_hook()


def test_sharded_parameters_are_refused(tmp_path: Path) -> None:
    from torch import distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Linear(4, 4)
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        with (
            pytest.raises(ConfigError, match=r"parameter weight is a DTensor.*fully_shard is not emulated"),
            emulate(model, "fp32"),
        ):
            pass
    finally:
        dist.destroy_process_group()
