"""Results are there as a whole or not at all, and a folder belongs to one study."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from study_cases import Edit, plan_of

from hwsim.errors import StudyError
from hwsim.studies import store as module
from hwsim.studies.store import StorageError, Store, write_file

TABLES = {"metrics": pa.table({"id": ["a1"], "epoch": [0]})}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def claim(store: Store, *edits: Edit, version: str = "1", update: bool = False) -> None:
    store.claim(plan_of(*edits), "study: ...", version, update=update)


def test_a_saved_run_is_finished_and_can_be_read_back(store: Store) -> None:
    store.save("a1", {"status": "done"}, TABLES)
    assert store.finished() == {"a1"}
    assert store.record("a1") == {"status": "done"}
    assert sorted(os.listdir(store.runs / "a1")) == ["metrics.parquet", "run.json"]


@pytest.mark.parametrize("step", ["pq.write_table", "_sync", "os.rename"])
def test_a_failure_at_any_step_leaves_no_half_run(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, step.partition(".")[0], _Broken(module, step, fail)) if "." in step else monkeypatch.setattr(
        module, step, fail
    )
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

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["study.json"]


def test_what_a_killed_process_left_is_no_result_and_is_swept_away(store: Store) -> None:
    store.save("a1", {}, TABLES)
    half = store.runs / ".b2.x7"
    half.mkdir()
    (half / "run.json").write_text("{")
    assert store.finished() == {"a1"}
    with store.locked():
        assert os.listdir(store.runs) == ["a1"]


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
        (("mantissa_bits: 2", "mantissa_bits: 3"), "what its formats, units or datapaths are"),
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


def test_a_folder_in_use_is_refused_and_free_again_afterwards(store: Store) -> None:
    with store.locked(), pytest.raises(StorageError, match="another process is running this study"), Store(store.folder).locked():
        pass
    with store.locked():
        pass


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to: Not a directory"), Store(tmp_path / "file" / "x").locked():
        pass


def test_a_folder_without_a_study_is_refused(store: Store) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        store.index()
