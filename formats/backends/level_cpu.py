"""Rounding to levels on the CPU: the tables that the compiled loops look up."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hwsim.formats.level_lowering import LevelRule
from hwsim.formats.lowering import STOCHASTIC, lower
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS
from hwsim.formats.steps import Steps, padded, steps

from .level_kernels import FEW, GROUP, round_levels

Array = npt.NDArray[Any]
Tables = tuple[Array, Array]
QUOTIENT_DIGITS = 28
"""A quotient of float32 numbers that is not an edge of so many digits is farther from it than float64 can see."""


def work(
    rule: LevelRule, record: np.dtype[Any], single: bool, scaled: bool, dtype: torch.dtype
) -> tuple[Callable[..., bool], tuple[Any, ...]]:
    """The compiled loop, and what it takes beside elements, scales and words.

    Args:
        rule: what to round to.
        record: the fields of a Rule.
        single: whether elements, scales and outcomes are in float32.
        scaled: whether there are scales.
        dtype: the result's.
    """
    records, table, plain, divided = _tables(rule, record, dtype)
    loop = None
    if single and not scaled:
        loop = plain
    elif single and dtype is torch.float32:
        loop = divided
    return round_levels, (records, table, loop)


@lru_cache(maxsize=256)
def _tables(rule: LevelRule, record: np.dtype[Any], dtype: torch.dtype) -> tuple[Any, Tables, Any, Any]:
    """The records; outcomes and keys; what the loop on finite numbers takes for float32, and for scaled float32."""
    numbers, found = rule.numbers, steps(rule.format, rule.numbers.mode)
    records = np.array([tuple(numbers), tuple(lower(CARRIERS[dtype], Projection(overflow="infinity")))], dtype=record)
    table = padded(rule.format, numbers.mode)
    if numbers.mode == STOCHASTIC or numbers.flush_inputs:
        return records, table, None, None
    count = len(found.edges)
    room = -(-count // GROUP) * GROUP if count <= FEW else len(table[1])
    outcomes = np.append(found.values, np.full(room + 1 - len(found.values), found.values[-1])).astype(np.float32)
    plain = outcomes, _filled(_float32_edges(found), room), None
    wide = not _short(found)
    divided = None if wide and count <= FEW else (outcomes, _filled(found.closed, room), wide)
    return records, table, plain, divided


def _filled(edges: Array, room: int) -> Array:
    """The edges, and infinities after them."""
    return np.append(edges, np.full(room - len(edges), edges.dtype.type(np.inf)))


def _float32_edges(found: Steps) -> Array:
    """The smallest float32 numbers that belong to each outcome."""
    single = found.edges.astype(np.float32)
    up = (single < found.edges) | ((single == found.edges) & found.open)
    return np.where(up, np.nextafter(single, np.float32(np.inf)), single)


def _short(found: Steps) -> bool:
    """Whether every edge has few digits, far from where float64 is subnormal."""
    fraction, _ = np.frexp(found.edges)
    scaled = fraction * 2.0**QUOTIENT_DIGITS
    return bool((scaled == np.floor(scaled)).all())
