"""What the tests of studies share beside `study_cases`."""

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
from study_cases import Edit, edited

from hwsim.studies import cli
from hwsim.studies.executors import Needs, Work, executors
from hwsim.studies.schema import Run
from hwsim.studies.worker import Finished


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the small study, with pieces of its text replaced, to a file."""

    def file(*edits: Edit) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(edited(*edits))
        return path

    return file


class Here:
    """One run after another in this process: a fresh one takes seconds to import everything."""

    workers = 1

    def __init__(self, workers: int | None, needs: Needs) -> None:
        pass

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`."""
        yield from map(work, runs)


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[str, str]]:
    """The option of `hwsim run` that performs runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "executors", lambda: {**executors(), "here": Here})
        yield "--executor", "here"
