"""An executor: it takes runs and hands back what came of each."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from hwsim.studies.executors import Needs, Work
from hwsim.studies.schema import Run
from hwsim.studies.worker import Finished


class Serial:
    """One run after another, in this process."""

    def __init__(self, workers: int | None = None, needs: Needs | None = None) -> None:
        self.workers = 1

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """Perform the runs; a failing one is told as such by `work` itself."""
        for run in runs:
            yield work(run)
