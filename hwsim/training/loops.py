"""Compiled loops over the elements of some arrays, which threads share out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hwsim.formats.backends.threads import in_threads

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Loop:
    """`body(low, high, *operands)`: does the elements from `low` to before `high`, without the interpreter's lock.

    Attributes:
        body: a compiled function.
        operands: flat arrays and numbers, or tuples of them.
        elements: how many there are.
    """

    body: Callable[..., None]
    operands: tuple[Any, ...]
    elements: int


def flat(t: torch.Tensor) -> Array:
    """The elements of a contiguous CPU tensor, in its memory."""
    return (t.detach() if t.requires_grad else t).numpy().reshape(-1)


def at_once(loops: Sequence[Loop]) -> None:
    """Do all elements of all loops, in as many threads as torch uses."""
    ends = list(accumulate(loop.elements for loop in loops))

    def part(low: int, high: int) -> None:
        for loop, end in zip(loops, ends, strict=True):
            start = end - loop.elements
            first, last = max(low, start), min(high, end)
            if first < last:
                loop.body(first - start, last - start, *loop.operands)

    if loops:
        in_threads(part, ends[-1], ends[-1])
