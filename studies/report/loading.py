"""Results of either kind, read back."""

from __future__ import annotations

from pathlib import Path

from ..store import Store
from .experiments import ExperimentReport, load_experiment
from .summary import Report, load_trainings


def load_report(folder: Path) -> Report | ExperimentReport:
    """Read a study's results.

    Raises:
        StudyError: the folder holds no study, or no finished run.
    """
    return load_experiment(folder) if "experiment" in Store(folder).index()["study"] else load_trainings(folder)
