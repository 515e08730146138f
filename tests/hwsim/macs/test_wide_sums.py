"""Every order and rounding against whole numbers of 64 bits, written out here, on operands whose sums float64 does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hwsim.macs import mac, matmul, shapes

Whole = npt.NDArray[np.int64]
ROUNDINGS = ("nearest_even", "nearest_away", "nearest_zero", "toward_zero", "toward_positive", "toward_negative", "to_odd")
COMMON = ("nearest_even", "nearest_zero", "to_odd")
BITS = 12
"""Of the accumulator's significand; operands have 8, and products reach from 2^0 to 2^58."""


def rounded(n: Whole, mode: str) -> Whole:
    """Whole numbers with at most BITS significant bits."""
    m, length = np.abs(n), np.zeros_like(n)
    for step in (32, 16, 8, 4, 2, 1):
        length += np.where(m >> (length + step) > 0, step, 0)
    shift = np.maximum(length + 1 - BITS, 0)
    k = m >> shift
    rest, half = m - (k << shift), (1 << shift) >> 1
    tie, beyond = (rest == half) & (half > 0), rest > half
    up = {
        "nearest_even": beyond & (half > 0) | tie & (k % 2 == 1),
        "nearest_away": beyond & (half > 0) | tie,
        "nearest_zero": beyond & (half > 0),
        "toward_zero": np.zeros_like(tie),
        "toward_positive": (rest > 0) & (n > 0),
        "toward_negative": (rest > 0) & (n < 0),
        "to_odd": (rest > 0) & (k % 2 == 0),
    }[mode]
    found: Whole = np.sign(n) * ((k + up) << shift)
    return found


def chain(c: Whole, products: list[Whole], mode: str) -> Whole:
    for p in products:
        c = rounded(c + p, mode)
    return c


def tree(c: Whole, products: list[Whole], mode: str) -> Whole:
    nodes = [c, *products]
    while len(nodes) > 1:
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [rounded(x + y, mode) for x, y in zip(nodes[::2], nodes[1::2], strict=False)] + odd
    return nodes[0]


def chunks(c: Whole, products: list[Whole], mode: str) -> Whole:
    parts = [chain(np.zeros_like(c), products[k : k + 2], mode) for k in range(0, len(products), 2)]
    return chain(c, parts, mode)


ORDERS: dict[str, Callable[[Whole, list[Whole], str], Whole]] = {
    "sequential": chain,
    "fma": chain,
    "pairwise": tree,
    "chunked(2)": chunks,
}


def whole_numbers(shape: tuple[int, int], rng: np.random.Generator, bits: int, reach: int) -> Whole:
    """Numbers of so many significant bits, below 2^(bits + reach), with either sign."""
    m = rng.integers(-(1 << bits), (1 << bits) + 1, shape)
    return m << rng.integers(0, reach + 1, shape)


@pytest.mark.parametrize(
    ("rounding", "size"),
    [*((mode, 60) for mode in COMMON), *(pytest.param(mode, 600, marks=pytest.mark.large) for mode in ROUNDINGS)],
)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steady", [True, False])
def test_equals_rounded_whole_numbers(
    order: str, rounding: str, size: int, steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with what the last places of the operands allow to leave out, once without."""
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0)
    if not steady:
        monkeypatch.setattr(shapes, "STEADY", ())
    place: Any = {"kind": "float", "exponent_bits": 8, "mantissa_bits": BITS - 1}
    unit = mac({"order": order, "accumulator": {"format": place, "rounding": rounding}})
    rng = np.random.default_rng(size)
    a, b, c = whole_numbers((size, 5), rng, 8, 21), whole_numbers((5, size), rng, 8, 21), whole_numbers((size, size), rng, 11, 47)
    found = matmul(*(torch.from_numpy(x).double() for x in (a, b)), unit, torch.from_numpy(c).double())
    expected = ORDERS[order](c, [a[:, k, None] * b[None, k] for k in range(5)], rounding)
    assert np.array_equal(found.double().numpy(), expected.astype(np.float64))
