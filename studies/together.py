"""One run over several processes of one machine, started by torchrun; this module is what each of them runs."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from .checkpoints import Checkpoints
from .ranks import Ranks
from .schema import TrainingRun
from .train import Outcome, Tell, train

PATIENCE = timedelta(minutes=10)
PR_SET_PDEATHSIG = 1
GIVEN = "given.pickle"


def train_together(run: TrainingRun, checkpoints: Checkpoints, tell: Tell) -> Outcome:
    """Train a run with `run.processes` processes that share each batch; rank 0's rows are told when all have ended.

    Raises:
        RuntimeError: a process failed; the text is the end of what they printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # As an object, since the names of formats and units, which the audit tells, are no part of a run's JSON.
        (folder / GIVEN).write_bytes(pickle.dumps((run, checkpoints)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(run.processes)]
        # The processes of torchrun end with it, and it ends with this one, however that ends.
        with subprocess.Popen(
            [*command, "-m", __name__, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(run.threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            preexec_fn=_end_with_parent,
        ) as started:
            try:
                printed, _ = started.communicate()
            except BaseException:
                started.terminate()
                raise
        found = sorted(folder.glob("outcome-*.json"))
        if not found:
            raise RuntimeError(f"the {run.processes} processes ended with exit code {started.returncode}\n{printed[-4000:]}")
        outcome = Outcome(**json.loads(found[0].read_text()))
    for row in outcome.metrics:
        tell(row)
    return outcome


def main(folder: Path) -> None:
    """One of the processes: rank 0, or any that diverged alone, writes what came of the run."""
    run, checkpoints = pickle.loads((folder / GIVEN).read_bytes())
    torch.set_num_threads(run.threads)
    dist.init_process_group("nccl" if run.device == "cuda" else "gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    outcome = train(run, checkpoints, ranks=ranks)
    if ranks.rank == 0 or outcome.status == "diverged":
        (folder / f"outcome-{ranks.rank}.json").write_text(json.dumps(asdict(outcome)))
    dist.destroy_process_group()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
