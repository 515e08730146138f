"""What each cast of a step will cost, from gradients alone: a few passes over the batch serve every site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import apply
from hwsim.datapaths import Datapath
from hwsim.emulator import Machine, emulate
from hwsim.emulator.observing import Product
from hwsim.emulator.ports import Draws, Port
from hwsim.emulator.records import GemmNote, node_creation_hook
from hwsim.emulator.sites import RIGHT

from .causes import CAUSES, Stage, at_first
from .curvature import root_of_hessian
from .places import Place
from .twins import DRAW_STRIDE, Twin, scores
from .updates import update_direction

Key = tuple[str, str]
"""The port of a place, and the cause up to which its cast goes."""

GemmCall = tuple[str, int]


class Prediction:
    """The predicted change of the loss, by port and cause.

    Forward sites: `sum <G, e> + 1/2 mean_n <G_n, e_n>^2` of the loss of the batch, with e the change that the cast makes in its
    GEMM's output, G the gradient there, and the second term (Gauss-Newton) from backward passes on labels drawn from the model.
    Backward sites: the change of the loss after the step, <error of the gradient, tangent>, the tangent being the derivative of
    the forward operand along (update's Jacobian) (gradient of the loss after the step); -lr times it for plain SGD.
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


def predict(
    twin: Twin,
    machine: Datapath,
    places: Sequence[Place],
    outputs: Tensor,
    seed: int,
    draws: Mapping[str, int],
    samples: int,
    causes: bool,
) -> Prediction:
    """Predict the change that every GEMM cast among some places makes.

    Args:
        twin: the step.
        machine: whose casts.
        places: the casts; others than those of GEMMs are left out.
        outputs: of the model on the batch.
        seed: of torch, of stochastic rounding and of the drawn labels.
        draws: by port, over how many stochastic draws to average.
        samples: how many label draws the curvature is averaged over.
        causes: whether each cause is predicted by itself.
    """
    if node_creation_hook is None:
        return Prediction()
    probe = _Probe({place.port: draws[place.port] for place in places}, seed, CAUSES if causes else CAUSES[-1:])
    watch = partial(_watched, twin, machine, seed, probe)
    root = root_of_hessian(lambda z: twin.loss_fn(z, twin.targets), outputs, twin.targets)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [root(generator) for _ in range(samples)] if root is not None else []
    with torch.random.fork_rng(devices=[]):
        if any(not place.forward for place in places):
            direction = update_direction(twin, seed)
            with watch() as (model, _), torch.no_grad():
                _move(twin, model, direction, seed, probe)
        with watch() as (model, machine_at_work):
            for p in model.parameters():
                p.requires_grad_(p.is_floating_point())
            _observe(twin, model, machine_at_work, seed, cotangents, probe)
    return probe.prediction


class _watched:
    """A copy of the model under emulation in which nothing is cast."""

    def __init__(self, twin: Twin, machine: Datapath, seed: int, probe: _Probe) -> None:
        self._model, optimizer = twin.copies()
        self._context = emulate(self._model, machine, optimizer, seed, converters={}, observer=probe)

    def __enter__(self) -> tuple[nn.Module, Machine]:
        return self._model, self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _observe(twin: Twin, model: nn.Module, machine: Machine, seed: int, cotangents: Sequence[Tensor], probe: _Probe) -> None:
    """The forward pass with every error, the backward pass of the loss, and those of the drawn labels."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(seed)
    probe.phase = "errors"
    outputs = twin.outputs(model)
    loss = twin.loss_fn(outputs, twin.targets)
    z = scores(outputs)
    probe.phase, probe.factor = "gradients", machine.state_dict()["loss_scaling"]["factor"]
    torch.autograd.grad(machine.scale(loss), parameters, retain_graph=True, allow_unused=True)
    edges = probe.edges(len(z))
    for cotangent in cotangents if edges else ():
        found = torch.autograd.grad(z, edges, cotangent, retain_graph=True, allow_unused=True)
        probe.curve(found, len(cotangents))


def _move(twin: Twin, model: nn.Module, direction: Sequence[Tensor], seed: int, probe: _Probe) -> None:
    """Every forward GEMM's operands with the parameters a small step away along a direction: one end of their difference."""
    parameters = list(model.parameters())
    length = float(torch.stack([d.norm() for d in direction]).norm())
    size = float(torch.stack([p.norm() for p in parameters]).norm())
    # The square root balances truncation and rounding of a one-sided difference.
    relative = torch.finfo(parameters[0].dtype).eps ** (1 / 2)
    step = relative * max(size, 1.0) / length if length else 0.0
    with _disable_current_modes():
        for p, d in zip(parameters, direction, strict=True):
            p.add_(d, alpha=step)
    torch.manual_seed(seed)
    probe.phase, probe.step = "moved", step
    twin.outputs(model)


class _Probe:
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
        self._causes = [(cause, None if cause == CAUSES[-1] else Stage(cause)) for cause in causes]
        self._ports: dict[str, list[list[tuple[str, Port]]]] = {}
        self._errors: dict[GemmCall, list[tuple[str, int, str, Tensor]]] = defaultdict(list)
        self._nodes: dict[GemmCall, Node] = {}
        self._curved: list[GemmCall] = []
        self._operands: dict[tuple[str, int, int], Tensor] = {}

    def product(self, product: Product) -> None:
        """A GEMM has run."""
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

    def tensor(self, site: str, name: str, x: Tensor) -> None:
        """Only GEMMs have predicted sites."""

    def node(self, node: Node, note: GemmNote) -> None:
        """A forward GEMM's node: its gradients meet its errors."""
        if self.phase == "errors":
            place = note.site.name, note.call
            self._nodes[place] = node
            node.register_prehook(partial(self._gradient, place))

    def edges(self, samples: int) -> list[GradientEdge]:
        """Where the curvature's gradients are asked for: behind every GEMM that has errors."""
        self.phase, self._samples = "curvature", samples
        self._curved = [place for place, errors in self._errors.items() if errors and place in self._nodes]
        found = [GradientEdge(self._nodes[place], 0) for place in self._curved]
        # The nodes' hooks hold this probe: no cycle outlives the pass.
        self._nodes.clear()
        return found

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

    def _gradient(self, place: GemmCall, gradients: Sequence[Tensor | None]) -> None:
        gradient = gradients[0]
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
            for draw, ports in enumerate(self._built(product, place + (port or role), role)):
                for cause, one in ports:
                    yield name, draw, cause, change(one)

    def _changed_together(self, product: Product) -> Iterator[tuple[str, int, str, Tensor]]:
        """Both operands belong to one place: what is left of the product of the two errors counts too."""
        a, b = product.factors
        name = f"{product.site.name}/{product.gemm}/{a.role}"
        if name in self._draws:
            exact = product.multiply(a.x, b.x)
            built = (self._built(product, full, a.role) for full in (name, name + RIGHT))
            for draw, (left, right) in enumerate(zip(*built, strict=True)):
                for (cause, first), (_, second) in zip(left, right, strict=True):
                    yield name, draw, cause, product.multiply(a.cast(first), b.cast(second)) - exact

    def _built(self, product: Product, name: str, role: str) -> list[list[tuple[str, Port]]]:
        """The ports of a name that stop after each cause, for each draw."""
        if name not in self._ports:
            cast = getattr(getattr(product.site.layer.declared.gemm, product.gemm), role)
            whole = at_first if cast.kept else apply
            self._ports[name] = [
                [
                    (cause, Port(cast, name, Draws(self._seed + draw * DRAW_STRIDE, 0), role != "weight", convert=stage or whole))
                    for cause, stage in self._causes
                ]
                for draw in range(self._draws[name.removesuffix(RIGHT)])
            ]
        return self._ports[name]
