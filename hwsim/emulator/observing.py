"""What an observer of the emulated machine is shown: every GEMM with its operands and its node, and every other tensor made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.autograd.graph import Node

if TYPE_CHECKING:
    from hwsim.casting import Quantized
    from hwsim.formats import Draw
    from hwsim.layering import Gemm, Operand
    from hwsim.macs import Mac
    from hwsim.macs.quantized import Scaled

    from .ports import Port
    from .records import GemmNote
    from .sites import Layer, Site


@dataclass(frozen=True, slots=True)
class Factor:
    """An operand of a GEMM as the model gave it, how a port casts it in its own layout, and the name of its own port."""

    role: Operand
    x: Tensor
    cast: Callable[[Port], Tensor]
    port: str


def unfolded(sums: Tensor) -> Tensor:
    """The sums of a unit as they are."""
    return sums


@dataclass(frozen=True, slots=True)
class Dots:
    """The dot products of one GEMM on an emulated unit, and what becomes of their sums before the result's cast.

    Args:
        a, b: what the unit was given, (.., M, K) and (.., K, N).
        mac, draw: the unit, and the random words that it took.
        fold: of a tensor (.., M, N), in the layout of the GEMM's result.
        factors: scales that multiply the folded sums, each broadcastable to the result.
        alpha: what multiplies the sums then.
        addend: what joins them last (a bias, times beta), broadcastable to the result; or None.
    """

    a: Tensor | Scaled | Quantized
    b: Tensor | Scaled | Quantized
    mac: Mac
    draw: Draw
    fold: Callable[[Tensor], Tensor] = unfolded
    factors: tuple[Tensor, ...] = ()
    alpha: float = 1
    addend: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """One GEMM that has run.

    Args:
        site, gemm, call: where.
        factors: its operands, in the order in which `multiply` takes them.
        out: what it handed on, after the result's cast.
        multiply: the same contraction of other operands, without an addend.
        target: of a backward GEMM which forward factor (0 or 1) `out` is the gradient of; None in the forward pass.
        flipped: whether `out` is the transpose of that gradient.
        dots: how an emulated unit made it; None where the product is torch's own.
    """

    site: Site
    gemm: Gemm
    call: int
    factors: tuple[Factor, Factor]
    out: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor]
    target: int | None = None
    flipped: bool = False
    dots: Dots | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """How the vector unit makes a result.

    Args:
        site, call: what the random words of its rounding are keyed by, where it is declared to be stochastic.
        stepped: the result before its rounding if the declared steps made it, where they are declared and did not act.
    """

    site: str = ""
    call: int = 0
    stepped: Callable[[], Tensor] | None = None


class Observer(Protocol):
    """Looks on and changes nothing."""

    def product(self, product: Product) -> None:
        """A GEMM has run, in the forward or the backward pass; recomputed ones are not shown."""
        ...

    def tensor(self, site: str, name: str, x: Tensor, layer: Layer | None = None, made: Made | None = None) -> None:
        """Any other tensor, rounded: a `vector` result, a gradient that was added to (`accumulate`, where a format is declared),
        what the optimizer read (`gradient`), made (`update`) or stored.

        What is stored has the name of its kind: `weight`, `momentum`, `variance`, `state`, `scale`. What is recomputed is not
        shown. A vector result comes with its layer, and with what else there is to know of it.
        """
        ...

    def node(self, node: Node, note: GemmNote) -> None:
        """The autograd node of a forward GEMM is complete (with torch's `node_creation_hook` only)."""
        ...
