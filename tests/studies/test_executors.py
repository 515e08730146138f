"""Runs come back whatever happens to their workers, and workers end with whoever started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_cases import plan_of

from hwsim.errors import StudyError
from hwsim.studies.executors import Local, Needs, executors
from hwsim.studies.plan import Plan
from hwsim.studies.schema import Run
from hwsim.studies.worker import Finished

KILLED, ENDED = 1, 2


def work(run: Run) -> Finished:
    """Die in two ways, or say which seed was performed."""
    if run.seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.seed == ENDED:
        os._exit(3)
    return Finished(run.id, "done", seconds=float(run.seed))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(("grid: {datapath: [fp32, mine]}", "grid: {datapath: [fp32]}"), ("[0, 1]", "[1, 2, 3]"))


def test_a_dying_worker_fails_its_run_and_the_others_go_on(plan: Plan) -> None:
    results = {result.id: result for result in Local(2).map(work, list(plan.runs.values()))}
    by_seed = {run.seed: results[run.id] for run in plan.runs.values()}
    assert {seed: result.status for seed, result in by_seed.items()} == {KILLED: "failed", ENDED: "failed", 3: "done"}
    assert by_seed[KILLED].error == "the worker was killed by SIGKILL (out of memory?)"
    assert by_seed[ENDED].error == "the worker ended with exit code 3"


def test_no_worker_is_started_for_nothing() -> None:
    assert list(Local(2).map(work, [])) == []


def test_by_default_there_is_a_worker_for_each_core_of_this_process() -> None:
    assert Local().workers == len(os.sched_getaffinity(0))


def test_cores_are_not_shared_by_runs_of_several_threads() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Local(None, Needs(cpus=cores)).workers == 1
    assert Local(None, Needs(cpus=10 * cores)).workers == 1


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert Local(None, Needs(gpus=1)).workers == min(3, len(os.sched_getaffinity(0)))
    assert [Local(2, Needs(gpus=2))._gpus(place) for place in (0, 1)] == ["3,5", "7,3"]
    with pytest.raises(StudyError, match=r"resources.gpus: a run takes 4; allowed: at most 3"):
        Local(None, Needs(gpus=4))


def test_local_is_an_executor() -> None:
    assert executors()["local"](3, Needs()).workers == 3


STAYING = 5


def stay(run: Run) -> Finished:
    """Say which process this is; with one seed, stay."""
    if run.seed == STAYING:
        Path(os.environ["HWSIM_TEST_PID"]).write_text(str(os.getpid()))
        time.sleep(600)
    return Finished(run.id, "done")


def test_closing_the_results_ends_a_worker_in_the_middle_of_its_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWSIM_TEST_PID", str(tmp_path / "pid"))
    run = next(iter(plan.runs.values()))
    staying = run.model_copy(update={"seed": STAYING})
    results = Local(1).map(stay, [run, staying])
    assert next(results).status == "done"
    worker = _wait_for(tmp_path / "pid")
    results.close()
    assert not _alive(worker)


CHILD = """
import os, sys
sys.path.insert(0, {folder!r})
from study_cases import plan_of
from hwsim.errors import StudyError
from hwsim.studies.executors import Local
from test_executors import STAYING, stay

if __name__ == "__main__":
    run = next(iter(plan_of().runs.values())).model_copy(update={{"seed": STAYING}})
    list(Local(1).map(stay, [run]))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(folder=str(Path(__file__).parent)))
    environment = {**os.environ, "HWSIM_TEST_PID": str(tmp_path / "pid")}
    with subprocess.Popen([sys.executable, str(script)], env=environment, start_new_session=True) as parent:
        worker = _wait_for(tmp_path / "pid")
        parent.kill()
    deadline = time.monotonic() + 30
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def _wait_for(path: Path) -> int:
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(path.read_text())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
