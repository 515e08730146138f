"""Cast operands that a later GEMM of the same step reads again: made once where both ports make the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hwsim.layering import Operand

from .meter import Tally
from .origins import Stored, origin_of
from .ports import Port


class Copy:
    """What a port made of a tensor, and that tensor as it was; it is held, so that its memory cannot be another's."""

    __slots__ = ("_direct", "_place", "_version", "_writes", "_x", "tally", "values")

    def __init__(self, port: Port, x: Tensor, values: Tensor, tally: Tally | None) -> None:
        self.values, self.tally = values, tally
        self._x, self._version, self._place = x, x._version, _place(x)
        self._direct, self._writes = port.direct, _writes(x)

    def serves(self, port: Port, x: Tensor) -> bool:
        """Whether the port would make the same of this tensor: the same numbers at the same place, not written since."""
        same = port.direct is self._direct and x._version == self._version and _place(x) == self._place
        return same and _writes(x) == self._writes

    def taken(self, port: Port) -> Tensor:
        """The values, counted as the port's."""
        port.count_again(self.tally)
        return self.values


class Copies:
    """The copies of one step.

    An output gradient's is kept from one of its two GEMMs to the other, which follows at once; a weight's from the forward to
    the backward pass. An activation's is not: it would take as much memory again as what autograd keeps.
    """

    __slots__ = ("_gradient", "_weights")

    def __init__(self) -> None:
        self._gradient: Copy | None = None
        self._weights: dict[Stored, Copy] = {}

    def of(self, port: Port, x: Tensor, role: Operand, again: bool, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, the port's cast of x in this role, or a copy of it; `again`: a weight will be asked for again."""
        if port.direct is None or role == "input" or x.is_inference():
            return make()
        if role == "grad_output":
            found, self._gradient = self._gradient, None
            if found is not None and found.serves(port, x):
                return found.taken(port)
            values = make()
            self._gradient = Copy(port, x, values, port.tally)
            return values
        weight = origin_of(x).weight
        if weight is None:
            return make()
        found = self._weights.pop(weight, None)
        if found is not None and found.serves(port, x):
            values, tally = found.taken(port), found.tally
        else:
            values, tally = make(), port.tally
        if again:
            self._weights[weight] = Copy(port, x, values, tally)
        return values

    def clear(self) -> None:
        """The step ends."""
        self._gradient = None
        self._weights.clear()


def _place(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), x.shape, x.stride()


def _writes(x: Tensor) -> int:
    weight = origin_of(x).weight
    return 0 if weight is None else weight.writes
