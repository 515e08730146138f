"""Results of checks as JSON and as a markdown page; checks that are performed again replace their older results."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .registry import Outcome, Result

JSON, PAGE = "conformance.json", "conformance.md"
HEAD = """# Conformance

What hwsim computes beside what independent implementations and recorded hardware compute, bit for bit, the sign of zero
included and any NaN being the same. There are no tolerances: where an oracle is itself known to be wrong, or means
something else, those cases are left out by name and counted under *excluded*. Roundings are compared on all 65,536 float16
and all 65,536 bfloat16 numbers, and on every sign and exponent of float32 and of float64 with every kind of cut-off bits (none,
one, just below, on and just above a tie, all, and each single bit).

`hwsim conform` performs the checks whose oracles are installed (`pip install 'hwsim[test]'`) and writes this page;
`hwsim conform --exhaustive` (`make exhaustive`) adds those over all 2^32 float32 numbers.
"""


def read(folder: Path) -> dict[str, Result]:
    """The results that a folder holds, by check."""
    path = folder / JSON
    if not path.exists():
        return {}
    return {name: _result(stored) for name, stored in json.loads(path.read_text())["results"].items()}


def write(folder: Path, results: Iterable[Result]) -> Path:
    """Add results to a folder's, write both files, and give the page's path.

    A check whose oracle is missing keeps the result of an earlier day.
    """
    found = read(folder)
    for result in results:
        if result.outcome or result.check not in found:
            found[result.check] = result
    folder.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine(), "results": {name: asdict(result) for name, result in sorted(found.items())}}
    (folder / JSON).write_text(json.dumps(data, indent=1) + "\n")
    page = folder / PAGE
    page.write_text(markdown(found.values()))
    return page


def machine() -> dict[str, str]:
    """What the results depend on besides hwsim and the oracles."""
    return {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}


def markdown(results: Iterable[Result]) -> str:
    """The page: a table of oracles, what was excluded, then one table for each subject."""
    ordered = sorted(results, key=lambda result: result.check)
    parts = [HEAD, _totals(ordered), _exclusions(ordered)]
    for subject, group in groupby(ordered, lambda result: result.check.partition("/")[0]):
        rows = [_row(result) for result in group]
        parts.append(_table(f"## {subject.capitalize()}", ("check", "oracle", "cases", "mismatches", "compared", "date"), rows))
    return "\n".join(parts)


def _totals(results: list[Result]) -> str:
    rows = []
    for oracle, group in groupby(sorted(results, key=lambda result: result.oracle), lambda result: result.oracle):
        members = list(group)
        done = [result.outcome for result in members if result.outcome]
        state = "" if done else members[0].missing
        rows.append((oracle, len(done), sum(o.cases for o in done), sum(o.mismatches for o in done), state))
    return _table("## Oracles", ("oracle", "checks", "cases", "mismatches", "not performed"), rows)


def _exclusions(results: list[Result]) -> str:
    counts: dict[tuple[str, str], list[int]] = {}
    for result in results:
        for name, count in result.outcome.excluded if result.outcome else ():
            counts.setdefault((result.oracle, name), []).append(count)
    rows = [(oracle, name, len(found), sum(found)) for (oracle, name), found in sorted(counts.items())]
    return _table(
        "## Excluded, by the oracle's own defect or definition", ("oracle", "what", "checks", "differing results"), rows
    )


def _row(result: Result) -> tuple[Any, ...]:
    name, found = result.check.partition("/")[2], result.outcome
    if found is None:
        return (name, result.oracle, "", "", f"not performed: {result.missing}", result.date)
    note = f"{result.what}; {found.note}" if found.note else result.what
    return (name, result.oracle, found.cases, found.mismatches, note, result.date)


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |" for row in rows]
    return "\n".join([title, "", *lines, ""])


def _result(stored: dict[str, Any]) -> Result:
    outcome = stored.pop("outcome")
    if outcome is not None:
        outcome = Outcome(**{**outcome, "excluded": tuple((name, count) for name, count in outcome["excluded"])})
    return Result(**stored, outcome=outcome)
