"""Which terms are added together: runs of outer sums, groups of fused units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .orders import Alignment
from .record import Level


def runs(ks: range, every: int) -> Iterator[range]:
    """A run of k cut after every `every` terms."""
    for k in range(ks.start, ks.stop, every):
        yield range(k, min(k + every, ks.stop))


def groups(how: Alignment, ks: range) -> Iterator[Sequence[int]]:
    """The fused groups of a run of k, in the order in which they are chained."""
    size = how.terms or max(1, len(ks))
    if how.grouping != "alternate_pairs":
        yield from runs(ks, size)
        return
    for block in runs(ks, 2 * size):
        for half in (0, 2):
            group = [k for k in block if (k - block.start) % 4 in (half, half + 1)]
            if group:
                yield group


def innermost_runs(ks: range, levels: tuple[Level, ...]) -> Iterator[tuple[range, int]]:
    """The runs that the innermost sum covers, each with the number of outer sums that take it in when it ends."""
    if not levels:
        yield ks, 0
        return
    *inner, outermost = levels
    for part in runs(ks, outermost.every):
        found = list(innermost_runs(part, tuple(inner)))
        yield from found[:-1]
        yield found[-1][0], len(levels)
