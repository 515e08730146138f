"""Loss scaling: small gradients are lifted into a narrow format's range, and divided again before the optimizer reads them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from hwsim.datapaths import LossScaling
from hwsim.errors import ConfigError


class LossScaler:
    """The scale of the loss in a run.

    After `interval` steps with finite gradients in a row the scale is multiplied by `growth`; gradients that are not finite are
    dropped, so that the step changes nothing, and the scale is multiplied by `backoff` (Micikevicius et al. 2018, arXiv
    1710.03740, section 3.2; torch.amp.GradScaler).
    """

    def __init__(self, declared: LossScaling | None) -> None:
        self.declared = declared
        self.factor = declared.initial if declared is not None else 1.0
        self.finite_steps = 0
        self._scaled = self._divided = False

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        self._scaled = True
        return loss if self.declared is None else loss * self.factor

    def divide(self, optimizer: Optimizer) -> None:
        """Divide the gradients that the optimizer is about to read, once a step; drop them all where one is not finite.

        Raises:
            ConfigError: the loss was not scaled.
        """
        if self.declared is None or self._divided:
            return
        if not self._scaled:
            raise ConfigError("loss_scaling: the loss was not scaled; allowed: machine.scale(loss).backward()")
        self._divided = True
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for grad in gradients:
            grad.mul_(1 / self.factor)
        finite = all(bool(torch.isfinite(grad).all()) for grad in gradients)
        if not finite:
            optimizer.zero_grad(set_to_none=True)
        self._adapt(self.declared, finite)

    def end_step(self) -> None:
        """A step has ended."""
        self._scaled = self._divided = False

    def state_dict(self) -> dict[str, float]:
        """The scale, and how many steps in a row were finite."""
        return {"factor": self.factor, "finite_steps": self.finite_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.factor, self.finite_steps = state["factor"], int(state["finite_steps"])

    def _adapt(self, declared: LossScaling, finite: bool) -> None:
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.factor *= declared.backoff
        elif self.finite_steps == declared.interval:
            self.factor, self.finite_steps = self.factor * declared.growth, 0
