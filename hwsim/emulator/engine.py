"""Runs every operation of the training loop on the declared machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hwsim.datapaths import Datapath
from hwsim.errors import ConfigError, nearest

from .audit import Audit
from .copies import Copies
from .loss_scaling import LossScaler
from .observing import Made, Observer
from .opened import STATISTICS, note_square, squares
from .operations import ACTIVATIONS, HIDDEN, MOVES, VECTOR, Kind
from .optimizer import OptimizerUnit
from .origins import PLAIN, Origin, Role, Stored, joined, note, origin_of, tensors_in
from .phases import Clockwork, Phase
from .plans import Plan
from .ports import Converter, Draws, Port
from .records import Records, last_number
from .scales import Scales
from .sites import Layer, Site, Sites
from .watch import Watch

UnknownOps = Literal["error", "pass"]


class Engine:
    """The parts of a machine, and the ways an operation that is no GEMM runs on it."""

    def __init__(
        self,
        datapath: Datapath,
        draws: Draws,
        unknown_ops: UnknownOps,
        names: dict[Tensor, str],
        metered: bool,
        records: Records,
        converters: Mapping[str, Converter] | None = None,
        observer: Observer | None = None,
        scales: Scales | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.draws = draws
        self.unknown_ops = unknown_ops
        self.scales = scales or Scales(None)
        self.loss = LossScaler(datapath.loss_scaling)
        self.sites = Sites(datapath, draws, metered, converters, self.scales)
        self.observer = observer
        self.watch = watch
        self.records = records
        self.clock = Clockwork(self.sites, records, observer)
        self.audit = Audit()
        self.copies = Copies()
        self.optimizer = OptimizerUnit(datapath.optimizer, self.sites, self.audit, names, observer)
        self.scales.joined.append(self.optimizer.hold_scale)

    def site(self, op: str, origin: Origin | None, layer: Layer, phase: Phase) -> Site:
        """The site of a contraction: its weight's, or the running module's path with the ordinal of the operation.

        Without an origin it is a product of two activations, which the datapath may give paths of their own.
        """
        owned = self.sites.owning(layer, origin) if origin is not None else None
        if owned is not None:
            return owned
        number = self.clock.ordinal(op, phase)
        return self.sites.site(f"{layer.path or _outside(phase)}:{op}.{number}", layer, product=origin is None)

    def handed_on(self, port: Port, out: Tensor, plan: Plan, call: int) -> Tensor:
        """A GEMM's result after its cast."""
        if port.passes(out.dtype):
            return out
        rounded = port(out, call)
        return out.copy_(rounded) if plan.writes else rounded

    def see(self, phase: Phase, op: str, site: str, out: Any, *operands: Tensor) -> None:
        """Look for NaN and infinity in what an operation gave, where they are watched."""
        if self.watch is not None:
            self.watch.see(self.draws.step, phase, op, site, tensors_in((out,), {}), operands)

    def run_vector(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Arithmetic: every floating-point result is rounded to the vector unit's format, after the steps that it declares."""
        phase = self.clock.phase()
        if phase is Phase.OPTIMIZER:
            return self.run_update(plan, args, kwargs)
        if phase is Phase.BACKWARD and self.optimizer.declared.accumulate is not None and self.clock.accumulates:
            return plan.func(*args, **kwargs)  # `accumulate` rounds the sum, and counts it
        layer = self.clock.layer(phase)
        tensors = tensors_in(args, kwargs)
        given = self._kept(plan, args, kwargs, tensors)
        out = self._vector(plan, args, kwargs, phase, layer, tensors)
        if not (tensors_in((out,), {}) or (plan.writes and plan.written(args, kwargs))):
            self.audit.move(phase, plan.label, layer)
        self.see(phase, plan.label, layer.path, out, *given)
        return out

    def _kept(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> list[Tensor]:
        """The operands as they are before the operation writes some of them, where they are watched."""
        if self.watch is None or not plan.writes:
            return tensors
        written = {id(x) for x in plan.written(args, kwargs)}
        return [x.clone() if id(x) in written else x for x in tensors]

    def _vector(
        self,
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        phase: Phase,
        layer: Layer,
        tensors: list[Tensor],
    ) -> Any:
        opened = layer.opened if plan.opened is not None and _is_floating(args) else None
        steps = None if opened is None else layer.steps
        stepped = None
        if opened is not None and steps is None and self.observer is not None:
            stepped = partial(plan.stepped, opened, *plan.apart(args, kwargs))
        out = plan.func(*args, **kwargs) if steps is None else plan.stepped(steps, args, kwargs)
        origin = PLAIN[Role.INPUT] if plan.name in ACTIVATIONS else joined(tensors, False, _is_backward(phase))
        if not self.records.hooked:
            self._note_layer(phase, tensors)
        if plan.writes:
            written = plan.written(args, kwargs)
            self._rewrite(plan, written, phase, layer, origin, stepped)
            if layer.opened is not None:
                for x in written:
                    note_square(x, False)
            if plan.returns_written:
                return out
        if opened is not None and plan.name in STATISTICS:
            first = None if stepped is None else partial(_part, stepped, 0)
            return (self._results(plan, out[0], phase, layer, origin, first), *out[1:])
        made = self._results(plan, out, phase, layer, origin, stepped)
        if layer.opened is not None and squares(plan.name, args):
            note_square(made, True)
        return made

    def run_update(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], flops: int | None = None) -> Any:
        """Arithmetic of the optimizer's step."""
        out = self.optimizer.run(plan, args, kwargs, flops)
        written = plan.written(args, kwargs) if plan.writes else []
        if self.watch is not None:
            self.see(Phase.OPTIMIZER, plan.label, self.optimizer.names_of(written), written or out)
        return out

    def accumulate(self, p: Tensor, name: str, call: int) -> None:
        """A backward pass has added to a parameter's gradient, or set it."""
        self.optimizer.accumulate(p, call)
        if p.grad is not None:
            note(p.grad, PLAIN[Role.GRAD])
            self.see(Phase.BACKWARD, "accumulate", name, p.grad)

    def run_move(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Values that only move, or that the program or the host sets: their origin goes with them."""
        phase = self.clock.phase()
        if phase is Phase.OPTIMIZER:
            return self.optimizer.run(plan, args, kwargs)
        out = plan.func(*args, **kwargs)
        layer = self.clock.layer(phase)
        if not self.records.hooked:
            self._note_layer(phase, tensors_in(args, kwargs))
        if plan.kind is Kind.RANDOM:
            self.audit.other(phase, plan.label, layer.path, "random", None, 0)
        else:
            self.audit.move(phase, plan.label, layer)
        if plan.writes:
            written = plan.written(args, kwargs)
            for x in written:
                known = origin_of(x)
                if isinstance(known, Stored):
                    self.optimizer.write(known, plan.label, phase, 0)
        elif plan.views or plan.kind is not Kind.MOVE:
            return out
        else:
            written = tensors_in((out,), {})
        if plan.kind is Kind.MOVE:
            origin = (
                PLAIN[Role.INPUT] if plan.name in ACTIVATIONS else joined(tensors_in(args, kwargs), True, _is_backward(phase))
            )
            for x in written:
                note(x, origin)
        return out

    def run_unknown(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Refuse what no table names, unless it computes no floating-point values or is to pass.

        Raises:
            ConfigError: names the operation, the site and what to do.
        """
        phase = self.clock.phase()
        layer = self.clock.layer(phase)
        if plan.kind is Kind.HIDDEN:
            raise ConfigError(
                f"{self._place(layer, phase)}: {plan.func} contracts its operands inside one operation, where no cast can reach; "
                "allowed: the same computation as matrix products, convolutions and vector operations"
            )
        out = plan.func(*args, **kwargs)
        results = tensors_in((out,), {}) + (plan.written(args, kwargs) if plan.writes else [])
        if not results:
            self.audit.move(phase, plan.label, layer)
            return out
        if self.unknown_ops == "error":
            known = nearest(plan.name, VECTOR | MOVES | HIDDEN)
            raise ConfigError(
                f"{self._place(layer, phase)}: operation {plan.func} is not known to the emulator{known}; allowed: the "
                "operations of hwsim.emulator.operations, or unknown_ops='pass', which leaves its results in native precision"
            )
        origin = joined(tensors_in(args, kwargs), False, _is_backward(phase))
        for x in results:
            note(x, origin)
        self.audit.other(phase, plan.label, layer.path, "unknown", None, sum(x.numel() for x in results))
        return out

    def run_wire(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Communication between processes, in native precision."""
        phase = self.clock.phase()
        work = sum(x.numel() for x in tensors_in(args, kwargs))
        if work:
            self.audit.other(phase, plan.label, self.clock.layer(phase).path, "wire", None, work)
        else:
            self.audit.move(phase, plan.label, self.clock.layer(phase))
        return plan.func(*args, **kwargs)

    def vector_result(
        self, plan: Plan, x: Tensor, phase: Phase, layer: Layer, stepped: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """A floating-point result of the vector unit, rounded and counted."""
        self.audit.vector(phase, plan.label, layer, x.numel())
        port, site, call = layer.vector, "", 0
        if port.stochastic or (layer.stochastic and self.observer is not None):
            site = f"{_operation(plan, phase, layer)}.{self.clock.ordinal(plan.name, phase)}/vector"
            call = self.clock.call(site, phase)
        y = port(x, call, site=site)
        if self.observer is not None and phase is not Phase.RECOMPUTE:
            self.observer.tensor(_operation(plan, phase, layer), "vector", y, layer, Made(site, call, stepped))
        return y

    def _results(
        self, plan: Plan, out: Any, phase: Phase, layer: Layer, origin: Origin, stepped: Callable[[], Any] | None = None
    ) -> Any:
        if isinstance(out, Tensor):
            if out.is_floating_point() or out.is_complex():
                out = self.vector_result(plan, out, phase, layer, stepped)
                note(out, origin)
            return out
        if isinstance(out, (list, tuple)):
            parts = [None if stepped is None else partial(_part, stepped, i) for i in range(len(out))]
            return type(out)([self._results(plan, x, phase, layer, origin, part) for x, part in zip(out, parts, strict=True)])
        return out

    def _rewrite(
        self,
        plan: Plan,
        written: list[Tensor],
        phase: Phase,
        layer: Layer,
        origin: Origin,
        stepped: Callable[[], Any] | None,
    ) -> None:
        for x in written:
            known = origin_of(x)
            if isinstance(known, Stored):
                self.optimizer.write(known, plan.label, phase, x.numel())
                continue
            y = self.vector_result(plan, x, phase, layer, stepped if plan.returns_written else None)
            if y is not x:
                x.copy_(y)
            note(x, origin)

    def _note_layer(self, phase: Phase, tensors: list[Tensor]) -> None:
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            self.records.put_first(last_number(), self.clock.current_note())

    def _place(self, layer: Layer, phase: Phase) -> str:
        return f"{layer.path or 'outside of all modules'} ({phase.value})"


def _operation(plan: Plan, phase: Phase, layer: Layer) -> str:
    """The name of an operation of the vector unit in a layer."""
    return f"{f'{layer.path}/backward' if _is_backward(phase) else layer.path or _outside(phase)}:{plan.name}"


def _outside(phase: Phase) -> str:
    """What stands for a path where no submodule runs; a recomputation has the forward pass's."""
    inside = phase in (Phase.FORWARD, Phase.EVALUATION, Phase.RECOMPUTE)
    return "(model)" if inside else f"({phase.value})"


def _is_backward(phase: Phase) -> bool:
    return phase is Phase.BACKWARD or phase is Phase.CALLBACK


def _part(made: Callable[[], Any], i: int) -> Any:
    return made()[i]


def _is_floating(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], Tensor) and args[0].is_floating_point()
