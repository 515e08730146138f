"""Run what a study still lacks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .executors import Executor
from .files import StudyFile
from .plan import Plan, expand
from .progress import Progress
from .provenance import origin, versions
from .store import Store
from .terms import Terms
from .worker import Finished, perform


@dataclass(frozen=True)
class Ask:
    """What a call asks for beside the study.

    Args:
        update: take over the folder of a changed study.
        sinks: where metrics go beside the results.
    """

    update: bool = False
    sinks: tuple[str, ...] = ()


ASK = Ask()


@dataclass(frozen=True)
class Summary:
    """What one call did for a study.

    Args:
        plan: of the study.
        folder: of its results.
        already: how many runs were finished before.
        finished: the runs of this call.
    """

    plan: Plan
    folder: Path
    already: int
    finished: tuple[Finished, ...]

    @property
    def failed(self) -> tuple[Finished, ...]:
        """The runs that have no result."""
        return tuple(run for run in self.finished if run.status == "failed")

    @property
    def elsewhere(self) -> tuple[Finished, ...]:
        """The runs that another process performs, or performed in the meantime."""
        return tuple(run for run in self.finished if run.status == "elsewhere")

    @property
    def done(self) -> int:
        """How many runs this call has given a result."""
        return len(self.finished) - len(self.failed) - len(self.elsewhere)


def run_study(file: StudyFile, folder: Path, executor: Executor, progress: Progress, ask: Ask = ASK) -> Summary:
    """Perform the runs of a study that have no result in its folder and that no other process performs.

    Raises:
        ConfigError: the study cannot be run as it is; nothing has been written.
        StudyError: the folder is another study's.
        StorageError: it cannot be written to.
    """
    plan, store = expand(file), Store(folder)
    store.open(plan, file.document.text, versions()["hwsim"], update=ask.update)
    finished = store.finished()
    missing = [run for id, run in plan.runs.items() if id not in finished]
    terms = Terms(plan.checkpoint, plan.study.resources, ask.sinks, origin())
    work = partial(perform, folder=folder.resolve(), terms=terms)
    results: list[Finished] = []
    with progress.of(len(plan.runs), len(plan.runs) - len(missing), min(executor.workers, len(missing))) as tell:
        if missing:
            with closing(executor.map(work, missing)) as ended:
                for result in ended:
                    results.append(result)
                    tell(result)
    return Summary(plan, folder, len(plan.runs) - len(missing), tuple(results))
