"""Jobs of a SLURM cluster, submitted by submitit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import needed
from ..needs import MODEST, Needs
from ..provenance import cores
from ..schema import Run
from ..worker import Finished
from .executor import Work, kept_busy

JOBS = 64
DAY = 24 * 60
"""Minutes."""
POLL = 0.2
LOGS = ".submitit"


class Slurm:
    """One SLURM job a run, at most 64 at a time by default; where there is no SLURM, submitit's local jobs, one a core.

    What a job needs beside what the study declares (and a day of time) is said as sbatch reads it, in SBATCH_PARTITION,
    SBATCH_ACCOUNT and the like. Jobs and their logs are kept in `.submitit` under the working directory, which all nodes must
    see.
    """

    def __init__(self, workers: int | None = None, needs: Needs = MODEST) -> None:
        self.submitit, self.needs = needed("submitit", "slurm"), needs
        self.workers = workers or (JOBS if shutil.which("srun") else max(1, cores() // needs.cpus))

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`."""
        jobs: set[Any] = set()

        def start(run: Run) -> Any:
            executor = self.submitit.AutoExecutor(folder=Path(LOGS).resolve())
            executor.update_parameters(name=f"hwsim-{run.id}", **self._parameters())
            job = executor.submit(work, run)
            jobs.add(job)
            return job

        def ended(under_way: Mapping[Any, Run]) -> tuple[Any, Finished]:
            while not (done := [job for job in under_way if job.done()]):
                time.sleep(POLL)
            job = done[0]
            jobs.discard(job)
            try:
                finished: Finished = job.result()
            except (self.submitit.core.utils.FailedJobError, self.submitit.core.utils.UncompletedJobError) as error:
                reason = str(error).strip().splitlines()[0]
                return job, Finished(under_way[job].id, "failed", error=f"the job ended without a result: {reason}")
            return job, finished

        try:
            yield from kept_busy(runs, self.workers, start, ended)
        finally:
            for job in jobs:
                job.cancel()

    def _parameters(self) -> dict[str, Any]:
        """What a job asks for: a little more time and memory than the run's limits, which tell what went over."""
        needs = self.needs
        minutes = DAY if needs.seconds is None else 5 + int(needs.seconds / 60)
        asked: dict[str, Any] = {"cpus_per_task": needs.cpus, "timeout_min": minutes}
        asked |= {"gpus_per_node": needs.gpus} if needs.gpus else {}
        return asked | ({"mem_gb": needs.memory_gib + 1} if needs.memory_gib is not None else {})
