"""The random words: Philox itself, its counters, and that every implementation gives the same."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from numba import njit

from hwsim.formats import Draw, FormatError
from hwsim.formats.backends.words import BLOCK, fill_words
from hwsim.formats.philox import philox, word, words

# Known answers of Random123 1.14 (kat_vectors, philox4x32 10).
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

DRAWS = [
    Draw(),
    Draw(seed=(1 << 63) - 1, site="layer1.0.conv1", step=(1 << 32) - 1, call=(1 << 16) - 1, rank=(1 << 16) - 1, offset=70),
    Draw(seed=7, site="é", step=1, offset=(1 << 34) * 4 - 100),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    c, k, e = ([int(part, 16) for part in text.split()] for text in (counter, key, expected))
    assert philox((c[0], c[1], c[2], c[3]), (k[0], k[1])) == tuple(e)


@pytest.mark.parametrize("index", [0, 15, 16, 63, 64, 1000, (1 << 36) + 37])
def test_sixteen_counters_of_four_words_serve_sixty_four_elements(index: int) -> None:
    draw = Draw(seed=(5 << 32) + 3, site="s", step=9, call=2, rank=4)
    block, lane, place = index // 64, index // 16 % 4, index % 16
    b = 16 * block + place
    key = (3, zlib.crc32(b"s") ^ 5)
    assert word(index, draw) == philox((b % 2**32, b // 2**32, 9, 2 * 2**16 + 4), key)[lane]


@njit
def fill(out: np.ndarray, first: int, blocks: int, numbers: tuple[int, ...]) -> None:
    fill_words(out, first, blocks, numbers)


@pytest.mark.parametrize("draw", DRAWS, ids=["zero", "ones", "beyond 32 bits"])
def test_the_tensor_and_the_compiled_words_equal_the_scalar_ones(draw: Draw) -> None:
    expected = [word(i, draw) for i in range(200)]
    assert words(200, draw.numbers).tolist() == expected
    first, skip = draw.offset // BLOCK, draw.offset % BLOCK
    compiled = np.empty(5 * BLOCK, np.uint32)
    fill(compiled, first, 5, draw.numbers)
    assert compiled[skip : skip + 200].tolist() == expected


def test_words_depend_on_every_field_of_a_draw() -> None:
    fields = ({}, {"seed": 1}, {"seed": 1 << 32}, {"site": "a"}, {"step": 1}, {"call": 1}, {"rank": 1}, {"offset": 1})
    drawn = [tuple(words(4, Draw(**changed).numbers).tolist()) for changed in fields]
    assert len(set(drawn)) == len(drawn)


def test_words_are_uniform() -> None:
    """The mean of 2^16 words and of their lowest bits, to five standard deviations."""
    drawn = words(1 << 16, Draw(seed=1).numbers)
    assert abs(drawn.double().mean().item() / 2**32 - 0.5) < 5 * 12**-0.5 / 2**8
    assert abs((drawn & 1).double().mean().item() - 0.5) < 5 * 0.5 / 2**8


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("seed", 1 << 63), ("step", 1 << 32), ("call", 1 << 16), ("rank", 1 << 16), ("offset", 0.5)],
)
def test_a_number_out_of_range_is_refused(field: str, value: int) -> None:
    with pytest.raises(FormatError, match=f"{field}: got {value}"):
        Draw(**{field: value})


def test_words_are_int64_of_the_count() -> None:
    drawn = words(0, Draw().numbers)
    assert (drawn.dtype, drawn.shape) == (torch.int64, (0,))
