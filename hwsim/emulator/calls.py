"""How often each site has run in this step: the call numbers of random words, which recomputation takes again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .phases import Frame


FIRST_EVALUATION = 1 << 40
"""Calls in evaluation count apart from here on, so that evaluating changes nothing in training."""


class Region:
    """A checkpointed part of the forward pass: the first call number of every site that ran in it, and its outermost frame."""

    __slots__ = ("base", "depth", "first")

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.depth: int | None = None
        self.base: Frame | None = None

    def enter(self, frame: Frame, depth: int) -> None:
        """Remember the outermost frame that runs operations in the region, as it is before them."""
        if self.depth is None or depth < self.depth:
            self.depth, self.base = depth, frame.copy()


class Session:
    """One recomputation of a region."""

    __slots__ = ("frame", "key", "next")

    def __init__(self, key: Hashable, region: Region | None, frame: Frame) -> None:
        self.key = key
        self.next = dict(region.first) if region else {}
        self.frame = region.base.copy() if region and region.base else frame.copy()


class Calls:
    """Call numbers, from 0 in every step."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def forward(self, site: str, region: Region | None) -> int:
        """The number of a call in the forward pass."""
        call = self._next.get(site, 0)
        self._next[site] = call + 1
        if region is not None:
            region.first.setdefault(site, call)
        return call

    def recompute(self, site: str, session: Session) -> int:
        """The number that the same call had in the forward pass."""
        call = session.next.get(site, 0)
        session.next[site] = call + 1
        return call

    def state_dict(self) -> dict[str, int]:
        """The next number of each site."""
        return dict(self._next)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Count on from saved numbers."""
        self._next = dict(state)

    def clear(self) -> None:
        """Begin a new step."""
        self._next.clear()
