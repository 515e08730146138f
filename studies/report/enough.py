"""How much is enough: of points in ascending order, the first from which on none is told apart from the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .statistics import CONFIDENCE, Unit, difference


def enough(names: Sequence[str], values: Mapping[str, Mapping[int, float]]) -> str | None:
    """The first name from which on no confidence interval of the paired difference to the last excludes zero.

    Args:
        names: two or more, in ascending order.
        values: of each, by seed.

    Returns:
        A name; None where an interval needs more seeds than the points share with the last.
    """
    *others, last = names
    found = last
    for name in reversed(others):
        change = difference(last, name, "", values[last], values[name])
        if change.seeds < 2:
            return None
        if not change.low <= 0 <= change.high:
            break
        found = name
    return found


def enough_headline(names: Sequence[str], values: Mapping[str, Mapping[int, float]], unit: Unit) -> str:
    """The answer in a sentence, with how the next smaller point differs; empty where nothing is asked or nothing can be said."""
    found = enough(names, values) if names else None
    if found is None:
        return ""
    last, place = names[-1], names.index(found)
    if found == last:
        said = f"None of {names[0]} to {names[-2]} is enough"
    else:
        said = f"Enough is {found}, from where on {unit.metric} is not told apart from that with {last}"
    if not place:
        return f"{said} ({CONFIDENCE:.0%} intervals over the seeds)."
    below = names[place - 1]
    change = difference(last, below, unit.metric, values[last], values[below])
    low, high = (end * unit.factor for end in (change.low, change.high))
    points = " points" if unit.percent else ""
    between = f"{low:+.{unit.decimals}f} to {high:+.{unit.decimals}f}{points}"
    return f"{said}; with {below} it differs by {between} ({CONFIDENCE:.0%} interval over {change.seeds} seeds)."
