"""Samples that are read from files as they are asked for, where a tensor of all of them would not fit."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Samples(ABC):
    """Stands for a tensor whose first dimension counts the samples.

    A run reads its batches on the machine that it emulates, where every operation of torch is rounded: an implementation
    computes with something else, numpy say.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """The samples whose numbers are in an int64 tensor, or in a slice, as one tensor."""

    @property
    @abstractmethod
    def fingerprint(self) -> bytes:
        """What tells these samples from others: their part of the data's checksum."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Samples:
        """The same samples, read to `device`."""
