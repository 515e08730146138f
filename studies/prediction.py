"""What a study will take, before it runs: from runs that are finished, else from a few steps of training."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, pairwise
from statistics import fmean

from hwsim.config import content_hash
from hwsim.emulator import emulate
from hwsim.models import batches, initial_model, predict

from . import tasks
from .choices import TORCH_OPTIMIZERS
from .generators import seeded
from .limits import peak_gib
from .plan import Plan
from .schema import Run, TrainingRun
from .store import Store
from .weights import trainee

MEASURED_STEPS = 3
MOST_MEASURED = 12
"""Configurations that are measured at most; the others are taken to be like these on the average."""


@dataclass(frozen=True)
class Prediction:
    """What is left of a study.

    Args:
        runs: of the study.
        done: of them.
        seconds: that the others take, one after another; None where nothing is known.
        memory_gib: the most that a process which performs them takes; None where nothing is known.
        basis: what it was found from, in words.
    """

    runs: int
    done: int
    seconds: float | None
    memory_gib: float | None
    basis: str


def predict_study(plan: Plan, store: Store) -> Prediction:
    """Predict time and memory of the runs that have no result.

    Runs that differ in nothing but their seed are taken to be alike. A few steps and a test of one batch stand for a run; the
    first step, which may compile, is left out.
    """
    finished = store.finished()
    missing = [run for id, run in plan.runs.items() if id not in finished]
    known = _known({id: run for id, run in plan.runs.items() if id in finished}, store)
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in missing:
        kinds[_kind(run)].append(run)
    seconds = {kind: known[kind][0] for kind in kinds if kind in known}
    memories = [known[kind][1] for kind in kinds if kind in known]
    unknown = [kind for kind in kinds if kind not in known and isinstance(kinds[kind][0], TrainingRun)]
    for kind in unknown[:MOST_MEASURED]:
        seconds[kind] = _measured(kinds[kind][0])  # type: ignore[arg-type]
        memories.append(peak_gib())
    mean = sum(seconds.values()) / len(seconds) if seconds else None
    total = None if mean is None else sum(seconds.get(kind, mean) * len(runs) for kind, runs in kinds.items())
    parts = [(len(kinds.keys() & known.keys()), "finished runs"), (len(unknown[:MOST_MEASURED]), "a few steps")]
    words = [f"{count} of {len(kinds)} configurations from {source}" for count, source in parts if count]
    return Prediction(len(plan.runs), len(plan.runs) - len(missing), total, max(memories, default=0.0) or None, ", ".join(words))


def _kind(run: Run) -> str:
    return content_hash(run.model_dump(mode="json", exclude={"seed"}))


def _known(finished: Mapping[str, Run], store: Store) -> dict[str, tuple[float, float]]:
    """The mean time of finished runs and the most memory, by kind; one that diverged says nothing."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for id, run in finished.items():
        record = store.record(id)
        if record["status"] == "done":
            found[_kind(run)].append((record["seconds"], record.get("memory_gib", 0.0)))
    return {kind: (fmean(seconds for seconds, _ in ended), max(memory for _, memory in ended)) for kind, ended in found.items()}


def _measured(run: TrainingRun) -> float:
    """The seconds that a training takes, from a few of its steps and a test of one batch."""
    task, data, size = tasks.build(run.task), tasks.data(run.task), run.task.batch_size
    steps = -(-len(data.train_inputs) // size)
    clocks = []
    with seeded(run.seed):
        model = initial_model(task, run.seed)
        make = partial(TORCH_OPTIMIZERS[run.optimizer.name], **run.optimizer.model_dump(exclude={"name"}))
        trained = trainee(model, run.quantizer, make, run.task.epochs * steps)
        drawn = (batch for epoch in count() for batch in batches(data, size, run.seed, epoch))
        given = list(islice(drawn, 1 + MEASURED_STEPS))
        with emulate(model, run.datapath, optimizer=trained.optimizer, seed=run.seed) as machine:
            for inputs, targets in given:
                clocks.append(time.perf_counter())
                trained.optimizer.zero_grad()
                machine.scale(task.loss(model(inputs), targets)).backward()  # type: ignore[no-untyped-call]
                trained.optimizer.step()
            clocks.append(time.perf_counter())
            predict(model, data.test_inputs[:size], size)
            tested = time.perf_counter() - clocks[-1]
    step = min(after - before for before, after in pairwise(clocks[1:]))
    return run.task.epochs * (steps * step + -(-len(data.test_inputs) // size) * tested)
