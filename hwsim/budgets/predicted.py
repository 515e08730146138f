"""What each cast of a step will cost, from gradients alone: a few passes over the batch serve every site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import apply
from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.emulator.observing import Product
from hwsim.emulator.ports import Draws, Port
from hwsim.emulator.records import GemmNote, node_creation_hook

from .causes import CAUSES, Stage
from .curvature import root_of_hessian
from .places import Place
from .twins import DRAW_STRIDE, Twin, scores

Key = tuple[str, str]
"""The port of a place, and the cause up to which its cast goes."""

GemmCall = tuple[str, int]
GRADIENT_STEP = 1e-3


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
            direction = _update_direction(twin, seed)
            for sign in (1, -1):
                with watch() as model, torch.no_grad():
                    _tangents(twin, model, direction, sign, seed, probe)
        with watch() as model:
            for p in model.parameters():
                p.requires_grad_(p.is_floating_point())
            _observe(twin, model, seed, cotangents, probe)
    return probe.prediction


class _watched:
    """A copy of the model under emulation in which nothing is cast."""

    def __init__(self, twin: Twin, machine: Datapath, seed: int, probe: _Probe) -> None:
        self._model, optimizer = twin.copies()
        self._context = emulate(self._model, machine, optimizer, seed, converters={}, observer=probe)

    def __enter__(self) -> nn.Module:
        self._context.__enter__()
        return self._model

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _observe(twin: Twin, model: nn.Module, seed: int, cotangents: Sequence[Tensor], probe: _Probe) -> None:
    """The forward pass with every error, the backward pass of the loss, and those of the drawn labels."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(seed)
    probe.phase = "errors"
    outputs = twin.outputs(model)
    loss = twin.loss_fn(outputs, twin.targets)
    z = scores(outputs)
    probe.phase = "gradients"
    torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    probe.phase, probe.samples = "curvature", len(z)
    for cotangent in cotangents:
        torch.autograd.grad(z, parameters, cotangent, retain_graph=True, allow_unused=True)
        probe.end_pass(len(cotangents))


def _tangents(twin: Twin, model: nn.Module, direction: Sequence[Tensor], sign: int, seed: int, probe: _Probe) -> None:
    """One end of a central difference of every forward GEMM's operands along a direction of the parameters."""
    parameters = list(model.parameters())
    length = float(torch.stack([d.norm() for d in direction]).norm())
    size = float(torch.stack([p.norm() for p in parameters]).norm())
    # The cube root balances truncation and rounding of a central difference.
    relative = torch.finfo(parameters[0].dtype).eps ** (1 / 3)
    step = relative * max(size, 1.0) / length if length else 0.0
    with _disable_current_modes():
        for p, d in zip(parameters, direction, strict=True):
            p.add_(d, alpha=sign * step)
    torch.manual_seed(seed)
    probe.phase, probe.weight = "tangents", sign / (2 * step) if step else 0.0
    twin.outputs(model)


def _update_direction(twin: Twin, seed: int) -> list[Tensor]:
    """The gradient of the loss after the step, times the derivative of each updated weight by its gradient."""
    model, optimizer = twin.copies()
    parameters = list(model.parameters())
    torch.manual_seed(seed)
    optimizer.zero_grad()
    twin.loss(model).backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    steps = [GRADIENT_STEP * (g.abs() + g.square().mean().sqrt()) for g in gradients]
    jacobians = _update_jacobians(twin, gradients, steps)
    optimizer.step()
    torch.manual_seed(seed)
    after = torch.autograd.grad(twin.loss(model), [p for p in parameters if p.requires_grad], allow_unused=True)
    found = iter(after)
    slopes = [next(found) if p.requires_grad else None for p in parameters]
    return [j * slope if slope is not None else torch.zeros_like(j) for j, slope in zip(jacobians, slopes, strict=True)]


def _update_jacobians(twin: Twin, gradients: Sequence[Tensor], steps: Sequence[Tensor]) -> list[Tensor]:
    """d weight / d gradient of an optimizer that acts element by element, by central differences."""
    ends = [_updated(twin, [g + sign * h for g, h in zip(gradients, steps, strict=True)]) for sign in (1, -1)]
    return [torch.where(h > 0, (a - b) / (2 * h), 0.0) for a, b, h in zip(*ends, steps, strict=True)]


def _updated(twin: Twin, gradients: Sequence[Tensor]) -> list[Tensor]:
    model, optimizer = twin.copies()
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g if p.requires_grad else None
    optimizer.step()
    return [p.detach() for p in model.parameters()]


class _Probe:
    """Looks at every GEMM of a step in which nothing is cast, and sums up what its casts would change."""

    def __init__(self, draws: Mapping[str, int], seed: int, causes: Sequence[str]) -> None:
        self.prediction = Prediction()
        self.phase = ""
        self.weight = 0.0
        self.samples = 1
        self._draws = draws
        self._seed = seed
        self._causes = [(cause, apply if cause == CAUSES[-1] else Stage(cause)) for cause in causes]
        self._ports: dict[str, list[list[tuple[str, Port]]]] = {}
        self._errors: dict[GemmCall, list[tuple[str, int, str, Tensor]]] = defaultdict(list)
        self._tangents: dict[tuple[str, int, int], Tensor] = {}
        self._inner: dict[tuple[str, int, str], Tensor] = {}
        self._joint: Tensor | None = None

    def product(self, product: Product) -> None:
        """A GEMM has run."""
        if product.gemm == "output" and self.phase == "tangents":
            for i, factor in enumerate(product.factors):
                key = (product.site.name, product.call, i)
                self._tangents[key] = self._tangents.get(key, 0.0) + self.weight * factor.x.detach()
        elif product.gemm == "output" and self.phase == "errors":
            for port, draw, cause, error in self._changes(product):
                self._errors[product.site.name, product.call].append((port, draw, cause, error))
        elif product.gemm != "output" and self.phase == "gradients" and product.target is not None:
            tangent = self._tangents.get((product.site.name, product.call, product.target))
            if tangent is not None:
                tangent = tangent.mT if product.flipped else tangent
                for port, _, cause, error in self._changes(product):
                    self.prediction.first[port, cause] += float((error * tangent).sum()) / self._draws[port]

    def node(self, node: Node, note: GemmNote) -> None:
        """A forward GEMM's node: its gradients meet its errors."""
        if self.phase == "errors":
            node.register_prehook(partial(self._gradient, (note.site.name, note.call)))

    def end_pass(self, passes: int) -> None:
        """One backward pass of drawn labels is over."""
        for (port, _, cause), inner in self._inner.items():
            self.prediction.second[port, cause] += 0.5 * float(inner.square().sum()) / passes / self._draws[port]
        if self._joint is not None:
            self.prediction.forward_second += 0.5 * float(self._joint.square().sum()) / passes
        self._inner.clear()
        self._joint = None

    def _gradient(self, place: GemmCall, gradients: Sequence[Tensor | None]) -> None:
        gradient = gradients[0]
        if gradient is None or self.phase not in ("gradients", "curvature"):
            return
        with _disable_current_modes(), torch.no_grad():
            for port, draw, cause, error in self._errors[place]:
                products = error * gradient
                if self.phase == "gradients":
                    self.prediction.first[port, cause] += float(products.sum()) / self._draws[port]
                    continue
                grouped = len(products) % self.samples == 0
                inner = products.reshape(self.samples if grouped else 1, -1).sum(1)
                key = (port, draw, cause)
                self._inner[key] = self._inner[key] + inner if key in self._inner else inner
                if cause == CAUSES[-1] and draw == 0:
                    self._joint = inner if self._joint is None else self._joint + inner

    def _changes(self, product: Product) -> list[tuple[str, int, str, Tensor]]:
        """By port, draw and cause, the change in the product when that cast alone goes as far as that cause."""
        a, b = product.factors
        if a.role == b.role:
            # Both operands go through the same port: what is left of the product of the two errors counts too.
            exact = product.multiply(a.x, b.x)
            operands = [*self._changed(product, a.role, lambda port: product.multiply(a.cast(port), b.cast(port)) - exact)]
        else:
            operands = [
                *self._changed(product, a.role, lambda port: product.multiply(a.cast(port) - a.x, b.x)),
                *self._changed(product, b.role, lambda port: product.multiply(a.x, b.cast(port) - b.x)),
            ]
        return [*operands, *self._changed(product, "result", lambda port: port(product.out, product.call) - product.out)]

    def _changed(self, product: Product, role: str, change: Callable[[Port], Tensor]) -> Iterator[tuple[str, int, str, Tensor]]:
        name = f"{product.site.name}/{product.gemm}/{role}"
        if name in self._draws:
            for draw, ports in enumerate(self._built(product, name, role)):
                for cause, port in ports:
                    yield name, draw, cause, change(port)

    def _built(self, product: Product, name: str, role: str) -> list[list[tuple[str, Port]]]:
        """The ports that stop after each cause, for each draw."""
        if name not in self._ports:
            cast = getattr(getattr(product.site.layer.declared.gemm, product.gemm), role)
            self._ports[name] = [
                [
                    (cause, Port(cast, name, Draws(self._seed + draw * DRAW_STRIDE, 0), role != "weight", convert=stage))
                    for cause, stage in self._causes
                ]
                for draw in range(self._draws[name])
            ]
        return self._ports[name]
