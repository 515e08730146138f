"""kill -9 at any moment, of workers and of the parent: nothing finished is lost, and what resumes is as if uninterrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from study_cases import Edit, edited

from hwsim.studies.store import Store

TIMES = ("seconds", "started", "memory_gib", "command", "git_commit")
LONGER: Edit = ("epochs: 1, batch_size: 256, width: 4", "epochs: 4, batch_size: 128, width: 4")
OFTEN: Edit = ("  baseline: fp32\n", "  checkpoint: {steps: 5}\n  baseline: fp32\n")
STOCHASTIC: Edit = ("mine]}", "{name: x, vector: {format: bf16, rounding: stochastic}}]}")
Start = Callable[[Path], tuple[int, Callable[[], int]]]
"""Starts the study into a folder: the parent's number, and what waits for its end and says its exit code."""


@contextmanager
def forked(study: Path) -> Iterator[Start]:
    """Parents and workers are forks of a process that has imported everything."""
    template = [sys.executable, str(Path(__file__).parent / "kill_template.py"), str(study)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with subprocess.Popen(template, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, heard = process.stdin, process.stdout

        def start(folder: Path) -> tuple[int, Callable[[], int]]:
            said.write(f"{folder}\n")
            said.flush()
            return int(heard.readline()), lambda: int(heard.readline())

        yield start
        said.close()


@contextmanager
def commanded(study: Path) -> Iterator[Start]:
    """The command itself."""

    def start(folder: Path) -> tuple[int, Callable[[], int]]:
        command = [sys.executable, "-m", "hwsim.studies", "run", str(study), "--output", str(folder), "--workers", "2", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        process.stdout.readline()

        def ended() -> int:
            process.communicate()
            return process.returncode

        return process.pid, ended

    yield start


def members(session: int) -> list[int]:
    """The living processes of a session, but its leader."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z" and int(path.parent.name) != session:
                found.append(int(path.parent.name))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def contents(store: Store) -> dict[str, Any]:
    """Everything that a study stored, apart from times and who asked for it."""
    found: dict[str, Any] = {}
    for id in store.finished():
        record = {key: value for key, value in store.record(id).items() if key not in TIMES}
        found[id] = (record, {path.name: path.read_bytes() for path in (store.runs / id).glob("*.parquet")})
    return found


def checkpoints(store: Store) -> set[tuple[str, int]]:
    """The checkpoints that there are, with their times."""
    found = set()
    for path in (store.folder / "checkpoints").glob("[!.]*.pt"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def rounds(start: Start, folder: Path, count: int, seed: int) -> None:
    whole, killed, draw = Store(folder / "whole"), Store(folder / "killed"), random.Random(seed)
    began = time.monotonic()
    _, ended = start(whole.folder)
    assert ended() == 0
    lasts, expected = time.monotonic() - began, contents(whole)
    assert len(expected) == 4
    kept: dict[str, Any] = {}
    resumed = 0
    for turn in range(count):
        before = checkpoints(killed)
        parent, ended = start(killed.folder)
        if turn % 3 == 0:
            # In the middle of a run; the other rounds are killed at any time.
            deadline = time.monotonic() + lasts
            while checkpoints(killed) <= before and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.05))
        else:
            time.sleep(draw.uniform(0, lasts))
        if turn % 2 and (workers := members(parent)):
            kill(draw.choice(workers))
            time.sleep(draw.uniform(0, lasts / 4))
        kill(parent)
        ended()
        deadline = time.monotonic() + 60
        while members(parent) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert members(parent) == [], "workers outlive their parent"
        found = contents(killed)
        assert {id: found.get(id) for id in kept} == kept, "a finished run was lost or changed"
        for id, (record, tables) in found.items():
            assert record == expected[id][0], turn
            assert [name for name, table in tables.items() if table != expected[id][1][name]] == [], turn
        resumed += len(checkpoints(killed))
        kept = _emptied(killed) if len(found) == 4 else found
    _, ended = start(killed.folder)
    assert ended() == 0
    assert contents(killed) == expected
    assert resumed > 0, "no round was killed in the middle of a run"
    assert os.listdir(killed.folder / "checkpoints") == []
    assert os.listdir(killed.folder / "claims") == []


def _emptied(store: Store) -> dict[str, Any]:
    """Nothing is finished any more, so that the rounds to come have something to kill."""
    for id in store.finished():
        for file in (store.runs / id).iterdir():
            file.unlink()
        (store.runs / id).rmdir()
    return {}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(edited(LONGER, OFTEN, STOCHASTIC))
    return path


@pytest.mark.large
def test_three_rounds_of_kills(study: Path, tmp_path: Path) -> None:
    with forked(study) as start:
        rounds(start, tmp_path, 3, seed=1)


@pytest.mark.large
def test_thirty_rounds_of_kills(study: Path, tmp_path: Path) -> None:
    with forked(study) as start:
        rounds(start, tmp_path, 30, seed=2)


@pytest.mark.large
def test_rounds_of_kills_of_the_command(study: Path, tmp_path: Path) -> None:
    with commanded(study) as start:
        rounds(start, tmp_path, 4, seed=3)
