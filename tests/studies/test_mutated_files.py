"""Whatever is in a study file, its user gets a study or an error with its place, never a traceback."""

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_cases import TINY

from hwsim.config import loads
from hwsim.errors import ConfigError
from hwsim.studies.files import StudyFile
from hwsim.studies.plan import expand

FRAGMENTS = (
    *("true", "null", "~", "1e-3", "010", "0x1f", ".nan", ".inf", "-1", "3", "99999999999999999999", "32", "name", "fp32", "é"),
    *("[]", "{}", "[1, 2]", "{a: b}", "'", '"', "- ", "? ", ": ", ", ", "#", "|", ">", "%", "@", "`", "{", "}", "[", "]"),
    *("&a", "*a", "<<", "a: &a [*a]", "!!python/object:os.system", "!!binary aaaa", "---\n", "...\n"),
    *("\n", "\t", "\x00", "\r", "\u2028", "\ufeff", "\U0001f4a5"),
)  # fmt: skip


T = TypeVar("T")
Below = Callable[[int], int]
"""A whole number from 0 on, below the one that is given."""
MUTATIONS = ("put in", "cut", "replace", "repeat")


def mutated(below: Below) -> str:
    """The small study with words replaced, pieces cut out, lines repeated and fragments of YAML put in."""

    def one(things: Sequence[T]) -> T:
        return things[below(len(things))]

    text = TINY
    for _ in range(1 + below(5)):
        kind, place = one(MUTATIONS), below(len(text) + 1)
        if kind == "put in":
            text = text[:place] + one(FRAGMENTS) + text[place:]
        elif kind == "cut":
            text = text[:place] + text[place + 1 + below(12) :]
        elif kind == "replace" and (words := list(re.finditer(r"[\w.]+", text))):
            word = one(words)
            text = text[: word.start()] + one(FRAGMENTS) + text[word.end() :]
        else:
            lines = text.split("\n")
            lines.insert(below(len(lines) + 1), one(lines))
            text = "\n".join(lines)
    return text


def expands_or_is_refused(text: str) -> None:
    try:
        runs = expand(StudyFile.of(loads(text, "mutated.yaml"))).runs
    except ConfigError as refusal:
        places = [problem.file for problem in refusal.problems]
    else:
        places = ["mutated.yaml"] * bool(runs)
    assert set(places) == {"mutated.yaml"}


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """Texts that shrink to what matters in them."""
    return mutated(lambda end: draw(st.integers(0, end - 1)))


@settings(max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_a_mutated_file_is_a_study_or_an_error_with_its_place(text: str) -> None:
    expands_or_is_refused(text)


@pytest.mark.large
def test_ten_thousand_mutated_files_are_studies_or_errors() -> None:
    for seed in range(10_000):
        text = mutated(random.Random(seed).randrange)
        try:
            expands_or_is_refused(text)
        except Exception as error:
            pytest.fail(f"{error!r} of\n{text}")
