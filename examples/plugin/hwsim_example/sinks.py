"""A sink: it is shown the metrics of each epoch while a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwsim.studies.schema import TrainingRun


class Lines:
    """A line of JSON an epoch, in `lines/ID.jsonl` of the study's folder."""

    def __init__(self, run: TrainingRun, folder: Path) -> None:
        (folder / "lines").mkdir(exist_ok=True)
        self.file = (folder / "lines" / f"{run.id}.jsonl").open("a")

    def row(self, row: Mapping[str, Any]) -> None:
        """An epoch has ended."""
        self.file.write(json.dumps(dict(row)) + "\n")

    def close(self) -> None:
        """The run has ended."""
        self.file.close()
