"""What looks at every cast of a step in which nothing is cast, and sums up what it would change, to first and second order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import apply
from hwsim.emulator.observing import Made, Product
from hwsim.emulator.ports import Draws, Port
from hwsim.emulator.records import GemmNote
from hwsim.emulator.sites import RIGHT, Layer

from .causes import CAUSES, Stage, at_first
from .places import Place
from .twins import DRAW_STRIDE

if TYPE_CHECKING:
    from hwsim.casts import Cast

Key = tuple[str, str]
"""The port of a place, and the cause up to which its cast goes."""

Call = tuple[str, int]
"""A site and the number of its call, or the path of a layer's vector unit and the number of a result."""


class Prediction:
    """The predicted change of the loss, by port and cause.

    Forward sites: `sum <G, e> + 1/2 mean_n <G_n, e_n>^2` of the loss of the batch, with e the change that the cast makes in its
    GEMM's output, or in a result of the vector unit, G the gradient there, and the second term (Gauss-Newton) from backward
    passes on labels drawn from the model.
    Backward sites: the change of the loss after the step, <error of the gradient, tangent>, the tangent being the derivative of
    the forward operand along (update's Jacobian) (gradient of the loss after the step); -lr times it for plain SGD.
    Optimizer unit: the change of the loss after the step, <gradient of that loss, change of the weights>.
    """

    def __init__(self) -> None:
        self.first: dict[Key, float] = defaultdict(float)
        self.second: dict[Key, float] = defaultdict(float)
        self.forward_second = 0.0

    def change(self, port: str, cause: str = CAUSES[-1]) -> float:
        """The change that the causes of a port up to one make together; NaN where nothing was predicted."""
        key = (port, cause)
        return self.first[key] + self.second.get(key, 0.0) if key in self.first else nan

    def part(self, port: str, cause: str) -> float:
        """The share of one cause."""
        index = CAUSES.index(cause)
        return self.change(port, cause) - (self.change(port, CAUSES[index - 1]) if index else 0.0)

    def forward_total(self, places: Sequence[Place]) -> float:
        """The change that all forward casts make at once: their first-order terms and one joint second-order term."""
        found = [
            self.first[place.port, CAUSES[-1]] for place in places if place.forward and (place.port, CAUSES[-1]) in self.first
        ]
        return sum(found) + self.forward_second if found else nan


class Probe:
    """Looks at every GEMM of a step in which nothing is cast, and sums up what its casts would change.

    The passes that it is shown, in this order: `moved` (only for backward casts), `errors`, `gradients`, then the curvature's.
    """

    def __init__(self, draws: Mapping[str, int], seed: int, causes: Sequence[str]) -> None:
        self.prediction = Prediction()
        self.phase = ""
        self.step = 0.0
        self.factor = 1.0
        self._samples = 1
        self._draws = draws
        self._seed = seed
        self.causes = [(cause, None if cause == CAUSES[-1] else Stage(cause)) for cause in causes]
        self._ports: dict[str, list[list[tuple[str, Port]]]] = {}
        self._errors: dict[Call, list[tuple[str, int, str, Tensor]]] = defaultdict(list)
        self._shown: list[tuple[Call, Tensor]] = []
        self._results = 0
        self._edges: dict[Call, GradientEdge] = {}
        self._curved: list[Call] = []
        self._operands: dict[tuple[str, int, int], Tensor] = {}

    def product(self, product: Product) -> None:
        """A GEMM has run."""
        self.settle()
        if product.gemm == "output" and self.phase == "moved":
            for i, factor in enumerate(product.factors):
                self._operands[product.site.name, product.call, i] = factor.x.detach()
        elif product.gemm == "output" and self.phase == "errors":
            for i, factor in enumerate(product.factors):
                key = (product.site.name, product.call, i)
                if key in self._operands:
                    # From here on the tangent, the derivative along the direction.
                    self._operands[key] = (self._operands[key] - factor.x.detach()) / (self.step or 1.0)
            for port, draw, cause, error in self._changes(product):
                self._errors[product.site.name, product.call].append((port, draw, cause, error))
        elif product.gemm != "output" and self.phase == "gradients" and product.target is not None:
            tangent = self._operands.get((product.site.name, product.call, product.target))
            if tangent is not None:
                tangent = tangent.mT if product.flipped else tangent
                for port, _, cause, error in self._changes(product):
                    self._add(port, cause, float((error * tangent).sum()))

    def tensor(self, site: str, name: str, x: Tensor, layer: Layer | None = None, made: Made | None = None) -> None:
        """A result of the vector unit in the forward pass has an error, that of the unit's own steps among it.

        What else is made is predicted elsewhere.
        """
        self.settle()
        if layer is None or made is None or (cast := layer.declared.vector) is None:
            return
        port = f"{layer.path}/vector"
        if port not in self._draws:
            return
        for cause, _ in self.causes:
            # A unit that runs in the backward pass alone leaves the batch's loss where it is.
            self._add(port, cause, 0.0)
        if self.phase != "errors" or x.is_complex():
            return
        call, self._results = (port, self._results), self._results + 1
        exact = x.detach()
        given = exact if made.stepped is None else made.stepped().detach()
        for draw, ports in enumerate(self._built(cast, port, port)):
            self._errors[call] += [
                (port, draw, cause, _error(one(given, made.call, site=made.site), exact)) for cause, one in ports
            ]
        self._shown.append((call, x))

    def node(self, node: Node, note: GemmNote) -> None:
        """A forward GEMM's node: its gradients meet its errors."""
        if self.phase == "errors":
            self._await((note.site.name, note.call), GradientEdge(node, 0))

    def settle(self) -> None:
        """Find the nodes of the vector results that were shown last: they are there once their operation is complete.

        Nothing has written to a result by then, so that the node is that of the operation that was shown.
        """
        for call, x in self._shown:
            if x.grad_fn is not None:
                self._await(call, GradientEdge(x.grad_fn, x.output_nr))
        self._shown = [(call, x) for call, x in self._shown if x.grad_fn is None]

    def edges(self, samples: int) -> list[GradientEdge]:
        """Where the curvature's gradients are asked for: behind every GEMM and vector result that has errors."""
        self.phase, self._samples = "curvature", samples
        self._curved = [place for place, errors in self._errors.items() if errors and place in self._edges]
        found = [self._edges[place] for place in self._curved]
        # The nodes' hooks hold this probe: no cycle outlives the pass.
        self._edges.clear()
        return found

    def _await(self, call: Call, edge: GradientEdge) -> None:
        """The gradient at an edge meets the errors of a call."""
        self._edges[call] = edge
        edge.node.register_prehook(partial(self._gradient, call, edge.output_nr))

    def curve(self, gradients: Sequence[Tensor | None], passes: int) -> None:
        """The gradients at those edges of one backward pass of drawn labels."""
        inner: dict[tuple[str, int, str], Tensor] = {}
        joint: Tensor | None = None
        with _disable_current_modes(), torch.no_grad():
            for place, gradient in zip(self._curved, gradients, strict=True):
                if gradient is None:
                    continue
                for port, draw, cause, error in self._errors[place]:
                    grouped = self._samples if len(error) % self._samples == 0 else 1
                    found = torch.linalg.vecdot(error.reshape(grouped, -1), gradient.reshape(grouped, -1))
                    key = (port, draw, cause)
                    inner[key] = inner[key] + found if key in inner else found
                    if cause == CAUSES[-1] and draw == 0:
                        joint = found if joint is None else joint + found
            for (port, _, cause), found in inner.items():
                self.prediction.second[port, cause] += 0.5 * float(found.square().sum()) / passes / self._draws[port]
            if joint is not None:
                self.prediction.forward_second += 0.5 * float(joint.square().sum()) / passes

    def _gradient(self, place: Call, number: int, gradients: Sequence[Tensor | None]) -> None:
        gradient = gradients[number]
        if gradient is None or self.phase != "gradients":
            return
        with _disable_current_modes(), torch.no_grad():
            for port, _, cause, error in self._errors[place]:
                self._add(port, cause, float(torch.linalg.vecdot(error.reshape(-1), gradient.reshape(-1))))

    def _add(self, port: str, cause: str, change: float) -> None:
        """A first-order term of one draw; gradients are those of the scaled loss."""
        self.prediction.first[port, cause] += change / self.factor / self._draws[port]

    def _changes(self, product: Product) -> list[tuple[str, int, str, Tensor]]:
        """By port, draw and cause, the change in the product when that cast alone goes as far as that cause."""
        a, b = product.factors
        if a.role == b.role:
            operands = [*self._changed_together(product)]
        else:
            operands = [
                *self._changed(product, a.role, lambda port: product.multiply(a.cast(port) - a.x, b.x), a.port),
                *self._changed(product, b.role, lambda port: product.multiply(a.x, b.cast(port) - b.x), b.port),
            ]
        return [*operands, *self._changed(product, "result", lambda port: port(product.out, product.call) - product.out)]

    def _changed(
        self, product: Product, role: str, change: Callable[[Port], Tensor], port: str = ""
    ) -> Iterator[tuple[str, int, str, Tensor]]:
        place = f"{product.site.name}/{product.gemm}/"
        name = place + role
        if name in self._draws:
            for draw, ports in enumerate(self._built(_declared(product, role), place + (port or role), name)):
                for cause, one in ports:
                    yield name, draw, cause, change(one)

    def _changed_together(self, product: Product) -> Iterator[tuple[str, int, str, Tensor]]:
        """Both operands belong to one place: what is left of the product of the two errors counts too."""
        a, b = product.factors
        name = f"{product.site.name}/{product.gemm}/{a.role}"
        if name in self._draws:
            exact = product.multiply(a.x, b.x)
            built = (self._built(_declared(product, a.role), full, name) for full in (name, name + RIGHT))
            for draw, (left, right) in enumerate(zip(*built, strict=True)):
                for (cause, first), (_, second) in zip(left, right, strict=True):
                    yield name, draw, cause, product.multiply(a.cast(first), b.cast(second)) - exact

    def _built(self, cast: Cast, name: str, place: str) -> list[list[tuple[str, Port]]]:
        """The ports of a name, at the place of a name, that stop after each cause, for each draw."""
        if name not in self._ports:
            whole, ranked = at_first if cast.kept else apply, not place.endswith("/weight")
            words = [Draws(self._seed + draw * DRAW_STRIDE, 0) for draw in range(self._draws[place])]
            self._ports[name] = [
                [(cause, Port(cast, name, own, ranked, convert=stage or whole)) for cause, stage in self.causes] for own in words
            ]
        return self._ports[name]


def _declared(product: Product, role: str) -> Cast:
    cast: Cast = getattr(getattr(product.site.declared, product.gemm), role)
    return cast


def _error(y: Tensor, x: Tensor) -> Tensor:
    """y - x; nothing at infinities, as a mask's, where no gradient is to be had."""
    return torch.where(x.isinf(), 0.0, y - x)
