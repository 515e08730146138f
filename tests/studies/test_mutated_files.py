"""Whatever is in a study file, its user gets a study or an error with its place, never a traceback."""

import re

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


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The small study with words replaced, pieces cut out, lines repeated and fragments of YAML put in."""
    text = TINY
    for kind in draw(st.lists(st.sampled_from(("put in", "cut", "replace", "repeat")), min_size=1, max_size=5)):
        place = draw(st.integers(0, len(text)))
        if kind == "put in":
            text = text[:place] + draw(st.sampled_from(FRAGMENTS)) + text[place:]
        elif kind == "cut":
            text = text[:place] + text[place + draw(st.integers(1, 12)) :]
        elif kind == "replace" and (words := list(re.finditer(r"[\w.]+", text))):
            word = draw(st.sampled_from(words))
            text = text[: word.start()] + draw(st.sampled_from(FRAGMENTS)) + text[word.end() :]
        else:
            lines = text.split("\n")
            lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)))
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


quietly = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@settings(quietly, max_examples=300, derandomize=True)
@given(mutated())
def test_a_mutated_file_is_a_study_or_an_error_with_its_place(text: str) -> None:
    expands_or_is_refused(text)


@pytest.mark.large
@settings(quietly, max_examples=10_000)
@given(mutated())
def test_ten_thousand_mutated_files_are_studies_or_errors(text: str) -> None:
    expands_or_is_refused(text)
