"""One training step on a batch, repeated from the same state on one machine after another."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, log10, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwsim.datapaths import Datapath
from hwsim.emulator import Machine, emulate
from hwsim.emulator.observing import Observer
from hwsim.emulator.ports import Converter
from hwsim.errors import ConfigError
from hwsim.formats.errors import NanError

from .curvature import class_axis

Loss = Callable[[Any, Any], Tensor]
DRAW_STRIDE = 1 << 32


@dataclass(frozen=True)
class Outcome:
    """What one step gave.

    Args:
        loss: of the batch; NaN where a NaN met a format that has none.
        outputs: of the model.
        gradients: of every parameter in the first step, as one vector; None without a step.
        after: the loss of the same batch after the last step, in the model's own precision; NaN without a step.
        update: what the steps added to every parameter, as one vector; None without a step.
        accuracy: the share of the batch's class numbers that have the highest score; NaN where the targets are none.
    """

    loss: float
    outputs: Tensor | None = None
    gradients: Tensor | None = None
    after: float = nan
    update: Tensor | None = None
    accuracy: float = nan


class Twin:
    """A model, its optimizer and one batch, kept as they were given: every step starts from a copy.

    Args:
        model, loss_fn, batch, optimizer: as for `hwsim.budget`.
        dtype: what parameters, buffers and the batch are computed in, or None for their own.
        steps: how many optimizer steps are taken, all on the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        batch: tuple[Any, Any],
        optimizer: Optimizer,
        dtype: torch.dtype | None,
        steps: int = 1,
    ) -> None:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ConfigError(f"batch: got {type(batch).__name__}; allowed: (inputs, targets)")
        self.loss_fn, self.steps = loss_fn, steps
        self.inputs, self.targets = _moved(batch[0], dtype), _moved(batch[1], dtype)
        self.start = copy.deepcopy((model, optimizer))
        if dtype is not None:
            self.start[0].to(dtype)
            for state in self.start[1].state.values():
                state.update({name: _moved(value, dtype) for name, value in state.items()})

    def copies(self) -> tuple[nn.Module, Optimizer]:
        """A model and its optimizer in the state that every step starts from."""
        return copy.deepcopy(self.start)

    def outputs(self, model: nn.Module) -> Any:
        """What a model makes of the batch."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        return model(*self.inputs) if isinstance(self.inputs, tuple | list) else model(self.inputs)

    def loss(self, model: nn.Module) -> Tensor:
        """The loss of the batch."""
        return self.loss_fn(self.outputs(model), self.targets)

    def step(
        self,
        machine: Datapath,
        converters: Mapping[str, Converter] | None,
        seed: int,
        draw: int = 0,
        *,
        stepping: bool = True,
        observer: Observer | None = None,
    ) -> tuple[Outcome, Machine | None]:
        """The steps from the start (without `stepping` only the forward pass), with the machine that they ran on.

        The seed is torch's own and that of all stochastic rounding, where the draw counts on.
        """
        model, optimizer = self.copies()
        first = [p.detach().clone() for p in model.parameters()] if stepping else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with emulate(
                    model, machine, optimizer, seed + draw * DRAW_STRIDE, converters=converters, observer=observer
                ) as ran:
                    outcome = self._step(model, optimizer, ran, stepping)
                    for _ in range(self.steps - 1 if stepping else 0):
                        self._step(model, optimizer, ran, stepping)
            except NanError:
                return Outcome(nan), None
            if not stepping:
                return outcome, ran
            torch.manual_seed(seed)
            with torch.no_grad():
                after = self.loss(model).item()
                update = torch.cat([(p - q).flatten().double() for p, q in zip(model.parameters(), first, strict=True)])
        return replace(outcome, after=after, update=update), ran

    def _step(self, model: nn.Module, optimizer: Optimizer, ran: Machine, stepping: bool) -> Outcome:
        optimizer.zero_grad()
        outputs = self.outputs(model)
        loss = self.loss_fn(outputs, self.targets)
        found = scores(outputs).detach()
        outcome = Outcome(loss.item(), found, accuracy=accuracy(found, self.targets))
        if not stepping:
            return outcome
        factor = ran.state_dict()["loss_scaling"]["factor"]
        ran.scale(loss).backward()  # type: ignore[no-untyped-call]
        gradients = flat_gradients(model) / factor
        optimizer.step()
        return replace(outcome, gradients=gradients)


def flat_gradients(model: nn.Module) -> Tensor:
    """All gradients as one vector, zeros where there is none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.is_floating_point()]
    return torch.cat([g.detach().flatten().double() for g in grads])


def scores(outputs: Any) -> Tensor:
    """The model's scores: its output, its `logits`, or the first of several outputs.

    Raises:
        ConfigError: there is no tensor among them.
    """
    found = getattr(outputs, "logits", outputs[0] if isinstance(outputs, tuple | list) else outputs)
    if not isinstance(found, Tensor):
        raise ConfigError(f"model: returns {type(outputs).__name__}; allowed: a tensor, or an output with `logits`")
    return found


def accuracy(outputs: Tensor, targets: Any) -> float:
    """The share of class numbers that have the highest score, negative ones (ignored by losses) left out; NaN without any."""
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return nan
    axis = class_axis(outputs, targets)
    if axis is None:
        return nan
    hits, labels = outputs.argmax(axis).flatten() == targets.flatten(), targets.flatten()
    return float(hits[labels >= 0].double().mean())


def sqnr(signal: Tensor, noisy: Tensor) -> float:
    """10 log10(sum x^2 / sum (y - x)^2) in dB."""
    power, noise = float(signal.double().square().sum()), float((noisy.double() - signal.double()).square().sum())
    return 10 * log10(power / noise) if noise and power else inf if not noise else nan


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine between two vectors; NaN where one is zero."""
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else nan


def _moved(value: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _moved(item, dtype) for key, item in value.items()}
    return type(value)(_moved(item, dtype) for item in value) if isinstance(value, tuple | list) else value
