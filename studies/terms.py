"""What a run is performed under; none of it changes its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import CheckpointChoice, Resources


@dataclass(frozen=True)
class Terms:
    """See the arguments.

    Args:
        checkpoint: how often a training says how far it has come.
        resources: what it may take.
        sinks: where its metrics go beside its results.
        origin: who asked for it: command line and commit.
    """

    checkpoint: CheckpointChoice = field(default_factory=CheckpointChoice)
    resources: Resources = field(default_factory=Resources)
    sinks: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
