"""Tasks on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ..extras import needed
from ..needs import MODEST, Needs
from ..provenance import cores
from ..schema import Run
from ..worker import Finished
from .executor import Work, kept_busy


class Ray:
    """Tasks on the Ray cluster of RAY_ADDRESS, else on one of this machine that is started for them and ended with them."""

    def __init__(self, workers: int | None = None, needs: Needs = MODEST) -> None:
        self.ray, self.needs = needed("ray", "ray"), needs
        self.workers = workers or max(1, cores() // needs.cpus)

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`. A run takes the cluster's CPUs and GPUs that the study declares."""
        ray, own = self.ray, not self.ray.is_initialized()
        if own:
            self._connect()
        task = ray.remote(max_retries=0)(_call)
        refs: set[Any] = set()

        def start(run: Run) -> Any:
            ref = task.options(num_cpus=self.needs.cpus, num_gpus=self.needs.gpus).remote(work, run)
            refs.add(ref)
            return ref

        def ended(under_way: Mapping[Any, Run]) -> tuple[Any, Finished]:
            (ref,), _ = ray.wait(list(under_way), num_returns=1)
            refs.discard(ref)
            try:
                finished: Finished = ray.get(ref)
            except ray.exceptions.RayError as error:
                return ref, Finished(under_way[ref].id, "failed", error=f"the worker died: {error}")
            return ref, finished

        try:
            yield from kept_busy(runs, self.workers, start, ended)
        finally:
            for ref in refs:
                ray.cancel(ref, force=True)
            if own:
                ray.shutdown()

    def _connect(self) -> None:
        # Ray otherwise reports its use over the network.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if os.environ.get("RAY_ADDRESS"):
            self.ray.init(log_to_driver=False)
        else:
            self.ray.init(num_cpus=self.workers * self.needs.cpus, include_dashboard=False, log_to_driver=False)


def _call(work: Work, run: Run) -> Finished:
    return work(run)
