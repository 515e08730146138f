"""What an observer of the emulated machine is shown: every GEMM with its operands, and the node of every forward GEMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.autograd.graph import Node

if TYPE_CHECKING:
    from hwsim.layering import Gemm, Operand

    from .ports import Port
    from .records import GemmNote
    from .sites import Site


@dataclass(frozen=True, slots=True)
class Factor:
    """An operand of a GEMM as the model gave it, and how a port casts it in its own layout."""

    role: Operand
    x: Tensor
    cast: Callable[[Port], Tensor]


@dataclass(frozen=True, slots=True)
class Product:
    """One GEMM that has run.

    Args:
        site, gemm, call: where.
        factors: its operands, in the order in which `multiply` takes them.
        out: what it handed on.
        multiply: the same contraction of other operands, without an addend.
        target: of a backward GEMM which forward factor (0 or 1) `out` is the gradient of; None in the forward pass.
        flipped: whether `out` is the transpose of that gradient.
    """

    site: Site
    gemm: Gemm
    call: int
    factors: tuple[Factor, Factor]
    out: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor]
    target: int | None = None
    flipped: bool = False


class Observer(Protocol):
    """Looks on and changes nothing."""

    def product(self, product: Product) -> None:
        """A GEMM has run, in the forward or the backward pass; recomputed ones are not shown."""
        ...

    def node(self, node: Node, note: GemmNote) -> None:
        """The autograd node of a forward GEMM is complete (with torch's `node_creation_hook` only)."""
        ...
