"""One of two data-parallel processes that train networks on FP8-LM's wire or kept scales: `ddp_worker.py RANK FOLDER`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hwsim.emulator import emulate


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank)) * (1 + rank)


def kept_scales(recipe: str, rank: int) -> dict[str, Any]:
    """The scales and parameters after every one of three steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report: dict[str, Any] = {"steps": [], "parameters": [], "local": []}
    with emulate(model, recipe, optimizer=optimizer, rank=rank) as machine:
        for step in range(3):
            optimizer.zero_grad()
            parallel(batch(step, rank)).square().mean().backward()
            report["local"].append({site: p.grad.tolist() for site, p in machine.learned_scales().items() if p.grad is not None})
            optimizer.step()
            scales = machine.state_dict()["scales"]
            report["steps"].append({site: {key: x.tolist() for key, x in state.items()} for site, state in scales.items()})
            report["parameters"].append([p.tolist() for p in model.parameters()])
    return report


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[tuple[Tensor, Tensor]] = []
    with emulate(model, "fp8_lm", optimizer=optimizer, rank=rank) as machine:
        average = machine.gradient_hook()

        def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            local = bucket.buffer().clone()
            done = average(state, bucket)
            seen.append((local, done.value().clone()))
            return done

        parallel.register_comm_hook(None, hook)
        for step in range(3):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank))
            optimizer.zero_grad()
            parallel(x).square().mean().backward()
            optimizer.step()
        report = {
            "parameters": [p.tolist() for p in model.parameters()],
            "local": seen[0][0].tolist(),
            "mean": seen[0][1].tolist(),
            "coverage": machine.coverage(),
            "wire": sorted({row.cast for row in machine.audit() if row.role == "wire"}),
        }
    report |= {recipe: kept_scales(recipe, rank) for recipe in ("w8a8_lsq", "w4a4_pact", "fp8_delayed")}
    (folder / f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
