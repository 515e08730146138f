"""Executors on other engines: real clusters of two workers on this machine, one of which is killed on the way."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from study_cases import Edit, plan_of, study_of
from test_kills import TIMES

from hwsim.errors import StudyError
from hwsim.studies.executors import Executor, Local, Needs, executors
from hwsim.studies.extras import needed
from hwsim.studies.plan import Plan
from hwsim.studies.progress import Quiet
from hwsim.studies.runner import run_study
from hwsim.studies.schema import Run
from hwsim.studies.worker import Finished

KILLED = 1
ENGINES = ("ray", "dask", "slurm")
STOCHASTIC: Edit = ("mine]}", "{name: x, vector: {format: bf16, rounding: stochastic}}]}")

# Their own sockets and files are left to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def work(run: Run) -> Finished:
    """Die with one seed; say which process performed the others."""
    if run.seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    return Finished(run.id, "done", seconds=float(run.seed), error=str(os.getpid()))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(("grid: {datapath: [fp32, mine]}", "grid: {datapath: [fp32]}"), ("[0, 1]", "[0, 1, 2]"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    pytest.importorskip({"slurm": "submitit", "dask": "distributed"}.get(request.param, request.param))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    return executors()[request.param](2, Needs())


@pytest.mark.large
def test_a_killed_worker_fails_its_run_and_the_others_go_on_elsewhere(engine: Executor, plan: Plan) -> None:
    runs = list(plan.runs.values())
    results = {result.id: result for result in engine.map(work, runs)}
    by_seed = {run.seed: results[run.id] for run in runs}
    assert {seed: result.status for seed, result in by_seed.items()} == {0: "done", 1: "failed", 2: "done"}
    assert by_seed[KILLED].error
    assert all(result.error != str(os.getpid()) for result in results.values())


def stored(executor: Executor, folder: Path) -> dict[str, bytes]:
    """What a study's runs store on an executor: their tables, and the rest of what is no time."""
    summary = run_study(study_of(STOCHASTIC), folder, executor, Quiet(print))
    assert (summary.done, len(summary.plan.runs)) == (4, 4)
    found = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.glob("runs/*/*.parquet")}
    for path in folder.glob("runs/*/run.json"):
        record = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        found[path.parent.name] = json.dumps(record).encode()
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return stored(Local(1), tmp_path_factory.mktemp("one") / "out")


@pytest.mark.large
def test_a_study_stores_the_same_bytes_on_every_engine(engine: Executor, expected: dict[str, bytes], tmp_path: Path) -> None:
    assert len(expected) == 4 * 4
    assert stored(engine, tmp_path / "out") == expected


@pytest.mark.large
def test_and_on_any_number_of_workers(expected: dict[str, bytes], tmp_path: Path) -> None:
    assert stored(Local(3), tmp_path / "out") == expected


def test_an_engine_that_is_not_installed_is_said_with_what_installs_it() -> None:
    with pytest.raises(StudyError, match=r"ray: no_such_engine is not installed; allowed with it: pip install 'hwsim"):
        needed("no_such_engine", "ray")
