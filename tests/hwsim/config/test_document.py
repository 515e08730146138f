"""What the YAML layer reads, what it refuses, and in which words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hwsim.config import Document, load, loads
from hwsim.errors import ConfigError

SCALARS = [
    ("1e-3", 0.001),
    ("5e-4", 0.0005),
    ("1.0e3", 1000.0),
    ("1.0e-3", 0.001),
    ("5e2", 500.0),
    ("0.10", 0.1),
    (".5", 0.5),
    ("1.", 1.0),
    ("-7", -7),
    ("+7", 7),
    ("0", 0),
    ("-0", 0),
    ("0x1f", 31),
    ("0o17", 15),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("true", True),
    ("False", False),
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("off", "off"),
    ("1:30", "1:30"),
    ("2024-01-01", "2024-01-01"),
    ("e5m2", "e5m2"),
    ("1.2.3", "1.2.3"),
    ("2024_01_run", "2024_01_run"),
    ("_1", "_1"),
    ("~", None),
    ("null", None),
    ("", None),
    ("'010'", "010"),
    ('"1e-3"', "1e-3"),
    ("|-\n  1e-3", "1e-3"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_has_one_value(text: str, value: object) -> None:
    read = loads(f"x: {text}\n").data["x"]
    assert (read, type(read)) == (value, type(value))


def test_minus_zero_and_nan_are_read() -> None:
    data = loads("z: -0.0\nn: .nan\n").data
    assert math.copysign(1, data["z"]) == -1
    assert math.isnan(data["n"])


def test_words_of_yaml_1_1_are_text_as_keys_too() -> None:
    assert loads("on: 1\nyes: 2\nn: 3\n").data == {"on": 1, "yes": 2, "n": 3}


def test_merged_entries_give_way_to_own_ones_and_later_merges_to_earlier_ones() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd: {<<: *b}\n"
    assert loads(text).data["c"] == {"x": 3, "y": 1, "z": 2}
    assert loads(text).data["d"] == {"y": 2, "z": 2}


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert loads(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))

WRONG = {
    "duplicate key": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml:4: a.b: duplicate key; first on line 2"),
    "duplicate merge": ("x: &x {p: 1}\ny:\n  <<: *x\n  <<: *x\n", "f.yaml:4: y['<<']: duplicate key; first on line 3"),
    "merge of a word": ("y:\n  <<: x\n", "f.yaml:2: y['<<']: got no mapping to merge; allowed: a mapping, or a list of them"),
    "tab": ("a:\n\tb: 1\n", 'f.yaml:2: got a tab; allowed: spaces, and "\\t" inside quotes'),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2: got a second document; allowed: one document a file"),
    "custom tag": ("a: 1\nb: !thing {c: 1}\n", "f.yaml:2: got the tag !thing; allowed: no tags"),
    "python tag": (
        "a: !!python/object/apply:os.abort []\n",
        "f.yaml:1: got the tag !!python/object/apply:os.abort; allowed: no tags",
    ),
    "core tag": ("a: !!int '3'\n", "f.yaml:1: got the tag !!int; allowed: no tags"),
    "alias bomb": (BOMB, "f.yaml:1: more than 100000 nodes with its aliases expanded; allowed: 100000 at most"),
    "merge bomb": (MERGE_BOMB, "f.yaml:2: more than 100000 nodes with its aliases expanded; allowed: 100000 at most"),
    "alias of itself": ("a: &a\n  - *a\n", "f.yaml:1: nested deeper than 50 levels with its aliases expanded"),
    "merge of itself": ("a: &a\n  <<: *a\n", "f.yaml:2: nested deeper than 50 levels with its aliases expanded"),
    "unknown alias": ("a: *b\n", "f.yaml:1: not YAML: found undefined alias 'b'"),
    "deep": ("a: " + "[" * 60 + "]" * 60, "f.yaml:1: nested deeper than 50 levels"),
    "large": ("a: " + "x" * (1 << 20), "f.yaml: got more than 1048576 bytes; allowed: 1048576 at most"),
    "number as key": (
        "a:\n  5: x\n",
        "f.yaml:2: a: got 5 (a whole number) as a key; allowed: text (in quotes where it looks like something else)",
    ),
    "5e2 as key": (
        "5e2: x\n",
        "f.yaml:1: got 500.0 (a floating-point number) as a key; allowed: text (in quotes where it looks like something else)",
    ),
    "true as key": (
        "true: x\n",
        "f.yaml:1: got true (a truth value) as a key; allowed: text (in quotes where it looks like something else)",
    ),
    "null as key": ("~: x\n", "f.yaml:1: got null as a key; allowed: text (in quotes where it looks like something else)"),
    "list as key": (
        "? [a, b]\n: x\n",
        "f.yaml:1: got a list or mapping as a key; allowed: text (in quotes where it looks like something else)",
    ),
    "octal": ("a: [1, 010]\n", "f.yaml:1: a[1]: got 010, octal to some readers; allowed: 10, 0o... for octal, or '010' for text"),
    "underscore": ("a: 1_000\n", "f.yaml:1: a: got 1_000, a number with an underscore; allowed: 1000, or '1_000' for text"),
    "long number": ("a: " + "9" * 5000, "f.yaml:1: a: got a number of 5000 characters; allowed: 100 at most"),
    "empty": ("", "f.yaml:1: got an empty file; allowed: a mapping of keys to values"),
    "only a comment": ("# nothing\n", "f.yaml:1: got an empty file; allowed: a mapping of keys to values"),
    "top-level null": ("---\n", "f.yaml:2: got null; allowed: a mapping of keys to values at the top level"),
    "top-level list": ("- a\n- b\n", "f.yaml:1: got a list of 2; allowed: a mapping of keys to values at the top level"),
    "top-level text": ("hello\n", "f.yaml:1: got 'hello' (text); allowed: a mapping of keys to values at the top level"),
    "not UTF-8": (b"a: 1\nb: \xff\n", "f.yaml:2: got byte 0xff, which is not UTF-8; allowed: UTF-8 text"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "f.yaml:1: got byte 0xff, which is not UTF-8; allowed: UTF-8 text"),
    "control character": ("a: 1\nb: \x07\n", "f.yaml:2: got the control character 0x7; allowed: printable text"),
    "half a surrogate": ('a: "\\ud800"\n', "f.yaml:1: a: got half of a surrogate pair; allowed: whole characters"),
    "escape beyond Unicode": ('a: 1\nb: "\\UFFFFFFFF"\n', "f.yaml:2: got an escape beyond Unicode; allowed: up to \\U0010FFFF"),
    "open bracket": ("a: [1\nb: 2\n", "f.yaml:2: not YAML: while parsing a flow sequence: expected ',' or ']', but got ':'"),
    "two colons": ("a: b: c\n", "f.yaml:1: not YAML: mapping values are not allowed here"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_text_is_refused_in_these_words(text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(text, "f.yaml")
    assert str(refused.value) == message


def test_the_size_of_a_text_without_aliases_is_bounded_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsim.config.document.MAX_NODES", 10)
    assert loads("a: [1, 2, 3, 4, 5, 6, 7]\n").data
    with pytest.raises(ConfigError) as refused:
        loads("a: [1, 2, 3, 4, 5, 6, 7,\n 8, 9]\n", "f.yaml")
    assert str(refused.value) == "f.yaml:2: more than 10 nodes; allowed: 10 at most"


def test_all_problems_of_a_file_are_reported_in_the_order_of_its_lines() -> None:
    with pytest.raises(ConfigError) as refused:
        loads("a: 010\nb:\n  c: 1\n  c: 2\n7: x\n", "f.yaml")
    assert [(p.line, p.path) for p in refused.value.problems] == [(1, "a"), (4, "b.c"), (5, "")]


def test_a_file_is_read_under_the_name_it_was_given_by(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    document = load(file)
    assert (document.data, document.name, document.text) == ({"a": 1}, str(file), "a: 1\n")


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    missing = tmp_path / "quikstart.yaml"
    with pytest.raises(ConfigError) as refused:
        load(missing)
    assert str(refused.value) == f"{missing}: no such file; did you mean 'quickstart.yaml'?"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "got a folder; allowed: a YAML file"),
        ("none/study.yaml", "no such file"),
        ("file/study.yaml", "cannot be read: Not a directory"),
        ("a\0b", "cannot be read: embedded null byte"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / name)
    assert str(refused.value) == f"{tmp_path / name}: {message}"


LINED = """\
# a comment
study:
  name: |
    two
    lines
  grid:
    datapath:
      - bf16
      - {format: fp8,
         scale: 2}
    lr: [0.1,
         0.2]
  base: &base
    x: 1
  more:
    <<: *base
    y: 2
"""

LINES = [
    ((), 2),
    (("study",), 2),
    (("study", "name"), 3),
    (("study", "grid"), 6),
    (("study", "grid", "datapath"), 7),
    (("study", "grid", "datapath", 0), 8),
    (("study", "grid", "datapath", 1), 9),
    (("study", "grid", "datapath", 1, "format"), 9),
    (("study", "grid", "datapath", 1, "scale"), 10),
    (("study", "grid", "lr", 1), 12),
    (("study", "more"), 15),
    (("study", "more", "x"), 14),
    (("study", "more", "y"), 17),
    (("study", "grid", "absent", "deeper"), 6),
]


@pytest.mark.parametrize(("path", "line"), LINES)
def test_a_line_is_that_of_the_key_or_item_or_of_its_nearest_ancestor(path: tuple[str | int, ...], line: int) -> None:
    assert loads(LINED).line(path) == line


def test_a_missing_part_of_a_document_is_answered_with_the_nearest_key() -> None:
    document = loads("studdy:\n  name: x\n", "f.yaml")
    assert document.at(("studdy", "name")) == "x"
    with pytest.raises(ConfigError) as refused:
        document.at(("study", "name"))
    assert str(refused.value) == "f.yaml:1: study: missing; got a mapping (studdy); did you mean 'studdy'?"


def test_a_mapping_made_in_python_is_a_document_without_lines() -> None:
    document = Document({"a": [1]}, "datapath")
    assert str(document.problem(("a", 0), "wrong")) == "datapath: a[0]: wrong"
