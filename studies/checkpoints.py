"""How far a training has come, on the disk: enough to go on bit for bit as if it had not been interrupted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.emulator import Machine

from .choices import CheckpointChoice
from .disk import write_with
from .generators import generator_states, set_generators
from .provenance import versions
from .weights import Trainee


@dataclass
class Position:
    """Where in its data a training is: right after an optimizer step.

    Args:
        epoch: from 0.
        batch: how many of the epoch's batches are done.
        steps: optimizer steps so far.
        total: the sum of the epoch's losses over its samples.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    total: float = 0.0


@dataclass(frozen=True)
class Training:
    """All that changes in a training: what a checkpoint is taken of, and put back into."""

    model: nn.Module
    trained: Trainee
    machine: Machine

    def state(self) -> dict[str, Any]:
        """As tensors, numbers and text."""
        with _disable_current_modes():
            return {
                "model": self.model.state_dict(),
                "buffers": dict(self.model.named_buffers()),
                "optimizer": self.trained.optimizer.state_dict(),
                "machine": self.machine.state_dict(),
                "generators": generator_states(),
            }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what was saved, as it is: nothing is rounded anew."""
        optimizer = self.trained.optimizer
        with _disable_current_modes(), torch.no_grad():
            self.model.load_state_dict(state["model"])
            for name, buffer in self.model.named_buffers():
                buffer.copy_(state["buffers"][name])
            # Scales that train join the optimizer before its own state is loaded.
            self.machine.load_state_dict(state["machine"])
            optimizer.load_state_dict(state["optimizer"])
            self.machine.hold_states(getattr(optimizer, "base", optimizer))
            set_generators(state["generators"])


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        position: in the data.
        metrics: the rows so far.
        ending: status and reason so far.
        states: of each process of the run.
    """

    position: Position
    metrics: list[dict[str, Any]]
    ending: tuple[str, str]
    states: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint file of one run.

    Args:
        path: of the file; None keeps none.
        hash: of the run.
        choice: how often it is written.
    """

    path: Path | None = None
    hash: str = ""
    choice: CheckpointChoice = field(default_factory=CheckpointChoice)

    def due(self, position: Position, ends_epoch: bool) -> bool:
        """Whether a checkpoint is taken after this step."""
        if self.path is None:
            return False
        if self.choice.steps is not None:
            return position.steps % self.choice.steps == 0
        return ends_epoch and (position.epoch + 1) % (self.choice.epochs or 1) == 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file as a whole.

        Raises:
            OSError: it cannot be written; the one before is as it was.
        """
        if self.path is not None:
            fields = {"position": asdict(checkpoint.position), "metrics": checkpoint.metrics, "ending": checkpoint.ending}
            write_with(self.path, partial(torch.save, {"for": self._for(), **fields, "states": checkpoint.states}))

    def load(self) -> Checkpoint | None:
        """What was saved, or None where there is nothing that this run can go on from; a file that is of no use is told of."""
        if self.path is None or not self.path.exists():
            return None
        try:
            # Tensors, numbers and text only: loading runs no code.
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            if found.pop("for") != self._for():
                warnings.warn(f"{self.path}: of another run or other versions; the run starts anew", stacklevel=2)
                return None
            return Checkpoint(Position(**found.pop("position")), **found)
        except (RuntimeError, UnpicklingError, OSError, EOFError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"{self.path}: no checkpoint ({error}); the run starts anew", stacklevel=2)
            return None

    def _for(self) -> dict[str, str]:
        return {"run": self.hash, **{name: version for name, version in versions().items() if name in ("hwsim", "torch")}}
