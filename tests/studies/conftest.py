"""What the tests of studies share beside `study_cases`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from study_cases import Edit, Here, edited

from hwsim.studies import cli
from hwsim.studies.executors import executors


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the small study, with pieces of its text replaced, to a file."""

    def file(*edits: Edit) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(edited(*edits))
        return path

    return file


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[str, str]]:
    """The option of `hwsim run` that performs runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "executors", lambda: {**executors(), "here": Here})
        yield "--executor", "here"
