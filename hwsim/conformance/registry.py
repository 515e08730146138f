"""What a check against an outside oracle is, and how checks are performed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from time import perf_counter
from typing import Literal

Depth = Literal["quick", "full", "exhaustive"]
"""How long a check takes: moments (the tests perform it), seconds to minutes, or many minutes (only on demand)."""


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        cases: how many results were compared.
        mismatches: how many of them differ.
        note: what was compared, or the first difference.
        excluded: the oracle's own known defects by name, and how many results they touch; these are not compared.
    """

    cases: int
    mismatches: int
    note: str = ""
    excluded: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Oracle:
    """An outside source of truth.

    Attributes:
        name: as printed.
        distribution: the Python package whose version is recorded; empty for anything else.
        missing: why it cannot be asked here; empty where it can.
    """

    name: str
    distribution: str = ""
    missing: Callable[[], str] = field(default=lambda: "", compare=False)

    @property
    def release(self) -> str:
        """The installed version; empty where there is none."""
        try:
            return version(self.distribution) if self.distribution else ""
        except PackageNotFoundError:
            return ""


def package(distribution: str, module: str | None = None, name: str | None = None) -> Oracle:
    """A Python package as an oracle, missing where its module cannot be found."""
    imported = module or distribution

    def missing() -> str:
        return "" if find_spec(imported) else f"needs `pip install {distribution}`"

    return Oracle(name or distribution, distribution, missing)


@dataclass(frozen=True)
class Check:
    """One comparison of hwsim with one oracle.

    Attributes:
        name: a path such as `formats/fp16/gfloat`, unique; `hwsim conform --only` matches it.
        oracle: whom it asks.
        what: what is compared, in a few words.
        run: performs it; imports the oracle only then.
        depth: how long it takes.
    """

    name: str
    oracle: Oracle
    what: str
    run: Callable[[], Outcome] = field(compare=False)
    depth: Depth = "quick"


@dataclass(frozen=True)
class Result:
    """A check that was performed, or why it was not.

    Attributes:
        check: the check's name. oracle: its oracle's name and version. what: as the check says.
        outcome: None where the oracle is missing; `missing` then says why.
        seconds: how long it took. date: of the day, UTC.
    """

    check: str
    oracle: str
    what: str
    outcome: Outcome | None
    missing: str
    seconds: float
    date: str


def perform(checks: Iterable[Check]) -> Iterator[Result]:
    """The result of each check as it comes in."""
    for check in checks:
        missing, start = check.oracle.missing(), perf_counter()
        outcome = None if missing else check.run()
        oracle = f"{check.oracle.name} {check.oracle.release}".strip()
        seconds = round(perf_counter() - start, 2)
        yield Result(check.name, oracle, check.what, outcome, missing, seconds, datetime.now(UTC).date().isoformat())
