"""What the tests of studies share beside `study_cases`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from study_cases import Edit, edited


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the small study, with pieces of its text replaced, to a file."""

    def file(*edits: Edit) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(edited(*edits))
        return path

    return file
