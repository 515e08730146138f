"""What predicting an error budget costs beside plain training steps, what statistics cost, and how long a large report takes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwsim.budgets.measured import Survey, survey
from hwsim.budgets.predicted import predict
from hwsim.budgets.twins import Twin, scores
from hwsim.config import loads
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import emulate

from ..files import StudyFile
from ..plan import expand
from ..provenance import origin, surroundings, versions
from ..report import load_report, write_page
from ..schema import TrainingRun
from ..store import Store
from ..train import Outcome
from ..worker import audit_table, metrics_table
from .measurement import Case, Measurement, measured

MACHINE = "fp8_current"
STEP, EMULATED, LIMIT = "plain step", f"step on {MACHINE}", "20 seconds"
SHARE = 1e-3


def prediction(rounds: int) -> Measurement:
    """The predicted budget of all sites of a ResNet-18 beside its training step, all in float32."""
    model, batch = _resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    machine = datapath(MACHINE)
    twin = Twin(model, nn.functional.cross_entropy, batch, optimizer, None)
    found = survey(twin, machine, 0)
    outputs = twin.step(machine, {}, 0)[0].outputs
    cases = {STEP: Case(partial(_step, model, batch, optimizer))}
    if outputs is not None:
        for samples, target in ((1, 8.0), (8, 30.0)):
            cases[f"predicted budget, K = {samples}"] = Case(partial(_predict, twin, machine, found, outputs, samples), target)
    title = f"ResNet-18, batch 32 of 32 x 32, {len(found.places)} casts, {torch.get_num_threads()} threads"
    return measured(title, STEP, cases, rounds)


def _predict(twin: Twin, machine: Datapath, found: Survey, outputs: Tensor, samples: int) -> None:
    predict(twin, machine, found.places, outputs, 0, dict.fromkeys((p.port for p in found.places), 1), samples, False)


def statistics(rounds: int) -> Measurement:
    """An emulated step of a ResNet-18 with statistics beside one without."""
    cases = {}
    for name, counting, target in ((EMULATED, False, None), ("the same with statistics", True, 1.15)):
        model, batch = _resnet()
        cases[name] = Case(partial(_emulated, model, batch, torch.optim.SGD(model.parameters(), lr=0.01), counting), target)
    title = f"emulated step of ResNet-18, batch 32 of 32 x 32, {torch.get_num_threads()} threads"
    return measured(title, EMULATED, cases, rounds)


def _resnet() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=10), (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))


def _step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(scores(model(batch[0])), batch[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _emulated(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer, counting: bool) -> None:
    with emulate(model, MACHINE, optimizer, statistics=counting):
        _step(model, batch, optimizer)


def report(rounds: int) -> Measurement:
    """The page of a study of 1,000 runs (100 points, 10 seeds, 10 epochs) from stored results."""
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), points=100, seeds=10, epochs=10)
        cases = {
            LIMIT: Case(partial(time.sleep, SHARE * 20), size=SHARE),
            "report of 1,000 runs": Case(lambda: write_page(load_report(Path(folder))), 1.0),
        }
        return measured("a report, read and written", LIMIT, cases, rounds)


def write_runs(folder: Path, *, points: int, seeds: int, epochs: int) -> None:
    """Store a study's runs without running them: made-up losses, and the audit of one real step."""
    rates = [round(0.01 * (i + 1), 4) for i in range(points // 2)]
    text = json.dumps(
        {
            "study": {
                "name": "large",
                "task": {"name": "digits_mlp", "epochs": epochs, "batch_size": 64, "width": 16},
                "optimizer": {"name": "sgd", "lr": 0.1},
                "baseline": "fp32",
                "grid": {"datapath": ["fp32", MACHINE], "optimizer.lr": rates},
                "seeds": list(range(seeds)),
            }
        }
    )
    plan, store, provenance = expand(StudyFile.of(loads(text, "large.yaml"))), Store(folder), origin() | surroundings()
    store.open(plan, text, versions()["hwsim"])
    audit = _audit()
    for number, run in enumerate(plan.runs.values()):
        if isinstance(run, TrainingRun):
            metrics = [_epoch(epoch, number) for epoch in range(epochs)]
            outcome = Outcome(steps=10 * epochs, metrics=metrics, audit=audit, coverage={"operations": 1.0, "flops": 1.0})
            record = {"id": run.id, "hash": run.hash, "threads": run.threads, "run": run.model_dump(mode="json"), "seconds": 1.0}
            record |= {"status": "done", "steps": outcome.steps, "coverage": outcome.coverage, "data_checksum": "none"}
            tables = {"metrics": metrics_table(run, outcome), "audit": audit_table(run, outcome)}
            store.save(run.id, record | provenance, tables)


def _epoch(epoch: int, number: int) -> dict[str, float]:
    loss = 1 / (1 + epoch) + 0.001 * (number % 97)
    return {"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": loss, "test_loss": loss, "accuracy": 1 - loss / 2}


def _audit() -> list[dict[str, Any]]:
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, MACHINE, optimizer) as machine:
        _step(model, (torch.randn(8, 64), torch.randint(10, (8,))), optimizer)
    return [asdict(row) for row in machine.audit()]


BENCHMARKS: dict[str, Callable[[int], Measurement]] = {"budget": prediction, "statistics": statistics, "report": report}
