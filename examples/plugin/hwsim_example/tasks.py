"""A task: its options are keyword arguments with defaults, and the annotations say what is allowed."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hwsim.models import Data, Task
from hwsim.models.registry import AtLeast, Count, NonNegative


def two_moons(*, width: Count = 8, noise: NonNegative = 0.05, samples: Annotated[int, AtLeast(8)] = 256) -> Task:
    """Two half circles that interlock, told apart by a small network."""
    return Task(
        make_model=lambda: nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2)),
        load_data=lambda: Data(*_moons(samples, noise, 0), *_moons(samples, noise, 1)),
        loss=cross_entropy,
        metrics={"accuracy": lambda outputs, targets: (outputs.argmax(1) == targets).double().mean()},
        source="drawn here",
    )


def _moons(samples: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    side = torch.arange(samples) % 2
    angle = torch.pi * torch.rand(samples, generator=generator)
    moon = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    points = torch.where(side[:, None] == 0, moon, torch.tensor([1.0, 0.5]) - moon)
    return points + noise * torch.randn(samples, 2, generator=generator), side
