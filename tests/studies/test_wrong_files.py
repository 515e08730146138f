"""Every wrong file is refused before anything runs: file, line, YAML path, what was given, what is allowed, nearest match."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from study_cases import Edit, edited, plan_of
from test_wrong_studies import WRONG
from wrong_files import CASTS, DATAPATHS, FORMATS, TRAININGS, YAML

from hwsim.errors import ConfigError

TABLE = [*FORMATS, *CASTS, *DATAPATHS, *TRAININGS, *YAML]


@pytest.mark.parametrize(("edit", "beginning"), TABLE, ids=lambda value: value if isinstance(value, str) else value[1])
def test_a_wrong_file_is_refused_with_its_place_and_what_is_allowed(edit: Edit, beginning: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_of(edit)
    assert str(refusal.value).startswith(beginning)


def test_the_table_has_more_than_a_hundred_and_twenty_files() -> None:
    assert len({edited(edit) for edit, _ in TABLE}) > 120
    assert len({edited(edit) for edit, _ in [*TABLE, *WRONG]}) > 200


LETTERS = "abcdefgh"
DOUBLED = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in pairwise(LETTERS))
BOMB = f"a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n{DOUBLED}".encode()
RAW = [
    (b"", "1: got an empty file; allowed: a mapping of keys to values"),
    (b"- study\n", "1: got a list of 1; allowed: a mapping of keys to values at the top level"),
    (b"study: \xff\n", "1: got byte 0xff, which is not UTF-8; allowed: UTF-8 text"),
    (BOMB, "more than 100000 nodes with its aliases expanded"),
    (b"a: " + b"[" * 60 + b"]" * 60 + b"\n", "1: nested deeper than 50 levels"),
    (b"# " + b"x" * (1 << 20) + b"\n", "got more than 1048576 bytes; allowed: 1048576 at most"),
    (b"study: {name: x}\nstudy: {name: y}\n", "2: study: duplicate key; first on line 1"),
    (b"{}\n", "1: got nothing; allowed: a file with study or datapath"),
    (b"3\n", "1: got 3 (a whole number); allowed: a mapping"),
]  # fmt: skip


def test_files_that_are_no_study_at_all_end_the_command_with_2_and_no_traceback(tmp_path: Path) -> None:
    paths = []
    for number, (text, _) in enumerate(RAW):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_bytes(text)
    command = [sys.executable, "-m", "hwsim.studies", "check", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    for path, (_, message) in zip(paths, RAW, strict=True):
        lines = [line for line in done.stderr.splitlines() if str(path) in line]
        assert any(message in line for line in lines), (message, lines)
