"""One text and one hash for each configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import pytest

from hwsim.config import Record, canonical, content_hash, loads, validate


class Order(Enum):
    FUSED = "fused"


@dataclass(frozen=True)
class Unit:
    bits: int
    name: str = field(default="", compare=False)


class Run(Record):
    lr: float
    seeds: tuple[int, ...] = (0,)
    unit: Unit = Unit(8, "int8")
    order: Order = Order.FUSED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "é"]}, '{"a":[true,null,"\\u00e9"],"b":1}'),
        ((1, (2.0,)), "[1,[2.0]]"),
        ([0.1, 1e-3, 1e22, 5e-324], "[0.1,0.001,1e+22,5e-324]"),
        ([0.0, -0.0], "[0.0,-0.0]"),
        ([math.nan, math.inf, -math.inf], "[NaN,Infinity,-Infinity]"),
        (Run(lr=1), '{"lr":1.0,"order":"fused","seeds":[0],"unit":{"bits":8}}'),
    ],
)
def test_canonical_text(value: object, text: str) -> None:
    assert canonical(value) == text


def test_the_hash_is_that_of_the_canonical_text() -> None:
    assert content_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("text", ["lr: 0.5\nseeds: [0]\n", "seeds: [0x0]\nlr: 5e-1\n", "lr: .5\n"])
def test_one_configuration_written_differently_has_one_hash(text: str) -> None:
    assert content_hash(validate(loads(text), Run)) == content_hash(Run(lr=0.5))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: "a"}, "canonical: got the key 1; allowed: text"),
        ({"a": {1}}, "canonical: got a set; allowed: data (mappings, lists, text, numbers) and records of it"),
    ],
)
def test_what_has_no_canonical_text_is_refused(value: object, message: str) -> None:
    with pytest.raises(TypeError) as refused:
        canonical(value)
    assert str(refused.value) == message
