"""The places where a datapath rounds, found by running one step on it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwsim.emulator import AuditRow
from hwsim.errors import ConfigError, not_allowed

from .machines import Role

UNCAST = ("move", "random", "wire", "unknown", "counter")


@dataclass(frozen=True)
class Place:
    """One cast, or one accumulator, at one site.

    Args:
        site: the contraction's name, the path of the layer whose vector unit rounds, or a stored tensor's name.
        gemm: `output`, `grad_input` or `grad_weight`; empty elsewhere.
        role: an operand role, `result`, `accumulator`, `vector`, or of the optimizer `gradient`, `momentum`, ...
        cast: what is declared there, in words.
    """

    site: str
    gemm: str
    role: str
    cast: str

    @property
    def port(self) -> str:
        """The emulator's name for it."""
        if self.gemm:
            return f"{self.site}/{self.gemm}/{self.role}"
        return f"{self.site or 'optimizer'}/{self.role}" if self.kind == "optimizer" else f"{self.site}/{self.role}"

    @property
    def layer(self) -> str:
        """The path of the module that it belongs to."""
        path = self.site.rpartition(".")[0] if self.kind == "optimizer" else self.site.split(":")[0]
        return path or "(model)"

    @property
    def kind(self) -> Role:
        """The role of a datapath that it belongs to."""
        if self.gemm or self.role == "vector":
            return self.role  # type: ignore[return-value]
        return "optimizer"

    @property
    def forward(self) -> bool:
        """Whether it acts on the loss of the batch itself; the others act on the loss after the step."""
        return self.gemm == "output" or self.role == "vector"


def places(audit: Iterable[AuditRow]) -> tuple[Place, ...]:
    """The places in an account of what ran, in the order of the run."""
    found: dict[str, Place] = {}
    for row in audit:
        if row.role in UNCAST:
            continue
        if row.cast != "none":
            place = Place(row.site, row.gemm, row.role, row.cast)
            found.setdefault(place.port, place)
        if row.gemm and row.mac != "native":
            place = Place(row.site, row.gemm, "accumulator", row.mac)
            found.setdefault(place.port, place)
    return tuple(found.values())


def chosen(found: Sequence[Place], patterns: Sequence[str] | None) -> tuple[Place, ...]:
    """The places whose site one of the shell-like patterns matches; all without patterns.

    Raises:
        ConfigError: a pattern matches none.
    """
    if patterns is None:
        return tuple(found)
    sites = dict.fromkeys(place.site for place in found)
    for pattern in patterns:
        if not fnmatch.filter(sites, pattern):
            raise ConfigError(f"budget: {not_allowed('sites', pattern, sites)}")
    return tuple(place for place in found if any(fnmatch.fnmatchcase(place.site, pattern) for pattern in patterns))
