"""What a dot product of integers does: its width, whether it wraps or saturates, and the order of its sums where that shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from hwsim.formats import Integer

from .probe_cases import Case, Dot

WIDEST = 32
"""Bits of an integer format."""


def accumulator(dot: Dot, terms: int) -> tuple[int, str] | None:
    """The accumulator's bits, by the largest C that passes, and what one product more becomes; None where it is no integer."""
    zeros, one = torch.zeros(terms, dtype=torch.float64), torch.zeros(terms, dtype=torch.float64)
    one[0] = 1.0
    bits = max((n for n in range(2, WIDEST + 1) if dot(zeros, zeros, largest(n)) == largest(n)), default=2)
    overflow = {largest(bits): "saturate", -largest(bits) - 1: "wrap"}.get(dot(one, one, largest(bits)))
    return None if overflow is None else (bits, overflow)


def integer_candidates(fmt: Integer, bits: int, overflow: str, terms: int) -> Iterator[dict[str, Any]]:
    """Units with this accumulator, likely orders first; of sums that wrap `sequential` stands for all."""
    orders: list[Any] = ["sequential"]
    if overflow == "saturate":
        orders += ["pairwise", *({"chunked": n, "inner": inner} for n in range(2, terms) for inner in ("sequential", "pairwise"))]
    place = {"format": f"int{bits}", "overflow": overflow}
    for order, enters in product(orders, ("first", "last")):
        yield {"order": order, "c": {"enters": enters}, "operands": fmt.name, "accumulator": place}


def largest(bits: int) -> float:
    """The largest integer of so many bits in two's complement."""
    return 2.0 ** (bits - 1) - 1


def integer_cases(fmt: Integer, bits: int, terms: int, count: int, rng: torch.Generator) -> Iterator[Case]:
    """Random operands, with C so close to either end that many sums leave the range."""
    reach = int(max(fmt.max, -fmt.min)) ** 2
    for n in range(count):
        a, b = (torch.randint(int(fmt.min), int(fmt.max) + 1, (terms,), generator=rng).double() for _ in range(2))
        inside = torch.randint(0, min(reach, int(largest(bits))), (), generator=rng).item()
        yield a, b, (largest(bits) - inside) * (1 if n % 2 else -1)
