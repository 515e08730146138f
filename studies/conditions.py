"""What a study demands of its runs, checked when they have ended: how much of each has been emulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .store import Store

SHARES = {"operations": "operations", "flops": "FLOPs"}


@dataclass(frozen=True)
class Shortfall:
    """A run that was emulated less than its study demands.

    Args:
        id, datapath, seed: of the run.
        coverage: its shares of operations and of FLOPs.
        fail_under: what is demanded of both.
    """

    id: str
    datapath: str
    seed: int
    coverage: Mapping[str, float]
    fail_under: float

    def __str__(self) -> str:
        shares = " and ".join(f"{_percent(self.coverage[share])} of {words}" for share, words in SHARES.items())
        run = f"{self.datapath}, seed {self.seed} ({self.id})"
        return f"coverage: {run}: got {shares}; allowed: {_percent(self.fail_under)} at least"


def shortfalls(store: Store, index: Mapping[str, Any]) -> list[Shortfall]:
    """The finished runs below the study's `coverage: {fail_under: ...}`, in the order of the study.

    Args:
        store: of the study.
        index: what its `study.json` says.
    """
    demanded = index["study"].get("coverage")
    if demanded is None:
        return []
    finished, places = store.finished(), {place["id"]: place for place in reversed(index["places"])}
    found = []
    for id, place in reversed(places.items()):
        coverage = store.record(id)["coverage"] if id in finished else {}
        if any(share < demanded["fail_under"] for share in coverage.values()):
            found.append(Shortfall(id, place["datapath"], place["seed"], coverage, demanded["fail_under"]))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.10g} %"
