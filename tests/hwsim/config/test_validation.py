"""How a record's complaints read in the words of the file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from hwsim.config import Document, Record, explain, loads, validate
from hwsim.errors import ConfigError, FormatError, Problem


def _format(value: object) -> object:
    if isinstance(value, dict) and value.get("exponent_bits") == 99:
        raise FormatError("exponent_bits: got 99; allowed: a whole number from 1 to 11", "exponent_bits")
    if not isinstance(value, str):
        raise FormatError(f"format: got {value!r}; allowed: a name or a mapping")
    return value


def _known_task(name: str) -> str:
    if name == "bad":
        raise ConfigError(Problem("got 'bad'; allowed: digits", path="labels[0]"), Problem("broken", "task.yaml", 3))
    return name


class Fixed(Record):
    rule: Literal["fixed"]
    fixed: Annotated[float, Field(gt=0)]
    axis: int = 0


class Absmax(Record):
    rule: Literal["absmax"]
    window: Annotated[int, Field(ge=1, le=64)] = 1


class Chunked(Record):
    chunked: Annotated[int, Field(ge=1)]


class Fused(Record):
    terms: int
    lanes: int
    into: Annotated[str, Field(alias="as")] = "fp32"


class Cast(Record):
    format: Annotated[Any, BeforeValidator(_format)]
    scaling: Annotated[Fixed | Absmax, Field(discriminator="rule")] | None = None
    rounding: Literal["nearest_even", "stochastic"] = "nearest_even"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"format": data} if isinstance(data, str | int | float) else data


class Optimizer(Record):
    name: Literal["sgd", "adam"]
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False


class Study(Record):
    name: str
    optimizer: Optimizer
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    cast: Cast = Cast(format="fp32")
    order: Literal["sequential", "pairwise"] | Chunked | Fused = "sequential"
    overrides: dict[str, Cast | Literal["native"]] = Field(default={})
    ports: dict[Literal["input", "weight"], int] = Field(default={})
    tiles: tuple[tuple[int, int], ...] = ()
    task: Annotated[str, AfterValidator(_known_task)] = "digits"


VALID = """\
study:
  name: quickstart
  optimizer: {name: sgd, lr: 1e-3}
  seeds: [0, 1, 2]
  cast: {format: fp8, scaling: {rule: fixed, fixed: 2}}
  order: {chunked: 16}
  overrides:
    "head.*": {format: bf16}
    stem: native
  tiles: [[1, 2], [3, 4]]
"""

_OPTIMIZER = "f.yaml:3: study.optimizer"
CASES = {
    "text for a number": (
        "optimizer: {name: sgd, lr: '1e-3'}",
        f"{_OPTIMIZER}.lr: got '1e-3' (text); allowed: a number > 0; did you mean 1e-3 without quotes?",
    ),
    "word for a number": ("optimizer: {name: sgd, lr: high}", f"{_OPTIMIZER}.lr: got 'high' (text); allowed: a number > 0"),
    "nothing for a number": ("optimizer: {name: sgd, lr: }", f"{_OPTIMIZER}.lr: got null; allowed: a number > 0"),
    "out of range": (
        "optimizer: {name: sgd, lr: 1, momentum: 1.0}",
        f"{_OPTIMIZER}.momentum: got 1.0 (a floating-point number); allowed: a number >= 0 and < 1",
    ),
    "nan": (
        "optimizer: {name: sgd, lr: .nan}",
        f"{_OPTIMIZER}.lr: got .nan (a floating-point number); allowed: a finite number > 0",
    ),
    "infinity": (
        "optimizer: {name: sgd, lr: -.inf}",
        f"{_OPTIMIZER}.lr: got -.inf (a floating-point number); allowed: a finite number > 0",
    ),
    "truth value for a number": (
        "optimizer: {name: sgd, lr: true}",
        f"{_OPTIMIZER}.lr: got true (a truth value); allowed: a number > 0",
    ),
    "on for a truth value": (
        "optimizer: {name: sgd, lr: 1, nesterov: on}",
        f"{_OPTIMIZER}.nesterov: got 'on' (text); allowed: true or false; did you mean true?",
    ),
    "unknown key": (
        "optimizer: {name: sgd, lr: 1, momentun: 0}",
        f"{_OPTIMIZER}.momentun: unknown key; allowed: lr, momentum, name, nesterov; did you mean 'momentum'?",
    ),
    "missing key": ("optimizer: {name: sgd}", f"{_OPTIMIZER}.lr: missing; required keys: lr, name"),
    "unknown word": ("optimizer: {name: adm, lr: 1}", f"{_OPTIMIZER}.name: got 'adm'; allowed: adam, sgd; did you mean 'adam'?"),
    "number for a word": ("optimizer: {name: 3, lr: 1}", f"{_OPTIMIZER}.name: got 3 (a whole number); allowed: adam, sgd"),
    "list for a mapping": (
        "optimizer: [sgd]",
        f"{_OPTIMIZER}: got a list of 1; allowed: a mapping (lr, momentum, name, nesterov)",
    ),
    "number for text": (
        "name: 5e2",
        "f.yaml:3: study.name: got 500.0 (a floating-point number); allowed: text; quote it if it is a name",
    ),
    "truth value for a whole number": (
        "seeds: [0, true]",
        "f.yaml:3: study.seeds[1]: got true (a truth value); allowed: a whole number",
    ),
    "fraction for a whole number": (
        "seeds: [1.5]",
        "f.yaml:3: study.seeds[0]: got 1.5 (a floating-point number); allowed: a whole number",
    ),
    "empty list": ("seeds: []", "f.yaml:3: study.seeds: got a list of 0; allowed: a list of length >= 1"),
    "number for a list": ("seeds: 3", "f.yaml:3: study.seeds: got 3 (a whole number); allowed: a list of length >= 1"),
    "in a list of lists": (
        "tiles: [[1, 2],\n    [3, x]]",
        "f.yaml:4: study.tiles[1][1]: got 'x' (text); allowed: a whole number",
    ),
    "short pair": ("tiles: [[1]]", "f.yaml:3: study.tiles[0]: got a list of 1; allowed: a list of 2"),
    "unknown tag": (
        "cast: {format: fp8, scaling: {rule: absmx}}",
        "f.yaml:3: study.cast.scaling.rule: got 'absmx'; allowed: absmax, fixed; did you mean 'absmax'?",
    ),
    "no tag": ("cast: {format: fp8, scaling: {window: 2}}", "f.yaml:3: study.cast.scaling.rule: missing; allowed: absmax, fixed"),
    "word for a tagged mapping": (
        "cast: {format: fp8, scaling: absmax}",
        "f.yaml:3: study.cast.scaling: got 'absmax' (text); allowed: a mapping (rule, ...)",
    ),
    "key named like its tag": (
        "cast: {format: fp8, scaling: {rule: fixed, fixed: x}}",
        "f.yaml:3: study.cast.scaling.fixed: got 'x' (text); allowed: a number > 0",
    ),
    "key beside one named like the tag": (
        "cast: {format: fp8, scaling: {rule: fixed, fixed: 1, axis: x}}",
        "f.yaml:3: study.cast.scaling.axis: got 'x' (text); allowed: a whole number",
    ),
    "in the entered member of a union": (
        "order: {chunked: 0}",
        "f.yaml:3: study.order.chunked: got 0 (a whole number); allowed: a whole number >= 1",
    ),
    "in no member of a union": (
        "order: pairwize",
        "f.yaml:3: study.order: got 'pairwize'; allowed: pairwise, sequential, "
        "a mapping (chunked), a mapping (as, lanes, terms); did you mean 'pairwise'?",
    ),
    "wrong kind for a union": (
        "order: 3",
        "f.yaml:3: study.order: got 3 (a whole number); allowed: pairwise, sequential, "
        "a mapping (chunked), a mapping (as, lanes, terms)",
    ),
    "in the nearest member of a union": (
        "order: {terms: 1, lane: 2}",
        "f.yaml:3: study.order.lanes: missing; required keys: lanes, terms\n"
        "f.yaml:3: study.order.lane: unknown key; allowed: as, lanes, terms; did you mean 'lanes'?",
    ),
    "under another name": (
        "order: {terms: 1, lanes: 1, as: 2}",
        "f.yaml:3: study.order.as: got 2 (a whole number); allowed: text; quote it if it is a name",
    ),
    "in a validator's words or a word": (
        "overrides: {stem: 500}",
        "f.yaml:3: study.overrides.stem: format: got 500; allowed: a name or a mapping; or native",
    ),
    "one of a closed list of keys": (
        "ports: {wieght: 1}",
        "f.yaml:3: study.ports.wieght: got 'wieght'; allowed: input, weight; did you mean 'weight'?",
    ),
    "key with a dot": (
        'overrides: {"head.*": {format: fp8, roundng: stochastic}}',
        "f.yaml:3: study.overrides['head.*'].roundng: unknown key; allowed: format, rounding, scaling; did you mean 'rounding'?",
    ),
    "a format's own words": ("cast: {format: 500}", "f.yaml:3: study.cast.format: got 500; allowed: a name or a mapping"),
    "a format's field": (
        "cast:\n    format:\n      exponent_bits: 99",
        "f.yaml:5: study.cast.format.exponent_bits: got 99; allowed: a whole number from 1 to 11",
    ),
    "a shorthand": ("cast: 5e2", "f.yaml:3: study.cast: format: got 500.0; allowed: a name or a mapping"),
    "a validator's own problems": (
        "task: bad",
        "f.yaml:3: study.task.labels[0]: got 'bad'; allowed: digits\ntask.yaml:3: broken",
    ),
}


def _text(change: str) -> str:
    """A valid study whose first key on line 3 is the change."""
    base = {"name": "x", "optimizer": {"name": "sgd", "lr": 0.1}}
    base.pop(change.split(":")[0], None)
    rest = "".join(f"  {line}\n" for line in yaml.safe_dump(base).splitlines())
    return f"# a study\nstudy:\n  {change}\n{rest}"


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES.keys())
def test_a_wrong_value_is_refused_in_these_words(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(loads(_text(change), "f.yaml"), Study, ("study",))
    assert str(refused.value) == message


def test_a_valid_study_has_tuples_for_lists_and_floats_for_whole_numbers() -> None:
    study = validate(loads(VALID), Study, ("study",))
    assert study.seeds == (0, 1, 2)
    assert study.tiles == ((1, 2), (3, 4))
    assert study.optimizer.lr == 0.001
    assert study.cast.scaling == Fixed(rule="fixed", fixed=2.0)
    assert study.overrides["stem"] == "native"


def test_records_take_lists_from_python_and_cannot_be_changed() -> None:
    study = Study(name="x", optimizer=Optimizer(name="sgd", lr=1), tiles=[[1, 2]])  # type: ignore[arg-type]
    assert study.tiles == ((1, 2),)
    with pytest.raises(ValidationError):
        study.name = "y"  # type: ignore[misc]


def test_every_problem_is_reported_up_to_ten_and_a_count() -> None:
    text = "study:\n" + "".join(f"  k{n}: 1\n" for n in range(12)) + "  name: x\n  optimizer: {name: sgd}\n"
    with pytest.raises(ConfigError) as refused:
        validate(loads(text, "f.yaml"), Study, ("study",))
    lines = str(refused.value).splitlines()
    assert len(refused.value.problems) == 13
    assert [line.split(":")[1] for line in lines[:10]] == [str(n) for n in range(2, 12)]
    assert lines[10] == "... and 3 more"


def test_a_mapping_from_python_is_refused_in_the_same_words_without_a_line() -> None:
    with pytest.raises(ConfigError) as refused:
        validate(Document({"name": "sgd", "lr": -1}, "optimizer"), Optimizer)
    assert str(refused.value) == "optimizer: lr: got -1 (a whole number); allowed: a number > 0"


def test_types_that_are_no_records_are_validated_by_their_adapter() -> None:
    document = loads("a: [1, 2]\nb: [x]\n", "f.yaml")
    adapter = TypeAdapter(dict[str, tuple[int, ...]])
    with pytest.raises(ConfigError) as refused:
        validate(document, adapter)
    assert str(refused.value) == "f.yaml:2: b[0]: got 'x' (text); allowed: a whole number"
    assert validate(document, TypeAdapter(tuple[int, ...]), ("a",)) == (1, 2)


@dataclass
class Unit:
    lanes: int
    clock: float = 1.0
    area: float = field(default=0.0, init=False)


def test_the_keys_of_a_dataclass_are_known() -> None:
    document = loads("unit: {lnes: 3}\n", "f.yaml")
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Unit).validate_python(3)
    assert (
        str(explain(refused.value, document, ("unit",), model=Unit))
        == "f.yaml:1: unit: got 3 (a whole number); allowed: a mapping (clock, lanes)"
    )
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Unit).validate_python({})
    assert str(explain(refused.value, document, ("unit",), model=Unit)) == "f.yaml:1: unit.lanes: missing; required keys: lanes"


def _refusal(source: str | Document) -> ConfigError | None:
    try:
        validate(loads(source, "f.yaml") if isinstance(source, str) else source, Study, ("study",))
    except ConfigError as error:
        return error
    return None


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.text("ab:{}[]&*!<\"'|>-#%@`,?~01.e_\n\t \\\0é", max_size=6)),
        max_size=4,
    )
)
def test_a_mangled_file_is_read_or_refused_and_nothing_else(edits: list[tuple[int, int, str]]) -> None:
    text = VALID
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    error = _refusal(text)
    assert error is None or str(error).startswith("f.yaml")


ODD: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just([])
    | st.just({})
    | st.just([{"rule": "x"}])
)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_a_wrong_value_anywhere_is_reported_at_or_around_its_place(data: st.DataObject) -> None:
    valid = dict(loads(VALID).data)
    place = data.draw(st.sampled_from(_places(valid)[2:]))
    mangled = copy.deepcopy(valid)
    parent: Any = mangled
    for part in place[:-1]:
        parent = parent[part]
    parent[place[-1]] = data.draw(ODD)
    error = _refusal(Document(mangled, "f.yaml", lines={place[:n]: n for n in range(len(place) + 1)}))
    for problem in error.problems if error else ():
        assert problem.path.startswith("study.")
        assert problem.line >= len(place) - 1
