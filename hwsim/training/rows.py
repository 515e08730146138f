"""A weight as rows that share one set of levels: the tensor, its channels, or groups of neighbours."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from hwsim.casts import Channel, Granularity, Group
from hwsim.errors import ConfigError

_ADAPTER: TypeAdapter[Granularity] = TypeAdapter(Granularity)


def granularity(given: Any) -> Granularity:
    """`"tensor"`, `{"channel": axis}` or `{"group": size}` as a record.

    Raises:
        ConfigError: anything else.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError:
        text = "'tensor', {'channel': axis} or {'group': size >= 1}"
        raise ConfigError(f"granularity: got {given!r}; allowed: {text}") from None


def to_rows(x: torch.Tensor, share: Granularity) -> torch.Tensor:
    """(rows, elements a row); a view where x's layout allows it.

    Raises:
        ConfigError: an axis that x lacks, or a group size that does not divide the last axis.
    """
    if isinstance(share, Channel):
        if not -x.ndim <= share.channel < x.ndim:
            raise ConfigError(f"granularity: got channel {share.channel} for shape {tuple(x.shape)}; allowed: an axis of it")
        return x.movedim(share.channel, 0).flatten(1) if x.ndim > 1 else x.unsqueeze(1)
    if isinstance(share, Group):
        if not x.ndim or x.shape[-1] % share.group:
            raise ConfigError(
                f"granularity: got group {share.group} for shape {tuple(x.shape)}; allowed: a divisor of the last axis"
            )
        return x.reshape(-1, share.group)
    return x.reshape(1, -1)


def from_rows(rows: torch.Tensor, shape: torch.Size, share: Granularity) -> torch.Tensor:
    """The inverse of `to_rows`."""
    if isinstance(share, Channel) and len(shape) > 1:
        moved = [shape[share.channel], *(n for axis, n in enumerate(shape) if axis != share.channel % len(shape))]
        return rows.reshape(moved).movedim(0, share.channel)
    return rows.reshape(shape)
