"""The optimizer unit: gradients as it reads them, states and weights as it writes them, updates in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hwsim.errors import ConfigError

from .audit import Audit
from .observing import Observer
from .operations import Kind
from .origins import Stored, forget, note_stored, origin_of, tensors_in
from .phases import Phase
from .plans import Plan
from .ports import Port
from .sites import Sites

if TYPE_CHECKING:
    from hwsim.datapaths import OptimizerPath

MOMENTUM = frozenset({"momentum_buffer", "exp_avg"})
VARIANCE = frozenset({"exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "sum", "acc_delta"})
STATES = frozenset({"momentum", "variance", "state"})
COUNTERS = frozenset({"step"})
FUSED = "_fused_"
UNCAST = frozenset({"counter", "scale"})
UNROUNDED = frozenset({Kind.MOVE, Kind.CONSTANT, Kind.RANDOM})


class OptimizerUnit:
    """Rounds what an optimizer step stores.

    A stored tensor is rounded once when its update is complete: when another operation first reads it, or when the step
    ends, so that `m.mul_(beta).add_(g)` rounds once, and the for-loop and foreach forms agree. States that are rounded
    `each_step` wait for its end, and are read as they were computed; a fused kernel does so in any case. Groups and blocks run
    over a state's elements in row-major order. Every other floating-point result inside the step is rounded to the `update`
    cast. A fused kernel shows no updates: only what it stores is rounded, and an `update` cast is refused.
    """

    def __init__(
        self,
        declared: OptimizerPath,
        sites: Sites,
        audit: Audit,
        names: dict[Tensor, str],
        observer: Observer | None = None,
    ) -> None:
        self.declared = declared
        self.sites = sites
        self.audit = audit
        self.names = names
        self.observer = observer
        self.update = sites.port(declared.update, "optimizer/update")
        self._until_end = STATES if declared.round_states == "each_step" else frozenset()
        self._ports: dict[Stored, Port] = {}
        self._weights: dict[Tensor, Stored] = {}
        self._dirty: list[Stored] = []
        self._current: Optimizer | None = None
        self._states_seen = -1
        self._updates = 0
        self._reads = 0

    def hold(self, x: Tensor, stored: Stored) -> None:
        """Follow a parameter or a state."""
        note_stored(x, stored)
        cast = None if stored.kind in UNCAST else getattr(self.declared, stored.kind)
        self._ports[stored] = self.sites.port(cast, f"{stored.name}/{stored.kind}", ranked=False)

    def hold_scale(self, site: str, scale: Tensor) -> None:
        """Follow a scale that trains; it stays in full precision."""
        self.names[scale] = f"{site}/scale"
        self.hold(scale, Stored("scale", f"{site}/scale", scale))

    def recall(self, parameters: Iterable[Tensor | None]) -> None:
        """Follow parameters whose storage the program has replaced (`p.data = ...`), which forgets what was noted on it."""
        for p in parameters:
            stored = self._weights.get(p) if p is not None else None
            if p is not None and stored is not None and origin_of(p) is not stored:
                note_stored(p, stored)
                self.write(stored, "set", Phase.OTHER, 0)

    def enter(self, stored: Stored) -> None:
        """Round a tensor that the run starts from."""
        x = stored.tensor()
        if x is not None:
            self._weights[x] = stored
        self.audit.other(Phase.ENTRY, "store", stored.name, stored.kind, self._ports[stored].cast, 0)
        self.store(stored, call=0)

    def release(self) -> None:
        """Follow nothing any more."""
        for stored in self._ports:
            x = stored.tensor()
            if x is not None:
                forget(x)
        self._ports.clear()
        self._weights.clear()

    def begin(self, optimizer: Optimizer) -> None:
        """A step begins."""
        self._current, self._states_seen, self._updates, self._reads = optimizer, -1, 0, 0
        self._find_states()
        self.recall(_parameters(optimizer))

    def read(self, optimizer: Optimizer) -> None:
        """The gradients are read: as the step begins, or when a closure has computed them inside it."""
        for p in _parameters(optimizer):
            if p.grad is None or _is_scale(p):
                continue
            name = self._name(p)
            port = self.sites.port(self.declared.gradient, f"{name}/gradient")
            if not port.passes(p.grad.dtype):
                p.grad.copy_(port(p.grad, self._reads))
            if self.observer is not None:
                self.observer.tensor(name, "gradient", p.grad)
            self.audit.other(Phase.OPTIMIZER, "read", name, "gradient", port.cast, 0)
        self._reads += 1

    def accumulate(self, p: Tensor, call: int) -> None:
        """A backward pass has added to a parameter's gradient, or set it: it is rounded to the format that it is kept in."""
        if p.grad is None:
            return
        name = self._name(p)
        port = self.sites.port(self.declared.accumulate, f"{name}/accumulate")
        if not port.passes(p.grad.dtype):
            p.grad.copy_(port(p.grad, call))
        if self.observer is not None:
            self.observer.tensor(name, "accumulate", p.grad)
        self.audit.other(Phase.BACKWARD, "accumulate", name, "accumulate", port.cast, p.grad.numel())

    def end(self) -> None:
        """A step ends: whatever was written is in its format."""
        self._states_seen = -1
        self._find_states()
        self.flush()
        self._current = None

    def run(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], flops: int | None = None) -> Any:
        """Run an operation inside the step.

        Raises:
            ConfigError: an `update` cast is declared, and the step is one fused kernel.
        """
        fused = plan.name.startswith(FUSED)
        if fused and self.update.cast is not None:
            raise ConfigError(
                f"optimizer: update: got {self.update.cast} with {plan.label}, a kernel inside which no cast can reach; allowed: "
                "an optimizer made with fused=False or foreach=True"
            )
        written = plan.written(args, kwargs) if plan.writes else []
        own = {id(x) for x in written}
        tensors = tensors_in(args, kwargs)
        for x in tensors:
            origin = origin_of(x)
            if isinstance(origin, Stored) and origin.dirty and id(x) not in own and origin.kind not in self._until_end:
                self.store(origin)
        out = plan.func(*args, **kwargs)
        if written:
            self._written(plan, written, scalar=not any(x.dim() for x in tensors), flops=flops, fused=fused)
            return out
        if plan.kind in UNROUNDED:
            return out
        return self._computed(plan, out, scalar=not any(x.dim() for x in tensors), flops=flops)

    def hold_states(self, optimizer: Optimizer) -> list[Stored]:
        """Follow an optimizer's states as they are; those that were not followed yet."""
        found = []
        for p, state in optimizer.state.items():
            for key, x in state.items():
                if isinstance(x, Tensor) and x.is_floating_point() and not isinstance(origin_of(x), Stored):
                    found.append(Stored(_kind(key, x, p), f"{self._name(p)}/{key}", x))
                    self.hold(x, found[-1])
        return found

    def names_of(self, written: list[Tensor]) -> str:
        """The name of the first parameter or state among tensors that were written."""
        origins = map(origin_of, written)
        return next((origin.name for origin in origins if isinstance(origin, Stored)), "optimizer")

    def store(self, stored: Stored, call: int = 1) -> None:
        """Round a stored tensor to its format."""
        stored.dirty = False
        stored.writes += 1
        x = stored.tensor()
        port = self._ports[stored]
        if x is None:
            return
        if not port.passes(x.dtype):
            with torch.no_grad():
                x.copy_(port(x.reshape(-1), call).view(x.shape) if port.grouped else port(x, call))
        if self.observer is not None:
            self.observer.tensor(stored.name, stored.kind, x.detach())

    def write(self, stored: Stored, op: str, phase: Phase, flops: int) -> None:
        """A stored tensor was written: it waits for its rounding inside a step, and is rounded at once elsewhere."""
        stored.writes += 1
        self.audit.other(phase, op, stored.name, stored.kind, self._ports[stored].cast, flops)
        if stored.kind == "counter":
            return
        if phase is not Phase.OPTIMIZER:
            self.store(stored)
        elif not stored.dirty:
            stored.dirty = True
            self._dirty.append(stored)

    def flush(self) -> None:
        """Round whatever waits."""
        for stored in self._dirty:
            if stored.dirty:
                self.store(stored)
        self._dirty.clear()

    def _written(self, plan: Plan, written: list[Tensor], scalar: bool, flops: int | None, fused: bool) -> None:
        for x in written:
            origin = origin_of(x)
            if not isinstance(origin, Stored) and self._find_states():
                origin = origin_of(x)
            work = 0 if plan.kind in UNROUNDED else x.numel() if flops is None else flops
            if isinstance(origin, Stored):
                self.write(origin, plan.label, Phase.OPTIMIZER, work)
            elif plan.kind not in UNROUNDED and not fused:  # a fused kernel lists the gradients that it reads as written
                self._round_update(plan, x, scalar, work, in_place=True)

    def _computed(self, plan: Plan, out: Any, scalar: bool, flops: int | None) -> Any:
        if isinstance(out, Tensor):
            if not out.is_floating_point():
                return out
            return self._round_update(plan, out, scalar, out.numel() if flops is None else flops, in_place=False)
        if isinstance(out, (list, tuple)):
            return type(out)(self._computed(plan, x, scalar, flops) for x in out)
        return out

    def _round_update(self, plan: Plan, x: Tensor, scalar: bool, flops: int, in_place: bool) -> Tensor:
        role, cast = ("counter", None) if scalar else ("update", self.update.cast)
        self.audit.other(Phase.OPTIMIZER, plan.label, "", role, cast, flops)
        if scalar:
            return x
        if not self.update.passes(x.dtype):
            self._updates += 1
            y = self.update(x, self._updates)
            x = x.copy_(y) if in_place else y
        if self.observer is not None:
            self.observer.tensor(f"optimizer:{plan.label}", "update", x)
        return x

    def _find_states(self) -> bool:
        """Follow the states that the optimizer has made since the last look, and round them; whether there are any."""
        if self._current is None or len(self._current.state) == self._states_seen:
            return False
        self._states_seen = len(self._current.state)
        made = self.hold_states(self._current)
        for stored in made:
            self.write(stored, "made", Phase.OPTIMIZER, 0)
        return bool(made)

    def _name(self, p: Tensor) -> str:
        return self.names.get(p, "parameter")


def _is_scale(p: Tensor) -> bool:
    origin = origin_of(p)
    return isinstance(origin, Stored) and origin.kind == "scale"


def _kind(key: str, state: Tensor, parameter: Tensor) -> str:
    """The role of a state; one number for a whole parameter (a step, a schedule's product) is the optimizer's control flow."""
    if key in COUNTERS or (not state.dim() and parameter.dim()):
        return "counter"
    return "momentum" if key in MOMENTUM else "variance" if key in VARIANCE else "state"


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
