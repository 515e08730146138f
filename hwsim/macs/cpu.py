"""The numba backend: plans a matmul once, then sums it block by block of results on all threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hwsim.formats.backends.threads import in_threads

from .bases import Base, base_of
from .exact import exact_outer_sum, wide
from .grouping import innermost_runs
from .lanes import compiled_mode, edges, lanes_hold
from .operands import NO_STREAM, Array, Port, holds_promoted, holds_scale_products, rounded
from .record import Level, Mac, Rounded
from .sums import outer_sum
from .words import Stream

BLOCK_RESULTS = 1 << 14
BLOCK_COLUMNS = 512
CASTS = 4
"""As long as which a multiply-add takes, about."""


class Block(NamedTuple):
    """A block of results, with the logical index of its first one."""

    i0: int
    i1: int
    j0: int
    j1: int
    first: int


@dataclass(frozen=True)
class Outer:
    """The kernel of one outer sum."""

    level: int
    rule: Level | Rounded
    scaled: bool
    in_lanes: bool = True
    """Whether float64 holds what is added."""

    def add(self, outer: Array, inner: Array, scale: Array, k: int, first: int, width: int, s: Stream, flush: bool) -> None:
        """outer = round(outer + inner scale), and inner = +0."""
        place = self.rule.into if isinstance(self.rule, Level) else self.rule
        mode, at = compiled_mode(place.rounding), edges(place, flush)
        if self.in_lanes and lanes_hold(place):
            outer_sum(mode, self.scaled)(outer, inner, scale, at, self.level, k, first, width, s)
            return
        ones = scale if self.scaled else np.ones_like(inner)
        exact_outer_sum(outer, inner, ones, at, wide(place.format.grid, place.rounding), self.level, k, first, width, s)


def matmul(a: Port, b: Port, c: Array | None, mac: Mac, s: Stream, first: int) -> Array:
    """(rows, K) @ (K, columns) [+ c], result (0, 0) having the logical index `first`."""
    rows, width = a.values.shape[0], b.values.shape[1]
    result = np.empty((rows, width))
    base = base_of(a, b, c, mac, s)
    jobs = list(blocks(rows, width, first))

    def run(low: int, high: int) -> None:
        for block in jobs[low:high]:
            _sum_block(block, base, a, b, c, mac, s, result)

    in_threads(run, len(jobs), CASTS * a.values.size * width)
    return result


def blocks(rows: int, width: int, first: int) -> Iterator[Block]:
    """The results cut into blocks that stay in a core's cache."""
    columns = min(width, BLOCK_COLUMNS)
    height = max(1, BLOCK_RESULTS // max(columns, 1))
    for i in range(0, rows, height):
        for j in range(0, width, BLOCK_COLUMNS):
            yield Block(i, min(i + height, rows), j, min(j + BLOCK_COLUMNS, width), first + i * width + j)


def _sum_block(block: Block, base: Base, a: Port, b: Port, c: Array | None, mac: Mac, s: Stream, result: Array) -> None:
    i0, i1, j0, j1, first = block
    terms, width = a.values.shape[1], result.shape[1]
    levels = mac.levels(terms)
    sums = [np.zeros((i1 - i0, j1 - j0)) for _ in range(len(levels) + 1)]
    entering = c is not None and mac.c.enters != "last"
    if entering and c is not None:
        sums[-1][:] = c[i0:i1, j0:j1]
    given = a.scales is not None and b.scales is not None
    scaled = [level.scaled and given for level in levels]
    outers = [Outer(2 + n, level, scaled[n], not scaled[n] or holds_promoted(mac)) for n, level in enumerate(levels)]
    begins = [0] * len(levels)
    none = np.ones((1, 1))
    for ks, closing in innermost_runs(range(terms), levels):
        base.advance(sums[0], block, ks, entering and not levels, width)
        for n, outer in enumerate(outers[:closing]):
            scale = _promotion_scale(a, b, mac, block, begins[n]) if outer.scaled else none
            outer.add(sums[n + 1], sums[n], scale, begins[n], first, width, s, mac.flush_results)
            begins[n] = ks.stop
    if c is not None and mac.c.enters == "last":
        last = Outer(2 + len(levels), mac.outermost, False)
        last.add(sums[-1], np.ascontiguousarray(c[i0:i1, j0:j1]), none, 0, first, width, s, mac.flush_results)
    result[i0:i1, j0:j1] = sums[-1]


def _promotion_scale(a: Port, b: Port, mac: Mac, block: Block, k: int) -> Array:
    """The two scales' product for the run that starts at k, rounded to the outer sum's format."""
    if a.scales is None or b.scales is None or mac.scales is None:
        raise ValueError("a scaled promotion without scales")
    n, to = k // mac.scales.block, Rounded(format=mac.outermost.format)
    x, y = a.scales[block.i0 : block.i1, n, None], b.scales[n, None, block.j0 : block.j1]
    if holds_scale_products(mac):
        return rounded(x * y, to)
    found = np.full((len(x), y.shape[1]), -0.0)
    x, y = (np.array(np.broadcast_to(side, found.shape)) for side in (x, y))
    exact_outer_sum(found, x, y, edges(to), wide(to.format.grid, to.rounding), 0, 0, 0, 0, NO_STREAM)
    return found
