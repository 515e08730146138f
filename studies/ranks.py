"""The processes that share each batch of one run: rank r of N takes every N-th sample, and gradients are averaged."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.datapaths import Datapath
from hwsim.emulator import Machine


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """Which of a batch's samples are this process'."""
        return slice(self.rank, count, self.size)

    def model(self, model: nn.Module, machine: Machine, datapath: Datapath) -> Callable[[Tensor], Tensor]:
        """The model, which averages its gradients where there is more than one process: in the datapath's wire format if any."""
        if self.size == 1:
            return model
        # Otherwise the gradients are put in another order after the first backward pass of a process, so that a run that goes on
        # from a checkpoint would share them otherwise than the one that was not interrupted.
        parallel = DistributedDataParallel(model, find_unused_parameters=True)
        if datapath.wire is not None:
            parallel.register_comm_hook(None, machine.gradient_hook())
        return parallel

    def weighted(self, loss: Tensor, count: int) -> Tensor:
        """A loss whose average over the processes is the mean over the batch, also where the shares differ in size."""
        if count % self.size == 0:
            return loss
        own = len(range(*self.share(count).indices(count)))
        return loss * (own * self.size / count)

    def mean(self, value: float, count: int) -> float:
        """The mean over the samples of a batch, of a mean over each process' share."""
        if self.size == 1:
            return value
        own = len(range(*self.share(count).indices(count)))
        with _disable_current_modes():
            shares = [torch.zeros((), dtype=torch.float64) for _ in range(self.size)]
            dist.all_gather(shares, torch.tensor(value * own, dtype=torch.float64))
        return float(sum(share.item() for share in shares)) / count

    def gathered(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The states of all processes in the first one, nothing in the others."""
        if self.size == 1:
            return [state]
        found: list[Any] = [None] * self.size
        with _disable_current_modes():
            own = io.BytesIO()
            torch.save(state, own)
            dist.gather_object(own.getvalue(), found if self.rank == 0 else None)
            return [torch.load(io.BytesIO(one), weights_only=True) for one in found] if self.rank == 0 else []


ALONE = Ranks()
