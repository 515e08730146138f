"""Which terms of a dot product are added together: found from outside, and what a declared unit does.

The first is FPRev (Xie et al., "Revealing Floating-Point Accumulation Orders in Software/Hardware Implementations"): with M in
place of one term, -M of another and u of all others, u being lost beside M, the result counts the terms that join after the two
have met; the others are those below their lowest common node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .grouping import groups, runs
from .record import Level, Mac

C = -1
"""The leaf that C is; products are 0, 1, ..."""


@dataclass(frozen=True)
class Node:
    """Terms and partial sums that are added at once; `exact` where nothing is lost between them."""

    children: frozenset[Tree]
    exact: bool = False

    @property
    def leaves(self) -> int:
        """How many terms lie below."""
        return sum(map(_leaves, self.children))

    def __str__(self) -> str:
        return f"({' '.join(sorted(map(label, self.children), key=_first))})"


Tree = Node | int


def _leaves(tree: Tree) -> int:
    return tree.leaves if isinstance(tree, Node) else 1


def label(tree: Tree) -> str:
    """A tree in parentheses."""
    return "c" if tree == C else str(tree)


def _first(text: str) -> tuple[bool, int]:
    digits = text.lstrip("(").split()[0].rstrip(")")
    return digits != "c", 0 if digits == "c" else int(digits)


def found_tree(leaves: Sequence[int], below: Callable[[int, int], int]) -> Tree:
    """The tree over the leaves; `below(i, j)` counts the terms under the lowest common node of two of them."""
    return _build(list(leaves), below)[0]


def _build(leaves: list[int], below: Callable[[int, int], int]) -> tuple[Tree, int]:
    """The tree and the count of its root (1 for a leaf)."""
    first, *others = leaves
    counts = {j: below(first, j) for j in others}
    tree: Tree = first
    top = 1
    for count in sorted(set(counts.values())):
        part, part_top = _build([j for j in others if counts[j] == count], below)
        # What joins an exact group loses nothing of the group's other terms, which count neither above nor below.
        joins = part_top == count or (part_top == 2 and count == _leaves(tree) + 1)
        children = part.children if isinstance(part, Node) and joins else frozenset({part})
        node = Node(frozenset({tree}) | children)
        tree, top = Node(node.children, exact=count < node.leaves), count
    return tree, top


def declared_tree(mac: Mac, terms: int) -> Tree | None:
    """The tree of a unit for K terms; None for nothing to add."""
    start = C if mac.c.enters != "last" else None
    total = _run(mac, range(terms), mac.levels(terms), start)
    return _join(total, C) if start is None else total


def _run(mac: Mac, ks: range, levels: tuple[Level, ...], start: Tree | None) -> Tree | None:
    if not levels:
        return _base(mac, ks, start)
    *inner, outermost = levels
    total = start
    for part in runs(ks, outermost.every):
        total = _join(total, _run(mac, part, tuple(inner), None))
    return total


def _base(mac: Mac, ks: range, start: Tree | None) -> Tree | None:
    total = start
    if mac.tree:
        nodes: list[Tree] = [*([] if start is None else [start]), *ks]
        while len(nodes) > 1:
            pairs = [Node(frozenset(pair)) for pair in zip(nodes[::2], nodes[1::2], strict=False)]
            nodes = [*pairs, *(nodes[-1:] if len(nodes) % 2 else [])]
        return nodes[0] if nodes else None
    if mac.fused:
        for group in groups(mac.fused, ks):
            total = _join(total, *group, exact=mac.fused.fraction_bits == "exact")
        return total
    for k in ks:
        total = _join(total, k)
    return total


def _join(total: Tree | None, *terms: Tree | None, exact: bool = False) -> Tree | None:
    parts = [part for part in (total, *terms) if part is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    return Node(frozenset(parts), exact and len(parts) > 2)
