"""Processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

import torch

from hwsim.errors import StudyError

from ..needs import MODEST, Needs
from ..provenance import cores
from ..schema import Run
from ..worker import Finished
from .executor import Work


class Local:
    """Processes of this machine, one run at a time each; they end with the process that started them."""

    def __init__(self, workers: int | None = None, needs: Needs = MODEST) -> None:
        self.needs = needs
        if needs.gpus > (there := len(_devices())):
            raise StudyError(f"resources.gpus: a run takes {needs.gpus}; allowed: at most {there}, which torch finds here")
        places = [cores() // needs.cpus, *([len(_devices()) // needs.gpus] if needs.gpus else [])]
        self.workers = workers or max(1, min(places))

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`."""
        waiting = deque(runs)
        pool = [_Worker(work, self._gpus(place)) for place in range(min(self.workers, len(runs)))]
        try:
            for worker in pool:
                worker.give(waiting.popleft())
            while busy := [worker for worker in pool if worker.run]:
                ready = wait([worker.pipe for worker in busy])
                for worker in busy:
                    if worker.pipe not in ready:
                        continue
                    finished, alive = worker.take()
                    if not alive:
                        pool.remove(worker)
                        if waiting:
                            worker = _Worker(work, worker.gpus)
                            pool.append(worker)
                    if waiting:
                        worker.give(waiting.popleft())
                    yield finished
        finally:
            for worker in pool:
                worker.end()

    def _gpus(self, place: int) -> str:
        """The devices that the worker at a place sees; those of this process where runs take none."""
        if not self.needs.gpus:
            return os.environ.get("CUDA_VISIBLE_DEVICES", "")
        found = _devices()
        return ",".join(found[(place * self.needs.gpus + i) % len(found)] for i in range(self.needs.gpus))


class _Worker:
    """A process, the parent's end of its pipe, and the run it is at."""

    # Fresh interpreters: copies of a process with threads can hang, and copies of one that has only imported torch (a fork
    # server) train many times slower.
    context = multiprocessing.get_context("spawn")

    def __init__(self, work: Work, gpus: str) -> None:
        self.gpus = gpus
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(theirs, work, gpus), daemon=True)
        self.run: Run | None = None
        # Ctrl-C reaches the whole process group; the parent decides what it means, and a worker that is still importing is not
        # to say that it was interrupted. The new process inherits the mask; the tracker would lift it in this one.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, run: Run) -> None:
        """Start a run. A worker that has died says so in `take`."""
        self.run = run
        with suppress(BrokenPipeError):
            self.pipe.send(run)

    def take(self) -> tuple[Finished, bool]:
        """What came of the run, and whether the worker lives on."""
        if self.run is None:
            raise RuntimeError("take: the worker has no run")
        run, self.run = self.run, None
        try:
            finished: Finished = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Finished(run.id, "failed", error=_death(self.process.exitcode)), False
        return finished, True

    def end(self) -> None:
        """End the process, whatever it is doing; half-written results are under names that nobody reads."""
        if self.run is not None:
            self.process.terminate()
        with suppress(BrokenPipeError):
            self.pipe.send(None)
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, work: Work, gpus: str) -> None:
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        while (run := pipe.recv()) is not None:
            pipe.send(work(run))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(device) for device in range(torch.cuda.device_count())]


def _death(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"the worker ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"the worker was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
