"""What each cast of a step will cost, from gradients alone: a few passes over the batch serve every site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.datapaths import Datapath
from hwsim.emulator import Machine, emulate
from hwsim.emulator.records import node_creation_hook

from .causes import CAUSES, at_first
from .curvature import root_of_hessian
from .places import Place
from .probe import Prediction, Probe
from .twins import Twin, scores
from .updates import Update, unit_changes, update_direction, update_of


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
    """Predict the change that every cast among some places makes.

    Args:
        twin: the step.
        machine: whose casts.
        places: the casts.
        outputs: of the model on the batch.
        seed: of torch, of stochastic rounding and of the drawn labels.
        draws: by port, over how many stochastic draws to average.
        samples: how many label draws the curvature is averaged over.
        causes: whether each cause is predicted by itself.
    """
    if node_creation_hook is None:
        return Prediction()
    gemms = {place.port: draws[place.port] for place in places if place.kind != "optimizer"}
    probe = Probe(gemms, seed, CAUSES if causes else CAUSES[-1:])
    watch = partial(_watched, twin, machine, seed, probe)
    root = root_of_hessian(lambda z: twin.loss_fn(z, twin.targets), outputs, twin.targets)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [root(generator) for _ in range(samples)] if root is not None else []
    with torch.random.fork_rng(devices=[]):
        if any(not place.forward for place in places):
            update = update_of(twin, seed)
            _store(twin, machine, places, update, seed, draws, probe)
            if any(place.gemm and not place.forward for place in places):
                direction = update_direction(twin, update)
                with watch() as (model, _), torch.no_grad():
                    _move(twin, model, direction, seed, probe)
        with watch() as (model, machine_at_work):
            for p in model.parameters():
                p.requires_grad_(p.is_floating_point())
            _observe(twin, model, machine_at_work, seed, cotangents, probe)
    return probe.prediction


def _store(
    twin: Twin, machine: Datapath, places: Sequence[Place], update: Update, seed: int, draws: Mapping[str, int], probe: Probe
) -> None:
    """The casts of the optimizer unit: one step for each role, whose casts act on different parameters."""
    roles: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        if place.kind == "optimizer":
            roles[place.role].append(place)
    for together in roles.values():
        count = max(draws[place.port] for place in together)
        for draw, (cause, stage) in product(range(count), probe.causes):
            converters = dict.fromkeys((place.port for place in together), stage or at_first)
            changes = unit_changes(twin, machine, update, converters, seed, draw)
            for place in together if changes else ():
                own = [change for name, change in changes.items() if not place.site or _is_of(place.site, name)]
                probe.prediction.first[place.port, cause] += sum(own) / count


def _is_of(site: str, parameter: str) -> bool:
    """Whether a stored tensor is a parameter or one of its states."""
    return site == parameter or site.startswith(f"{parameter}/")


class _watched:
    """A copy of the model under emulation in which nothing is cast."""

    def __init__(self, twin: Twin, machine: Datapath, seed: int, probe: Probe) -> None:
        self._model, optimizer = twin.copies()
        self._context = emulate(self._model, machine, optimizer, seed, converters={}, observer=probe)

    def __enter__(self) -> tuple[nn.Module, Machine]:
        return self._model, self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _observe(twin: Twin, model: nn.Module, machine: Machine, seed: int, cotangents: Sequence[Tensor], probe: Probe) -> None:
    """The forward pass with every error, the backward pass of the loss, and those of the drawn labels."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(seed)
    probe.phase = "errors"
    outputs = twin.outputs(model)
    loss = twin.loss_fn(outputs, twin.targets)
    probe.settle()
    z = scores(outputs)
    probe.phase, probe.factor = "gradients", machine.state_dict()["loss_scaling"]["factor"]
    torch.autograd.grad(machine.scale(loss), parameters, retain_graph=True, allow_unused=True)
    edges = probe.edges(len(z))
    for cotangent in cotangents if edges else ():
        found = torch.autograd.grad(z, edges, cotangent, retain_graph=True, allow_unused=True)
        probe.curve(found, len(cotangents))


def _move(twin: Twin, model: nn.Module, direction: Sequence[Tensor], seed: int, probe: Probe) -> None:
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
