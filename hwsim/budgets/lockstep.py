"""Two datapaths in lock step, to the first number that differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casts import Cast
from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.emulator.observing import Dots, Made, Product
from hwsim.emulator.records import GemmNote
from hwsim.emulator.sites import Layer

from .dots import Dot, Taken

Batches = Iterable[tuple[Any, Any]]


NUMBERED = ("vector", "update")
"""Tensors whose operations have no name of their own: each gets the number of its occurrence in the step."""
Key = tuple[str, str, str, torch.Size, int]
"""Site, gemm, tensor, shape, and the number of such tensors before it in the step."""


@dataclass(frozen=True)
class Seen:
    """A tensor as a machine handed it on, and, of a GEMM's result, how its unit made it and what cast it went through."""

    values: Tensor
    made: Dots | Taken | None = None
    cast: Cast | None = None

    def kept(self) -> Seen:
        """The same, which nothing writes any more."""
        return replace(self, values=self.values.detach().clone(), made=self._taken)

    def dot(self, element: tuple[int, ...]) -> Dot | None:
        """The dot product behind an element, on an emulated unit."""
        taken = self._taken
        return None if taken is None else taken.dot(self.values, element, self.cast)

    @property
    def _taken(self) -> Taken | None:
        return Taken.of(self.made) if isinstance(self.made, Dots) else self.made


@dataclass(frozen=True)
class Divergence:
    """The first number in which two machines differ.

    Args:
        step: of training, from 0.
        site, gemm: of the GEMM. Without a gemm the site is `MODULE:OPERATION.NUMBER` for the vector unit (`MODULE/backward` in
            the backward pass), the parameter's or the state's name, `optimizer:OPERATION.NUMBER`, or empty for the loss.
        tensor: of a GEMM `input`, `weight` or `grad_output` after its cast (`left` and `right` before two of one role), or
            `result`, what it handed on, with the bias, after its cast; else `vector`, `loss`, `accumulate`, `gradient` as the
            optimizer read it, `update`, the kind of a state (`momentum`, `variance`, ...), or `weights`; each after its cast.
        element: its index.
        a, b: the two values.
        differing: how many elements of the tensor differ.
        row, column: the operand vectors of that dot product after their casts, where the tensor is a product of matrices.
        dots: of a GEMM's `result`, its dot product on each machine; None where torch's own made it.
    """

    step: int
    site: str
    gemm: str
    tensor: str
    element: tuple[int, ...]
    a: float
    b: float
    differing: int
    row: tuple[float, ...] = ()
    column: tuple[float, ...] = ()
    dots: tuple[Dot | None, Dot | None] = field(default=(None, None), compare=False, repr=False)

    def __str__(self) -> str:
        where = " ".join(text for text in (self.site, self.gemm, self.tensor) if text)
        return (
            f"step {self.step}: {where}[{', '.join(map(str, self.element))}] is {self.a!r} ({self.a.hex()}) and "
            f"{self.b!r} ({self.b.hex()}); {self.differing} elements differ"
        )


class _Recorder:
    """Keeps every tensor of one step of the first machine; the second one's are compared as they come, and not kept."""

    def __init__(self, step: int, first: _Recorder | None = None) -> None:
        self.found: Divergence | None = None
        self._step = step
        self._first = first
        self._kept: dict[Key, Seen] = {}
        self._counts: Counter[tuple[str, str, str, torch.Size]] = Counter()

    def product(self, product: Product) -> None:
        """A GEMM has run."""
        if self.found is not None:
            return
        site, gemm = product.site, product.gemm
        roles = [factor.role for factor in product.factors]
        operands = [factor.cast(site.port(gemm, factor.port)) for factor in product.factors]
        names: Sequence[str] = roles if roles[0] != roles[1] else [f"{side} {roles[0]}" for side in ("left", "right")]
        for name, x in zip(names, operands, strict=True):
            self._see(site.name, gemm, name, Seen(x))
        if self.found is None:
            port, out = site.port(gemm, "result"), product.out
            self._see(site.name, gemm, "result", Seen(out, product.dots, None if port.passes(out.dtype) else port.cast))
            if self.found is not None:
                self.found = _with_vectors(self.found, *operands)

    def tensor(self, site: str, name: str, x: Tensor, layer: Layer | None = None, made: Made | None = None) -> None:
        """The vector unit or the optimizer unit has made a tensor."""
        self._see(site, "", "weights" if name == "weight" else name, Seen(torch.view_as_real(x) if x.is_complex() else x))

    def node(self, node: Any, note: GemmNote) -> None:
        """Nodes say nothing here."""

    def _see(self, site: str, gemm: str, name: str, seen: Seen) -> None:
        if self.found is not None:
            return
        place = (site, gemm, name, seen.values.shape)
        number = self._counts[place]
        self._counts[place] += 1
        if self._first is None:
            self._kept[*place, number] = seen.kept()
            return
        # What one machine alone does (scaling the loss, a step that it drops) has nothing to be compared with.
        known = self._first._kept.pop((*place, number), None)
        if known is None:
            return
        shown = f"{site}.{number}" if name in NUMBERED else site
        found = _in_tensor(self._step, shown, gemm, name, known.values, seen.values)
        if found is not None:
            self.found = replace(found, dots=(known.dot(found.element), seen.dot(found.element)))


def first_difference(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Batches,
    a: Datapath,
    b: Datapath,
    seed: int = 0,
) -> Divergence | None:
    """Train two copies of a model in lock step, and stop at the first difference; None where they agree to the end.

    Within a step tensors are compared in the order in which they were made: weights as the step finds them; a GEMM's operands
    after their casts, then what it handed on; the vector unit's results; the gradients that the optimizer reads, its updates,
    and what it stores.
    """
    models = [deepcopy(model) for _ in range(2)]
    optimizers = [make_optimizer(copy) for copy in models]
    states: list[dict[str, Any] | None] = [None, None]
    for step, (inputs, targets) in enumerate(batches):
        losses: list[Tensor] = []
        recorder: _Recorder | None = None
        for i, (copy, optimizer, machine) in enumerate(zip(models, optimizers, (a, b), strict=True)):
            recorder = _Recorder(step, recorder)
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(seed + step)
                weights = [p.detach().clone() for p in copy.parameters()]
                ran = stack.enter_context(emulate(copy, machine, optimizer, seed, observer=recorder))
                if (state := states[i]) is not None:
                    ran.load_state_dict(state)
                    _put_back(copy, weights)
                    ran.hold_states(getattr(optimizer, "base", optimizer))
                optimizer.zero_grad()
                loss = loss_fn(copy(inputs), targets)
                ran.scale(loss).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                states[i] = ran.state_dict()
            losses.append(loss.detach())
        found = None if recorder is None else recorder.found
        found = found or _in_tensor(step, "", "", "loss", losses[0], losses[1]) or _in_weights(step, *models)
        if found is not None:
            return found
    return None


def _put_back(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """The weights as the last step stored them: entering has rounded them anew, which not every format leaves as they are."""
    with _disable_current_modes(), torch.no_grad():
        for p, weight in zip(model.parameters(), weights, strict=True):
            p.copy_(weight)


def _in_weights(step: int, a: nn.Module, b: nn.Module) -> Divergence | None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        found = _in_tensor(step, name, "", "weights", p.detach(), q.detach())
        if found is not None:
            return found
    return None


def _in_tensor(step: int, site: str, gemm: str, tensor: str, a: Tensor, b: Tensor) -> Divergence | None:
    # Bit for bit but for the payload of NaN: -0 and +0 are two numbers.
    apart = ((a != b) & ~(a.isnan() & b.isnan())) | (torch.signbit(a) != torch.signbit(b)) & ~a.isnan()
    if not bool(apart.any()):
        return None
    element = tuple(int(i) for i in apart.nonzero()[0]) if apart.dim() else ()
    return Divergence(step, site, gemm, tensor, element, float(a[element]), float(b[element]), int(apart.sum()))


def _with_vectors(found: Divergence, left: Tensor, right: Tensor) -> Divergence:
    matrices = left.dim() == right.dim() == len(found.element) and left.dim() in (2, 3) and left.shape[-1] == right.shape[-2]
    if not matrices:
        return found
    for index in found.element[:-2]:
        left, right = left[index], right[index]
    row, column = left[found.element[-2]], right[:, found.element[-1]]
    return replace(found, row=tuple(row.tolist()), column=tuple(column.tolist()))
