"""What a run on the emulated machine can be asked, during and after it."""

from __future__ import annotations

from .audit import AuditRow, NativeRow
from .engine import Engine
from .meter import SiteStatistics


class Machine:
    """The emulated machine of one `emulate` block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def step(self) -> int:
        """The number of optimizer steps so far, which keys stochastic rounding."""
        return self._engine.draws.step

    def audit(self) -> list[AuditRow]:
        """Every operation that ran: phase, op, site, count, role, cast and FLOPs."""
        return self._engine.audit.rows()

    def coverage(self) -> dict[str, float]:
        """The shares of `operations` and of `flops` that ran as declared; 1.0 is all."""
        return self._engine.audit.coverage()

    def unemulated(self) -> list[NativeRow]:
        """Every computed tensor that stayed in the model's own precision, and why."""
        return self._engine.audit.unemulated()

    def statistics(self) -> list[SiteStatistics]:
        """One row for each port that rounded tensors; empty unless the block was entered with `statistics=True`."""
        meters = self._engine.sites.meters.items()
        return [meter.row(site, str(cast)) for site, (meter, cast) in meters if meter.calls]

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs to draw the same random words."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved state."""
        self._engine.draws.step = state["step"]
