"""What several data-parallel processes keep in common beside their gradients; with one process, nothing happens here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def several() -> bool:
    """Whether torch.distributed runs more than this process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def means(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """The means over all ranks, in which an absent tensor is zeros of the shape of its like; absent where no rank has any."""
    if not several() or not like:
        return list(tensors)
    present = torch.tensor([float(x is not None) for x in tensors], device=like[0].device)
    values = [torch.zeros_like(zero) if x is None else x for x, zero in zip(tensors, like, strict=True)]
    found = _reduced([present, *values], dist.ReduceOp.SUM)
    ranks = dist.get_world_size()
    return [x / ranks if some else None for x, some in zip(found[1:], found[0].tolist(), strict=True)]


def largest(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The largest over all ranks, element by element."""
    return _reduced(tensors, dist.ReduceOp.MAX) if several() and tensors else list(tensors)


def first(x: Tensor) -> Tensor:
    """The tensor of rank 0."""
    if several():
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def _reduced(tensors: Sequence[Tensor], by: dist.ReduceOp.RedOpType) -> list[Tensor]:
    flat = torch.cat([x.detach().reshape(-1).float() for x in tensors])
    dist.all_reduce(flat, by)
    parts = torch.split(flat, [x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]
