"""`hwsim bench`: what is measured runs, and ratios and promises are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hwsim.errors import ConfigError
from hwsim.studies import bench
from hwsim.studies.bench import Costs, Measurement, benchmark
from hwsim.studies.bench.formats import COMPARISONS, REFERENCE, cases
from hwsim.studies.bench.measurement import Case, measured
from hwsim.studies.bench.scheduling import Line, measure
from hwsim.studies.cli import app
from hwsim.studies.results import run_rows

FOUND = Measurement(
    "rounding", "x * c", 0.01, {"x * c": 1.0, "fast": 1.1, "late": 3.0}, {"fast": 1.2, "late": 2.5}, (("fast", "late", 2.0),)
)


def test_every_case_of_the_formats_runs() -> None:
    found = cases(torch.randn(1 << 12, generator=torch.Generator().manual_seed(0)))
    for case in found.values():
        case.run()
    assert REFERENCE in found
    assert {first for first, _, _ in COMPARISONS} <= set(found)


def test_ratios_are_medians_of_pairs_and_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("hwsim.studies.bench.measurement.time.perf_counter", lambda: clock[0])

    def takes(*times: float) -> Callable[[], None]:
        left = iter(times)

        def run() -> None:
            clock[0] += next(left)

        return run

    found = measured("t", "a", {"a": Case(takes(9, 2, 4, 5)), "b": Case(takes(9, 2, 16, 5), 1.5, size=0.5)}, 3)
    assert (found.seconds, found.ratios, found.targets) == (4, {"a": 1, "b": 2}, {"b": 1.5})


def test_promises_are_told_as_kept_or_missed() -> None:
    text = FOUND.as_text()
    assert "fast       1.10  (at most 1.2: holds)" in text
    assert "late       3.00  (at most 2.5: missed)" in text
    assert "fast is 2.7 x as fast as late (at least 2: holds)" in text


@pytest.mark.large
def test_ten_thousand_runs_are_performed_listed_and_reported_in_flat_memory(tmp_path: Path) -> None:
    found = measure(10_000, tmp_path)
    assert len(run_rows(tmp_path, "status = 'done'")) == 10_000
    assert (tmp_path / "report.html").exists()
    assert {line.what: line.found for line in found.lines}["memory gained"] < 64


def test_the_costs_of_many_runs_are_told_with_what_is_promised() -> None:
    text = Costs(3000, (Line("a run, from end to end", 21.0, "ms", 20), Line("memory gained", 0.5, "MiB", 64))).as_text()
    assert text.splitlines() == [
        "a study of 3,000 tiny runs, on one worker",
        "  a run, from end to end     21.00 ms (at most 20: missed)",
        "  memory gained               0.50 MiB (at most 64: holds)",
    ]


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BENCHMARKS", {"formats": lambda rounds: FOUND})
    shown = json.loads(CliRunner().invoke(app, ["bench", "formats", "--json"]).stdout)
    assert shown["cases"]["late"] == {"ratio": 3.0, "target": 2.5}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bench: got 'format'.*did you mean 'formats'"):
        benchmark("format")
