"""The backends by name: the built-in ones, then those of the entry-point group `hwsim.backends`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import MappingProxyType
from typing import Protocol

from torch import Tensor, dtype

from hwsim.formats.base import Format
from hwsim.formats.errors import FormatError, not_allowed
from hwsim.formats.lowering import Rule, lower
from hwsim.formats.philox import Draw
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import UNSCALED, Geometry, ScaleLayout, geometry, result_dtype

from . import reference, vector

ENTRY_POINTS = "hwsim.backends"


class Quantize(Protocol):
    """Rounds a tensor: see `hwsim.formats.operators.quantize_tensor`."""

    def __call__(
        self, x: Tensor, fmt: Format, projection: Projection, scale: Tensor | None, layout: ScaleLayout, draw: Draw, rescale: bool
    ) -> Tensor: ...


class RoundTensor(Protocol):
    """The same in the plain numbers of a kernel."""

    def __call__(
        self, x: Tensor, rule: Rule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: dtype
    ) -> Tensor: ...


@dataclass(frozen=True)
class Backend:
    """One way to round tensors.

    Args:
        name: what `backend=` calls it.
        available: gives an empty string, or why it cannot run here.
        quantize: rounds a tensor.
    """

    name: str
    available: Callable[[], str]
    quantize: Quantize


def lowered(round_tensor: RoundTensor) -> Quantize:
    """A `quantize` from a kernel that takes a rule's plain numbers."""

    def quantize(
        x: Tensor, fmt: Format, projection: Projection, scale: Tensor | None, layout: ScaleLayout, draw: Draw, rescale: bool = True
    ) -> Tensor:
        where = UNSCALED if scale is None else geometry(x.shape, scale, layout)
        return round_tensor(x, lower(fmt, projection, rescale), scale, where, draw.numbers, result_dtype(fmt, x.dtype))

    return quantize


def _numba_missing() -> str:
    return "" if find_spec("numba") else "numba is not installed"


def _numba(
    x: Tensor, rule: Rule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: dtype
) -> Tensor:
    from .cpu import round_tensor

    return round_tensor(x, rule, scale, geometry, draw, dtype)


@cache
def registered() -> Mapping[str, Backend]:
    """Every backend by name.

    Raises:
        FormatError: a plug-in takes a name that exists, or is no Backend.
    """
    known = {
        "reference": Backend("reference", str, reference.quantize),
        "torch": Backend("torch", str, lowered(vector.round_tensor)),
        "numba": Backend("numba", _numba_missing, lowered(_numba)),
    }
    for entry in entry_points(group=ENTRY_POINTS):
        plugin = entry.load()
        if entry.name in known:
            raise FormatError(f"backend: {entry.name!r} of {entry.value} exists already; allowed: a new name", "backend")
        if not isinstance(plugin, Backend):
            raise FormatError(f"backend: {entry.name!r} of {entry.value} is {plugin!r}; allowed: a Backend", "backend")
        known[entry.name] = plugin
    return MappingProxyType(known)


def backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        FormatError: there is none, or it cannot run here.
    """
    if name not in registered():
        raise FormatError(not_allowed("backend", name, registered()), "backend")
    found = registered()[name]
    if why_not := found.available():
        raise FormatError(f"backend: got {name!r}, which cannot run here: {why_not}", "backend")
    return found


def backends() -> dict[str, str]:
    """For each backend `available`, or why it is not."""
    return {name: record.available() or "available" for name, record in registered().items()}
