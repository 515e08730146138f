"""The dispatch mode: every ATen operation below autograd, given to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from .convolution import run_convolution, run_convolution_backward
from .engine import Engine
from .gemms import run_gemm
from .operations import Kind
from .plans import Plan

Runner = Callable[[Engine, Plan, tuple[Any, ...], dict[str, Any]], Any]
PLAIN_TYPES = frozenset({Tensor, nn.Parameter})
RUNNERS: dict[Kind, Runner] = {
    Kind.GEMM: run_gemm,
    Kind.CONVOLUTION: run_convolution,
    Kind.CONVOLUTION_BACKWARD: run_convolution_backward,
    Kind.VECTOR: Engine.run_vector,
    Kind.MOVE: Engine.run_move,
    Kind.CONSTANT: Engine.run_move,
    Kind.RANDOM: Engine.run_move,
    Kind.WIRE: Engine.run_wire,
    Kind.HIDDEN: Engine.run_unknown,
    Kind.UNKNOWN: Engine.run_unknown,
}


class EmulatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends operations to an engine; composite ones are opened first.

    The mode may be entered again while it is active (to open a composite operation): it holds nothing that entering changes.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engine = engine
        self._resting = False
        self._plans: dict[int, tuple[Plan, Runner | None]] = {}

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Operations run plainly: the machine's own."""
        before, self._resting = self._resting, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._resting = before

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if self._resting:
            return func(*args, **(kwargs or {}))
        if types and not PLAIN_TYPES.issuperset(types):
            return NotImplemented
        found = self._plans.get(id(func))  # the plan holds the operation, whose own hash is computed in Python
        if found is None:
            plan = Plan(func)
            found = self._plans[id(func)] = (plan, RUNNERS.get(plan.kind))
        plan, runner = found
        if runner is None:
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return runner(self.engine, plan, args, kwargs or {})
