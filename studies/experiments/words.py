"""How experiments write numbers."""

from __future__ import annotations

from math import isfinite


def number(value: float | None) -> str:
    """Three digits that matter; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isfinite(value) else str(value)


def ratio(value: float) -> str:
    """`3.2 times`."""
    return f"{number(value)} times"


def percent(share: float) -> str:
    """`97.5 %`."""
    return f"{100 * share:.1f} %"
