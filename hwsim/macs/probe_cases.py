"""What a probed function gave on operands, how many of its results a unit explains, and what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from hwsim.errors import ConfigError, FormatError

from .matmul import matmul
from .record import Mac
from .units import mac as unit

Dot = Callable[[Tensor, Tensor, float], float]
"""c + a . b of two vectors of values of the operands' format."""

Case = tuple[Tensor, Tensor, float]


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        declared: the unit as in YAML, or None where no order of the language adds in this tree.
        tree: which terms are added together; `c` is C.
        checked, differing: random dot products compared with the declared unit, and how many differ.
        note: what no output of such a unit shows.
    """

    declared: Mapping[str, Any] | None
    tree: str
    checked: int
    differing: int
    note: str = ""

    def as_yaml(self) -> str:
        """A unit's file; where there is none, or not all of it is explained, a comment says so."""
        if self.declared is None:
            return f"# No order of the MAC language adds in this tree:\n# {self.tree}\nmac: {{order: native}}\n"
        share = f"{self.checked - self.differing} of {self.checked} random dot products agree"
        note = f"# {self.note}\n" if self.note else ""
        plain = json.loads(json.dumps(self.declared))
        return f"# {share}\n{note}{yaml.safe_dump({'mac': plain}, sort_keys=False)}"


@dataclass(frozen=True)
class Cases:
    """Operands (rows, K), C, and what the function gave."""

    a: Tensor
    b: Tensor
    c: Tensor
    results: Tensor

    @classmethod
    def of(cls, dot: Dot, cases: Sequence[Case]) -> Cases:
        """The function called on each case."""
        results = torch.tensor([dot(*case) for case in cases], dtype=torch.float64)
        c = torch.tensor([case[2] for case in cases], dtype=torch.float64)
        return cls(torch.stack([case[0] for case in cases]), torch.stack([case[1] for case in cases]), c, results)

    def differing(self, candidate: Mac) -> int:
        """How many results a unit does not give: the diagonal of one product of matrices."""
        found = matmul(self.a, self.b.mT, candidate, torch.diag(self.c)).diagonal().double()
        return int((~((found == self.results) | (found.isnan() & self.results.isnan()))).sum())

    def best(self, candidates: Iterable[dict[str, Any]]) -> tuple[int, dict[str, Any] | None]:
        """The candidate that explains the most cases, and how many it does not; the search ends with one that explains all."""
        return min(self._ranked(candidates), key=lambda pair: pair[0], default=(0, None))

    def _ranked(self, candidates: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for mapping in candidates:
            try:
                candidate = unit(mapping)
            except ConfigError:
                continue
            wrong = self.differing(candidate)
            yield wrong, mapping
            if not wrong:
                return


def guarded(dot: Dot) -> Dot:
    """The function, whose failure is a clear error."""

    def call(a: Tensor, b: Tensor, c: float) -> float:
        try:
            return float(dot(a, b, c))
        # Whatever somebody else's function dies of, it is no dot product.
        except Exception as error:
            message = f"dot: got a function that fails with {type(error).__name__}: {error}; allowed: dot(a, b, c) -> a number"
            raise ConfigError(message) from error

    return call


def check_repeats(dot: Dot, case: Case) -> None:
    """Refuse a function that gives other results when it is called again."""
    if len({repr(dot(*case)) for _ in range(3)}) > 1:
        raise FormatError(
            "probe: equal calls gave different results, as with stochastic rounding; allowed: a function of a, b and c alone"
        )
