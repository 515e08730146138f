"""A full disk, a read-only folder, a killed worker, Ctrl-C, a second process: told as what they are, and the rest goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_cases import edited
from test_kills import kill, members

from hwsim.studies.store import Store

pytestmark = pytest.mark.large
LONG = ("epochs: 1, batch_size: 256, width: 4", "epochs: 30, batch_size: 64, width: 4")
COMMAND = [sys.executable, "-m", "hwsim.studies", "run"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(edited(LONG))
    return path


def start(study: Path, output: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, str(study), "--output", str(output), "--workers", "2", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def on_a_disk_of_its_own(script: str, folder: Path) -> str:
    """Run a script as the root of a namespace in which it may mount things; $DISK is a folder, $RUN the command."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here: nothing can be mounted")
    (folder / "disk").mkdir()
    environment = {**os.environ, "DISK": str(folder / "disk"), "RUN": " ".join(COMMAND), "STUDY": str(folder / "tiny.yaml")}
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    return done.stdout + done.stderr


def test_a_full_disk_fails_the_runs_that_it_has_no_room_for_and_the_next_call_performs_them(study: Path, tmp_path: Path) -> None:
    study.write_text(edited(("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")))
    printed = on_a_disk_of_its_own(
        """
        mount -t tmpfs -o size=200k tmpfs $DISK
        $RUN $STUDY --output $DISK/out --workers 1 --json; echo "first $?"
        ls -A $DISK/out/runs | grep -c '^\\.' ; ls $DISK/out/runs/*/run.json | wc -l
        mount -o remount,size=50m $DISK
        $RUN $STUDY --output $DISK/out --workers 1 --json; echo "second $?"
        ls $DISK/out/runs/*/run.json | wc -l
        """,
        tmp_path,
    )
    first, _, second = printed.partition("first 1\n")
    assert "No space left on device" in first, printed
    events = [json.loads(line) for line in first.splitlines() if line.startswith("{")]
    done = sum(event.get("status") == "done" for event in events if event["event"] == "run")
    assert 0 < done < 8
    assert second.startswith(f"0\n{done}\n"), "something half-written was left"
    again = [json.loads(line) for line in second.splitlines() if line.startswith("{")]
    assert again[0]["already"] == done
    assert sum(event["event"] == "run" for event in again) == 8 - done
    assert "second 0\n8\n" in second


def test_a_read_only_folder_is_told_as_such(study: Path, tmp_path: Path) -> None:
    printed = on_a_disk_of_its_own('mount -t tmpfs -o ro tmpfs $DISK; $RUN $STUDY --output $DISK/out; echo "ended $?"', tmp_path)
    assert "/disk/out: cannot be written to: Read-only file system" in printed
    assert "ended 1" in printed


def test_a_killed_worker_fails_its_run_and_the_next_call_performs_only_that(study: Path, tmp_path: Path) -> None:
    with start(study, tmp_path / "out") as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 300
        while not (running := Store(tmp_path / "out").running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        (victim, *_) = running
        holder = (tmp_path / "out" / "claims" / victim).read_text().split()[1]
        kill(int(holder))
        printed, errors = process.communicate()
    assert process.returncode == 1
    assert "1 runs failed; the same command tries them again" in errors
    events = [json.loads(line) for line in printed.splitlines()]
    failed = [event for event in events if event.get("status") == "failed"]
    assert [(event["id"], event["error"]) for event in failed] == [(victim, "the worker was killed by SIGKILL (out of memory?)")]
    assert sum(event.get("status") == "done" for event in events) == 3
    with start(study, tmp_path / "out") as process:
        printed, _ = process.communicate()
    events = [json.loads(line) for line in printed.splitlines()]
    assert process.returncode == 0
    assert [event["id"] for event in events if event["event"] == "run"] == [victim]


def test_ctrl_c_ends_everything_and_the_next_call_goes_on(study: Path, tmp_path: Path) -> None:
    with start(study, tmp_path / "out") as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted; finished runs are kept, and the same command goes on with the others" in errors
    assert "Traceback" not in errors
    assert members(process.pid) == []
    with start(study, tmp_path / "out") as process:
        process.communicate()
    assert process.returncode == 0
    assert len(Store(tmp_path / "out").finished()) == 4


def test_a_second_process_helps_and_no_run_is_performed_twice(study: Path, tmp_path: Path) -> None:
    with start(study, tmp_path / "out") as first, start(study, tmp_path / "out") as second:
        printed = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    events = [[json.loads(line) for line in text.splitlines()] for text in printed]
    done = [event["id"] for found in events for event in found if event.get("status") == "done"]
    assert len(done) == len(set(done)) == 4
    logs = [path.read_text() for path in (tmp_path / "out" / "logs").iterdir()]
    assert [text.count("starts as process") for text in logs] == [1] * 4
