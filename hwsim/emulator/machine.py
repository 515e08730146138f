"""What a run on the emulated machine can be asked, during and after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hwsim.errors import ConfigError

from .audit import AuditRow, NativeRow
from .engine import Engine
from .meter import SiteStatistics
from .watch import NotFinite
from .wire import Hook, gradient_hook


class Machine:
    """The emulated machine of one `emulate` block."""

    def __init__(self, engine: Engine, rest: Callable[[], AbstractContextManager[None]]) -> None:
        self._engine = engine
        self._rest = rest

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

    def not_finite(self) -> NotFinite | None:
        """The first operation that gave NaN or infinity, in the last step that had any; None unless entered with `watch=True`."""
        return None if self._engine.watch is None else self._engine.watch.found

    def statistics(self) -> list[SiteStatistics]:
        """One row for each port that rounded tensors; empty unless the block was entered with `statistics=True`."""
        meters = self._engine.sites.meters.items()
        return [meter.row(site, str(cast)) for site, (meter, cast) in meters if meter.calls]

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale of the datapath's `loss_scaling`, or itself; the optimizer's step divides the gradients."""
        return self._engine.loss.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the loss's scale now, to clip or measure them; its step does not divide them again.

        Raises:
            ConfigError: the loss was not scaled.
        """
        # A wrapper's gradients are its base's, which is the one that steps.
        stepping = getattr(optimizer, "base", optimizer)
        with self._rest():
            self._engine.scales.share(stepping)
            self._engine.loss.unscale(stepping)

    def learned_scales(self) -> dict[str, nn.Parameter]:
        """The scales that train, by port; the optimizer of the block has them already."""
        return self._engine.scales.parameters()

    def gradient_hook(self) -> Hook:
        """A communication hook that averages gradients in the datapath's wire format: `ddp.register_comm_hook(None, hook)`."""
        return gradient_hook(self._engine, self._rest)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to do the same, bit for bit, between two steps; all tensors, numbers and text.

        Seed and step of the random words, call numbers, the scales that are kept, and the audit so far.
        """
        engine = self._engine
        return {
            "seed": engine.draws.seed,
            "step": self.step,
            "scales": engine.scales.state_dict(),
            "loss_scaling": engine.loss.state_dict(),
            "numbers": engine.clock.state_dict(),
            "audit": engine.audit.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; before the optimizer's own, which may hold states of scales that train.

        Raises:
            ConfigError: it is the state of another seed, or scales are in use already.
        """
        engine = self._engine
        if state["seed"] != engine.draws.seed:
            raise ConfigError(f"load_state_dict: got the state of seed {state['seed']}; allowed: seed {engine.draws.seed}")
        engine.draws.step = state["step"]
        engine.scales.load_state_dict(state["scales"])
        engine.loss.load_state_dict(state["loss_scaling"])
        engine.clock.load_state_dict(state["numbers"])
        engine.audit.load_state_dict(state["audit"], engine.sites)

    def hold_states(self, optimizer: Optimizer) -> None:
        """Follow the states that an optimizer has loaded, as they are: they were rounded before they were saved."""
        self._engine.optimizer.hold_states(optimizer)
