"""Results are there as a whole or not at all, and a folder belongs to one study."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from study_cases import Edit, plan_of

from hwsim.errors import StudyError
from hwsim.studies import claims, disk
from hwsim.studies import store as store_module
from hwsim.studies.claims import Claimed
from hwsim.studies.disk import write_file
from hwsim.studies.store import StorageError, Store

TABLES = {"metrics": pa.table({"id": ["a1"], "epoch": [0]})}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def claim(store: Store, *edits: Edit, version: str = "1", update: bool = False) -> None:
    store.open(plan_of(*edits), "study: ...", version, update=update)


def test_a_saved_run_is_finished_and_can_be_read_back(store: Store) -> None:
    store.save("a1", {"status": "done"}, TABLES)
    assert store.finished() == {"a1"}
    assert store.record("a1") == {"status": "done"}
    assert sorted(os.listdir(store.runs / "a1")) == ["metrics.parquet", "run.json"]


@pytest.mark.parametrize("step", ["store pq.write_table", "disk sync", "disk os.rename"])
def test_a_failure_at_any_step_leaves_no_half_run(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    module, name = step.split()
    owner = {"store": store_module, "disk": disk}[module]
    if "." in name:
        monkeypatch.setattr(owner, name.partition(".")[0], _Broken(owner, name, fail))
    else:
        monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="No space left"):
        store.save("a1", {}, TABLES)
    assert store.finished() == set()
    assert os.listdir(store.runs) == []


class _Broken:
    """A module of which one function fails."""

    def __init__(self, owner: object, step: str, fail: object) -> None:
        name, _, function = step.partition(".")
        self._real = getattr(owner, name)
        self._function, self._fail = function, fail

    def __getattr__(self, name: str) -> object:
        return self._fail if name == self._function else getattr(self._real, name)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.json"
    write_file(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["study.json"]


def test_what_a_killed_process_left_is_no_result_and_is_swept_away(store: Store) -> None:
    store.save("a1", {}, TABLES)
    for id in ("b2", "c3"):
        (store.runs / f".{id}.x7").mkdir()
        (store.runs / f".{id}.x7" / "run.json").write_text("{")
    (store.folder / "claims").mkdir(exist_ok=True)
    (store.folder / "claims" / "d4").write_text("process 1 on a dead machine")
    assert store.finished() == {"a1"}
    with store.claimed("c3"):
        claim(store)
        assert sorted(os.listdir(store.runs)) == [".c3.x7", "a1"]
        assert store.running() == {"c3"}
    claim(store)
    assert os.listdir(store.runs) == ["a1"]
    assert os.listdir(store.folder / "claims") == []


def test_what_a_process_killed_right_after_it_stored_a_result_left_is_swept_away(store: Store) -> None:
    store.save("a1", {}, TABLES)
    for id in ("a1", "b2"):
        store.save_failure(id, {"error": "killed"})
        store.checkpoint(id).parent.mkdir(exist_ok=True)
        store.checkpoint(id).write_text("how far it came")
    claim(store)
    assert set(store.failed()) == {"b2"}
    assert os.listdir(store.folder / "checkpoints") == ["b2.pt"]


def test_the_first_of_two_equal_results_stays(store: Store) -> None:
    store.save("a1", {"host": "first"}, TABLES)
    store.save("a1", {"host": "second"}, TABLES)
    assert store.record("a1") == {"host": "first"}
    assert os.listdir(store.runs) == ["a1"]


def test_a_result_takes_the_place_of_a_failure(store: Store) -> None:
    store.save_failure("a1", {"error": "killed"})
    assert store.failed() == {"a1": {"error": "killed"}}
    store.save("a1", {}, TABLES)
    assert store.failed() == {}


def test_the_same_study_may_claim_its_folder_again(store: Store) -> None:
    claim(store)
    claim(store, ("Every operand", "Each operand"))
    assert store.index()["study"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("edit", "difference"),
    [
        (("seeds: [0, 1]", "seeds: [0, 1, 2]"), "study.seeds: [0, 1] in the folder, [0, 1, 2] now"),
        (("lr: 0.1", "lr: 0.2"), "study.optimizer.lr: 0.1 in the folder, 0.2 now"),
        (
            ("mantissa_bits: 2", "mantissa_bits: 3"),
            "machines.mine.gemm.output.input.format.mantissa_bits: 2 in the folder, 3 now",
        ),
    ],
)
def test_another_study_is_refused_with_the_difference(store: Store, edit: Edit, difference: str) -> None:
    claim(store)
    before = (store.folder / "study.json").read_text()
    with pytest.raises(StudyError) as refusal:
        claim(store, edit)
    assert difference in str(refusal.value)
    assert "allowed: another --output, or --update" in str(refusal.value)
    assert (store.folder / "study.json").read_text() == before


def test_another_version_is_refused(store: Store) -> None:
    claim(store)
    with pytest.raises(StudyError, match='hwsim: "1" in the folder, "2" now'):
        claim(store, version="2")


def test_an_update_takes_the_folder_over_and_keeps_the_runs(store: Store) -> None:
    claim(store)
    store.save("a1", {}, TABLES)
    claim(store, ("seeds: [0, 1]", "seeds: [0, 1, 2]"), update=True)
    assert json.loads((store.folder / "study.json").read_text())["study"]["seeds"] == [0, 1, 2]
    assert store.finished() == {"a1"}


def test_a_run_is_one_process_at_a_time_and_free_again_afterwards(store: Store) -> None:
    with store.claimed("a1"):
        with pytest.raises(Claimed, match=rf"process {os.getpid()} on "), store.claimed("a1"):
            pass
        with store.claimed("b2"):
            pass
    with store.claimed("a1"):
        assert store.running() == {"a1"}
    assert store.running() == set()


CLAIMANT = """
import runpy, sys, time
from pathlib import Path
claim = runpy.run_path(sys.argv[2])["claim"]  # Without the package, which takes seconds to import.
with claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_claims_nothing(store: Store) -> None:
    path = store.folder / "claims" / "a1"
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMANT, str(path), claims.__file__], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        assert store.running() == {"a1"}
        with pytest.raises(Claimed, match=f"process {process.pid} on"), store.claimed("a1"):
            pass
        process.kill()
    assert path.exists()
    assert store.running() == set()
    with store.claimed("a1"):
        assert store.running() == {"a1"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to: Not a directory"):
        claim(Store(tmp_path / "file" / "x"))


def test_a_folder_without_a_study_is_refused(store: Store) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        store.index()
