"""What is shown while a study runs: runs done, running and failed, and the time left."""

import io
import json
import re

import pytest
from rich.console import Console

from hwsim.studies import progress
from hwsim.studies.progress import Events, Live, Quiet
from hwsim.studies.worker import Finished

ENDED = (Finished("a", "done", 2.0), Finished("b", "diverged", 1.0), Finished("c", "failed", 0.5, "no [disk]"))


def test_events_count_what_ended_what_runs_and_what_is_left_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 110.0, 120.0, 130.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    with Events(lines.append).of(total=8, already=2, workers=2) as tell:
        for one in ENDED:
            tell(one)
    start, first, second, third, end = map(json.loads, lines)
    assert start == {"event": "start", "total": 8, "already": 2, "workers": 2}
    counts = {"done": 1, "diverged": 0, "failed": 0, "elsewhere": 0}
    assert first == {
        "event": "run",
        "id": "a",
        "status": "done",
        "seconds": 2.0,
        **counts,
        "running": 2,
        "left": 5,
        "seconds_left": 50.0,
    }
    assert (second["diverged"], second["left"], second["seconds_left"]) == (1, 4, 40.0)
    assert (third["error"], third["failed"], third["running"], third["left"]) == ("no [disk]", 1, 2, 3)
    assert end == {"event": "end", "done": 1, "diverged": 1, "failed": 1, "elsewhere": 0}


def test_the_live_line_has_the_same_in_words_and_tells_failures_as_they_come() -> None:
    shown = io.StringIO()
    with Live(Console(file=shown, force_terminal=True, width=120)).of(total=6, already=2, workers=2) as tell:
        for one in ENDED:
            tell(one)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.getvalue())
    assert "c: no [disk]" in text
    last = next(line for line in reversed(text.splitlines()) if "5/6" in line)
    for part in ("1 running", "1 diverged", "1 failed", "left"):
        assert part in last


def test_where_no_one_looks_only_failures_are_told() -> None:
    lines: list[str] = []
    with Quiet(lines.append).of(6, 2, 2) as tell:
        for one in ENDED:
            tell(one)
    assert lines == ["failed c: no [disk]"]
