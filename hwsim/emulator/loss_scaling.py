"""Loss scaling: small gradients are lifted into a narrow format's range, and divided again before the optimizer reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from hwsim.datapaths import LossScaling
from hwsim.errors import ConfigError


class LossScaler:
    """The scale of the loss in a run.

    After `interval` steps with finite gradients in a row the scale is multiplied by `growth`; where gradients are not finite
    the optimizer's are dropped, so that its step changes nothing, and the scale is multiplied by `backoff` (Micikevicius et al.
    2018, arXiv 1710.03740, section 3.2; torch.amp.GradScaler). Gradients are divided by the scale that was in their loss, each
    once a step, in whatever order several optimizers step.
    """

    def __init__(self, declared: LossScaling | None) -> None:
        self.declared = declared
        self.factor = declared.initial if declared is not None else 1.0
        self.finite_steps = 0
        self._in_loss: float | None = None
        # Gradients divided and not yet stepped on: whether all of their optimizer's are finite.
        self._divided = WeakTensorKeyDictionary()
        self._stepped: set[Optimizer] = set()
        self._backed_off = False

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        if self.declared is None:
            return loss
        if self._stepped:
            self._stepped.clear()
            self._backed_off = False
        self._in_loss = self.factor
        return loss * self.factor

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients, those that have been divided since its last step excepted.

        Raises:
            ConfigError: the loss was not scaled.
        """
        if self.declared is None:
            return
        if self._in_loss is None or optimizer in self._stepped:
            raise ConfigError("loss_scaling: the loss was not scaled; allowed: machine.scale(loss).backward()")
        gradients = [grad for grad in _gradients(optimizer) if grad not in self._divided]
        for grad in gradients:
            grad.mul_(1 / self._in_loss)
        finite = all(bool(torch.isfinite(grad).all()) for grad in gradients)
        for grad in gradients:
            self._divided[grad] = finite
        if not finite and not self._backed_off:
            self._backed_off = True
            self.factor, self.finite_steps = self.factor * self.declared.backoff, 0

    def divide(self, optimizer: Optimizer) -> None:
        """The same for the optimizer that is about to read its gradients; all are dropped where one was not finite.

        Raises:
            ConfigError: the loss was not scaled.
        """
        self.unscale(optimizer)
        if not all(self._divided[grad] for grad in _gradients(optimizer) if grad in self._divided):
            optimizer.zero_grad(set_to_none=True)

    def renew(self, optimizer: Optimizer) -> None:
        """The optimizer's gradients are about to be computed anew inside its step."""
        for grad in _gradients(optimizer):
            if grad in self._divided:
                del self._divided[grad]

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped on its gradients."""
        self.renew(optimizer)
        self._stepped.add(optimizer)

    def end_step(self) -> None:
        """A step that counts has ended."""
        if self.declared is None:
            return
        self.finite_steps += not self._backed_off
        self._backed_off = False
        if self.finite_steps == self.declared.interval:
            self.factor, self.finite_steps = self.factor * self.declared.growth, 0

    def state_dict(self) -> dict[str, float]:
        """The scale, and how many steps in a row were finite."""
        return {"factor": self.factor, "finite_steps": self.finite_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.factor, self.finite_steps = state["factor"], int(state["finite_steps"])


def _gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from (p.grad for p in group["params"] if p.grad is not None)
