"""A run that takes more than it may is a failure that says so; what it prints is kept."""

import time
import warnings
from pathlib import Path

import pytest
import torch
from study_cases import plan_of

from hwsim.studies import worker
from hwsim.studies.choices import Resources
from hwsim.studies.limits import OverLimit, limited, resident_gib
from hwsim.studies.store import Store
from hwsim.studies.terms import Terms
from hwsim.studies.worker import perform


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


def test_a_block_over_its_time_ends_and_says_so() -> None:
    with pytest.raises(OverLimit, match=r"took more than the 0.1 seconds of resources.seconds"), limited(Resources(seconds=0.1)):
        spin(30)


def test_a_block_over_its_memory_ends_and_says_so() -> None:
    most = resident_gib() + 0.1

    def grow() -> None:
        kept = torch.ones(80 * 2**20)
        spin(30)
        del kept

    with pytest.raises(OverLimit, match=r"used \d.\d\d GiB, more than the"), limited(Resources(memory_gib=most)):
        grow()


def test_a_block_within_its_limits_is_left_alone() -> None:
    with limited(Resources(seconds=60, memory_gib=1000)):
        spin(0.2)
    with limited(Resources()):
        pass
    spin(0.2)


def test_a_run_over_its_time_fails_and_the_next_one_is_performed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = list(plan_of().runs.values())[:2]
    real = worker.train

    def slow(run: object, *rest: object) -> object:
        if run is first:
            spin(30)
        return real(run, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "train", slow)
    failed = perform(first, tmp_path, Terms(resources=Resources(seconds=0.2)))
    assert (failed.status, failed.error) == ("failed", "OverLimit: took more than the 0.2 seconds of resources.seconds")
    assert perform(second, tmp_path).status == "done"
    assert Store(tmp_path).failed().keys() == {first.id}


@pytest.mark.filterwarnings("default:careful")
def test_what_a_run_prints_and_warns_of_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(iter(plan_of().runs.values()))
    real = worker.train

    def talking(*arguments: object) -> object:
        print("a word from the model")
        warnings.warn("careful", stacklevel=1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "train", talking)
    perform(run, tmp_path)
    log = Store(tmp_path).log(run.id).read_text()
    assert capsys.readouterr().out == ""
    for text in ("starts as process", "a word from the model", "UserWarning: careful", "train_loss", "done"):
        assert text in log
