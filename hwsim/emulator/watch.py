"""Where NaN and infinity come from: the first operation of a step that made one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from .phases import Phase


@dataclass(frozen=True)
class NotFinite:
    """The first operation of a step whose result is not finite.

    Args:
        step: of the optimizer, from 0.
        phase, op, site: where, as in an AuditRow.
        made: whether all its operands were finite; else NaN or infinity came in from outside (data, constants).
    """

    step: int
    phase: str
    op: str
    site: str
    made: bool

    def __str__(self) -> str:
        verb = "made" if self.made else "given"
        return f"first {verb} by {self.op} at {self.site or 'no module'} ({self.phase}) in step {self.step}"


class Watch:
    """Looks at the results of arithmetic, and remembers the first that is not finite in each step of training or evaluation.

    One that makes NaN or infinity of finite operands goes before one that is given them, as by a mask of minus infinity.
    """

    __slots__ = ("_place", "found")

    def __init__(self) -> None:
        self.found: NotFinite | None = None
        self._place: tuple[int, bool] | None = None

    def see(self, step: int, phase: Phase, op: str, site: str, results: Iterable[Tensor], operands: Iterable[Tensor]) -> None:
        """Look at what an operation gave."""
        if all(map(_finite, results)):
            return
        made = all(map(_finite, operands))
        place = (step, phase is Phase.EVALUATION)
        if self.found is None or self._place != place or (made and not self.found.made):
            self.found, self._place = NotFinite(step, phase.value, op, site, made), place


def _finite(x: Tensor) -> bool:
    """Whether every element is; a finite sum says so, and one that overflows leaves the question to the elements."""
    if x.is_complex():
        x = torch.view_as_real(x)
    return isfinite(x.sum().item()) or bool(x.isfinite().all())
