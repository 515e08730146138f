"""kill -9 at any moment, of workers and of the parent: nothing finished is lost, and what resumes is as if uninterrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from study_cases import edited

from hwsim.studies.store import Store

TIMES = ("seconds", "started", "command", "host")
TASK = "name: digits_mlp, epochs: 1, batch_size: 256, width: 4"
LONGER = (TASK, "name: digits_mlp, epochs: 12, batch_size: 128, width: 4")
OFTEN = ("  baseline: fp32\n", "  checkpoint: {steps: 10}\n  baseline: fp32\n")
STOCHASTIC = ("mine]}", "{name: x, vector: {format: bf16, rounding: stochastic}}]}")


def start(path: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hwsim.studies", "run", str(path), "--output", str(output), "--workers", "2", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def members(group: int) -> list[int]:
    """The living processes of a session, but its leader."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == group and state != "Z" and int(path.parent.name) != group:
            found.append(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def contents(store: Store) -> dict[str, Any]:
    """Everything that a study stored, apart from times."""
    found: dict[str, Any] = {}
    for id in store.finished():
        record = {key: value for key, value in store.record(id).items() if key not in TIMES}
        tables = {path.name: path.read_bytes() for path in (store.runs / id).glob("*.parquet")}
        found[id] = (record, tables)
    return found


def rounds(tmp_path: Path, count: int, seed: int) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(edited(LONGER, OFTEN, STOCHASTIC))
    whole, killed, draw = Store(tmp_path / "whole"), Store(tmp_path / "killed"), random.Random(seed)
    with start(path, whole.folder) as process:
        assert process.stdout is not None
        printed, began = process.stdout.readline(), time.monotonic()
        printed += process.communicate()[0]
        lasts = time.monotonic() - began
    assert process.returncode == 0, printed
    expected, kept, resumed = contents(whole), {}, 0
    assert len(expected) == 4
    for turn in range(count):
        with start(path, killed.folder) as process:
            # From the first line on, the study runs; some rounds are killed even before.
            if turn % 3:
                assert process.stdout is not None
                process.stdout.readline()
            time.sleep(draw.uniform(0, lasts))
            workers = members(process.pid)
            if turn % 2 and workers:
                kill(draw.choice(workers))
                time.sleep(draw.uniform(0, lasts / 4))
            kill(process.pid)
            deadline = time.monotonic() + 20
            while members(process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert members(process.pid) == [], "workers outlive their parent"
        found = contents(killed)
        assert {id: found[id] for id in kept} == kept, "a finished run was lost or changed"
        assert all(found[id] == expected[id] for id in found)
        resumed += len(list((killed.folder / "checkpoints").glob("[!.]*.pt")))
        kept = found if turn % 10 != 9 else _emptied(killed)
    with start(path, killed.folder) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert contents(killed) == expected
    assert resumed > 0, "no round was killed in the middle of a run"
    assert sorted(os.listdir(killed.folder / "checkpoints")) == sorted(os.listdir(killed.folder / "claims")) == []
    assert (whole.folder / "report.html").exists()
    assert (killed.folder / "report.html").exists()


def _emptied(store: Store) -> dict[str, Any]:
    """Nothing is finished any more, so that the rounds to come have something to kill."""
    for id in store.finished():
        for file in (store.runs / id).iterdir():
            file.unlink()
        (store.runs / id).rmdir()
    return {}


def test_three_rounds_of_kills(tmp_path: Path) -> None:
    rounds(tmp_path, 3, seed=1)


@pytest.mark.large
def test_thirty_rounds_of_kills(tmp_path: Path) -> None:
    rounds(tmp_path, 30, seed=2)
