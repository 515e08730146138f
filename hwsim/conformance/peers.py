"""Other people's rounding beside hwsim's: what a peer is, and how the two are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsim.formats import Format, FormatError, Levels, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.reference import check_projection
from hwsim.formats.rounding import MODES, OVERFLOWS, Overflow

from .inputs import inputs
from .registry import Oracle, Outcome

Array = NDArray[Any]
Answers = Mapping[Overflow, Array]
"""float64 results by overflow rule; rules that the peer does not have are left out."""

DETERMINISTIC = tuple(mode for mode in MODES if mode != "stochastic")


def no_defects(fmt: Format, rounding: Rounding, x: Array) -> Mapping[str, Array]:
    """Nothing is known to be wrong."""
    return {}


@dataclass(frozen=True)
class Peer:
    """Somebody else's converter.

    Attributes:
        oracle: who.
        has: whether it has a format.
        rounded: a format that it has, a rounding, the overflow rules that the format can follow and an array of float32 or
            float64, to its answers.
        defects: where the peer is known to be wrong, or to mean another thing, by name: masks over the array.
        takes_nan: whether NaN may be given for formats that have none (it becomes the largest value).
        takes_negative: whether negative numbers may be given for unsigned formats.
    """

    oracle: Oracle
    has: Callable[[Format], bool]
    rounded: Callable[[Format, Rounding, tuple[Overflow, ...], Array], Answers]
    defects: Callable[[Format, Rounding, Array], Mapping[str, Array]] = no_defects
    takes_nan: bool = False
    takes_negative: bool = False


def overflow_rules(fmt: Format) -> tuple[Overflow, ...]:
    """The overflow rules that a format can follow."""
    possible = []
    for overflow in OVERFLOWS:
        try:
            check_projection(fmt, Projection(overflow=overflow))  # type: ignore[arg-type]
        except FormatError:
            continue
        possible.append(overflow)
    return tuple(possible)  # type: ignore[arg-type]


def compare(
    fmt: Format, peer: Peer, modes: tuple[str, ...] = DETERMINISTIC, backend: str | None = None, every: int = 1
) -> Outcome:
    """hwsim and a peer on all inputs (or every so many), under every rounding and overflow rule that the peer answers."""
    total, wrong, first = 0, 0, ""
    asked: dict[str, None] = {}
    excluded: Counter[str] = Counter()
    for given in _inputs(fmt):
        x = given[_allowed(fmt, peer, given)][::every].contiguous()
        for mode in modes:
            rounding = Rounding.parse(mode)
            answers = peer.rounded(fmt, rounding, overflow_rules(fmt), x.numpy())
            defects = peer.defects(fmt, rounding, x.numpy()) if answers else {}
            for overflow, expected in answers.items():
                ours = quantize_tensor(x, fmt, Projection(rounding, overflow, nan=_nan(fmt)), backend=backend).double().numpy()
                differ = different(ours, expected)
                known = np.zeros_like(differ)
                for name, mask in defects.items():
                    excluded[name] += int((differ & mask & ~known).sum())
                    known |= mask
                total += int((~known).sum())
                differ &= ~known
                wrong += int(differ.sum())
                asked[f"{mode} {overflow}"] = None
                if differ.any() and not first:
                    i = int(differ.argmax())
                    first = f"; first: {x[i].item()!r} {mode} {overflow}: {ours[i]!r}, {peer.oracle.name} {expected[i]!r}"
    return Outcome(total, wrong, _summary(list(asked)) + first, tuple(excluded.items()))


def _inputs(fmt: Format) -> list[Tensor]:
    """What a format is compared on; for levels also the numbers where nearest changes, and those beside them.

    Levels have no one number of fraction bits; that of a posit near 1 with two exponent bits is taken for all.
    """
    lattice = fmt.lattice
    if not isinstance(lattice, Levels):
        return list(inputs(lattice.mantissa_bits).values())
    edges = torch.tensor(lattice.boundaries, dtype=torch.float64)
    away = torch.full_like(edges, torch.inf)
    return [*inputs(max(fmt.bits - 5, 0)).values(), torch.cat([edges, edges.nextafter(away), edges.nextafter(-away)])]


def different(ours: Array, theirs: Array) -> Array:
    """Where two arrays differ, sign of zero included, any NaN being the same."""
    same = (ours == theirs) & (np.signbit(ours) == np.signbit(theirs)) | np.isnan(ours) & np.isnan(theirs)
    result: Array = ~same
    return result


def _allowed(fmt: Format, peer: Peer, x: Tensor) -> Tensor:
    allowed = torch.ones_like(x, dtype=torch.bool)
    if not (fmt.has_nan or peer.takes_nan):
        allowed &= ~x.isnan()
    if not (fmt.signed or peer.takes_negative):
        allowed &= ~x.signbit() | x.isnan()
    return allowed


def _nan(fmt: Format) -> Any:
    return "error" if fmt.has_nan else "max"


def _summary(asked: list[str]) -> str:
    """Roundings and overflow rules in few words."""
    modes = list(dict.fromkeys(pair.split()[0] for pair in asked))
    rules = list(dict.fromkeys(pair.split()[1] for pair in asked))
    return f"{', '.join(modes)}; {', '.join(rules)}" if asked else "nothing is asked"
