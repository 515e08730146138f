"""The error records themselves."""

from __future__ import annotations

import pickle

import pytest

from hwsim.errors import ConfigError, HwsimError, Problem, StudyError


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("wrong", "f.yaml", 12, "study.lr"), "f.yaml:12: study.lr: wrong"),
        (Problem("wrong", "f.yaml", 12), "f.yaml:12: wrong"),
        (Problem("wrong", "f.yaml"), "f.yaml: wrong"),
        (Problem("wrong", path="study.lr"), "study.lr: wrong"),
        ("wrong", "wrong"),
    ],
)
def test_the_text_of_an_error_names_what_is_known_of_its_place(problem: Problem | str, text: str) -> None:
    assert str(ConfigError(problem)) == text


def test_an_error_speaks_for_its_first_problem_and_survives_a_process_boundary() -> None:
    error = ConfigError(Problem("one", "f.yaml", 3, "a.b"), Problem("two", "f.yaml", 4, "c"))
    again = pickle.loads(pickle.dumps(error))
    assert (again.file, again.line, again.path, again.message) == ("f.yaml", 3, "a.b", "one")
    assert str(again) == "f.yaml:3: a.b: one\nf.yaml:4: c: two"


def test_errors_are_caught_as_what_they_are() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, HwsimError)
    assert issubclass(StudyError, HwsimError)
