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
from .provenance import Provenance
from .store import StorageError, Store
from .worker import Finished, perform


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


def run_study(file: StudyFile, folder: Path, executor: Executor, progress: Progress, *, update: bool = False) -> Summary:
    """Perform the runs of a study that have no result in its folder.

    Raises:
        ConfigError: the study cannot be run as it is; nothing has been written.
        StudyError: the folder is another study's.
        StorageError: it is in use, or cannot be written to.
    """
    plan, store, provenance = expand(file), Store(folder), Provenance.here()
    with store.locked():
        try:
            store.claim(plan, file.document.text, provenance.versions["hwsim"], update=update)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written to: {error.strerror}") from error
        finished = store.finished()
        missing = [run for id, run in plan.runs.items() if id not in finished]
        work = partial(perform, folder=folder.resolve(), provenance=provenance.as_dict())
        results: list[Finished] = []
        with progress.of(len(plan.runs), len(plan.runs) - len(missing), min(executor.workers, len(missing))) as tell:
            if missing:
                with closing(executor.map(work, missing)) as ended:
                    for result in ended:
                        results.append(result)
                        tell(result)
    return Summary(plan, folder, len(plan.runs) - len(missing), tuple(results))
