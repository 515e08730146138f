"""Tasks on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..extras import needed
from ..needs import MODEST, Needs
from ..provenance import cores
from ..schema import Run
from ..worker import Finished
from .executor import Work, kept_busy


class Dask:
    """Tasks on the Dask cluster of DASK_SCHEDULER_ADDRESS, else on processes of this machine, started and ended with them."""

    def __init__(self, workers: int | None = None, needs: Needs = MODEST) -> None:
        self.distributed, self.needs = needed("distributed", "dask"), needs
        self.workers = workers or max(1, cores() // needs.cpus)

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`. A run is tried once: what its worker died of would kill the next worker too."""
        if not runs:
            return
        with needed("dask", "dask").config.set({"distributed.scheduler.allowed-failures": 0}), self._client() as client:

            def start(run: Run) -> Any:
                return client.submit(work, run, pure=False, retries=0, resources=self._resources())

            def ended(under_way: Mapping[Any, Run]) -> tuple[Any, Finished]:
                self.distributed.wait(list(under_way), return_when="FIRST_COMPLETED")
                future = next(future for future in under_way if future.done())
                if future.status == "finished":
                    return future, future.result()
                return future, Finished(under_way[future].id, "failed", error=f"the worker died: {future.exception()}")

            yield from kept_busy(runs, self.workers, start, ended)

    def _resources(self) -> dict[str, int]:
        """What a worker of the cluster must have free; a cluster's workers say so as `--resources GPU=1`."""
        return {"GPU": self.needs.gpus} if self.needs.gpus else {}

    @contextmanager
    def _client(self) -> Iterator[Any]:
        if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
            with self.distributed.Client(address) as client:
                yield client
            return
        local: dict[str, Any] = {"n_workers": self.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        local |= {"resources": self._resources()}
        with self.distributed.Client(**local) as client:
            yield client
            # A cluster that is closed while it replaces a dead worker never ends.
            client.wait_for_workers(self.workers)
