"""What a study of many tiny runs costs beside the runs: expanding it, handing them out, storing and reading them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hwsim.config import loads

from ..executors import Local
from ..files import StudyFile
from ..limits import resident_gib
from ..plan import expand
from ..progress import Tell
from ..report import load_report, write_page
from ..results import run_rows
from ..runner import run_study
from ..worker import Finished

RUNS = 1000
POINTS = 500


@dataclass(frozen=True)
class Line:
    """One thing that was measured: how much of it, and how much is promised at most."""

    what: str
    found: float
    unit: str
    most: float


@dataclass(frozen=True)
class Costs:
    """What so many runs cost."""

    runs: int
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        return asdict(self)

    def as_text(self) -> str:
        """A line a thing."""
        width = max(len(line.what) for line in self.lines)
        verdicts = ("holds" if line.found <= line.most else "missed" for line in self.lines)
        rows = zip(self.lines, verdicts, strict=True)
        return "\n".join(
            [f"a study of {self.runs:,} tiny runs, on one worker"]
            + [f"  {x.what:<{width}}  {x.found:8.2f} {x.unit} (at most {x.most:g}: {verdict})" for x, verdict in rows]
        )


def scheduling(rounds: int) -> Costs:
    """A study of 1,000 runs for each round."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(RUNS * rounds, Path(folder))


def measure(runs: int, folder: Path) -> Costs:
    """Perform a study of tiny runs in a folder, and read it.

    A run's time is what passes from the end of one to the end of the next, the little that it computes included; memory is what
    this process, which hands the runs out, gains from the first to the last of them. Runs are expanded as points of a grid.
    """
    noted = _Noted([])
    run_study(_tiny(runs), folder, Local(1), noted)
    (began, before), (ended, after) = noted.ends[0], noted.ends[-1]
    grid = _grid(runs)
    lines = (
        Line("a run, from end to end", (ended - began) / (runs - 1) * 1e3, "ms", 20),
        Line("memory gained", (after - before) * 1024, "MiB", 64),
        Line("expansion of a run", _seconds(partial(expand, grid)) / runs * 1e3, "ms", 1),
        Line("one run found by a condition", _seconds(partial(run_rows, folder, f"seed = {runs - 1}")), "s", 5),
        Line("report", _seconds(lambda: write_page(load_report(folder))), "s", 20),
    )
    return Costs(runs, lines)


@dataclass(frozen=True)
class _Noted:
    """Keeps when each run ended, and what memory this process held then."""

    ends: list[tuple[float, float]]

    @contextmanager
    def of(self, total: int, already: int, workers: int) -> Iterator[Tell]:
        """See `Progress.of`."""

        def tell(result: Finished) -> None:
            if result.status != "done":
                raise RuntimeError(f"{result.id}: {result.error}")
            self.ends.append((time.perf_counter(), resident_gib()))

        yield tell


def _tiny(runs: int) -> StudyFile:
    experiment = {"name": "spectral_distortion", "dimension": 2, "bases": ["identity"]}
    return _study({"name": "tiny", "experiment": experiment, "seeds": list(range(runs))})


def _grid(runs: int) -> StudyFile:
    rates = [round(0.001 * (i + 1), 3) for i in range(POINTS)]
    return _study(
        {
            "name": "grid",
            "task": {"name": "digits_mlp", "epochs": 1, "batch_size": 64},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "grid": {"datapath": ["fp32", "fp8_current"], "optimizer.lr": rates},
            "seeds": list(range(runs // (2 * POINTS))),
        }
    )


def _study(study: dict[str, Any]) -> StudyFile:
    return StudyFile.of(loads(json.dumps({"study": study}), "many.yaml"))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
