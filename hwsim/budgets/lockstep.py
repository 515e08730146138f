"""Two datapaths in lock step, to the first number that differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.emulator.observing import Factor, Product
from hwsim.emulator.records import GemmNote

Batches = Iterable[tuple[Any, Any]]


@dataclass(frozen=True)
class Seen:
    """One GEMM as a machine ran it: its operands after their casts, and what its unit gave."""

    site: str
    gemm: str
    call: int
    tensors: dict[str, Tensor]
    factors: tuple[Factor, Factor]


@dataclass(frozen=True)
class Divergence:
    """The first number in which two machines differ.

    Args:
        step: of training, from 0.
        site, gemm: of the GEMM; `loss` or `weights` where the GEMMs agree.
        tensor: `input`, `weight` or `grad_output` after its cast, or `result`, what the unit gave with the bias.
        element: its index.
        a, b: the two values.
        differing: how many elements of the tensor differ.
        row, column: the operand vectors of that dot product after their casts, where the tensor is a product of matrices.
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

    def __str__(self) -> str:
        where = " ".join(text for text in (self.site, self.gemm, self.tensor) if text)
        return (
            f"step {self.step}: {where}[{', '.join(map(str, self.element))}] is {self.a!r} ({self.a.hex()}) and "
            f"{self.b!r} ({self.b.hex()}); {self.differing} elements differ"
        )


class _Recorder:
    """Keeps every GEMM of one step, in order."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def product(self, product: Product) -> None:
        """A GEMM has run."""
        a, b = product.factors
        ports = [product.site.port(product.gemm, factor.role) for factor in (a, b)]
        tensors = {f"{factor.role}": factor.cast(port).clone() for factor, port in zip((a, b), ports, strict=True)}
        tensors["result"] = product.out.clone()
        self.seen.append(Seen(product.site.name, product.gemm, product.call, tensors, (a, b)))

    def node(self, node: Any, note: GemmNote) -> None:
        """Nodes say nothing here."""


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

    Within a step the GEMMs are compared in the order in which they ran: operands after their casts, then products; then the loss
    and the weights after the step.
    """
    models = [deepcopy(model) for _ in range(2)]
    optimizers = [make_optimizer(copy) for copy in models]
    states: list[dict[str, Any] | None] = [None, None]
    for step, (inputs, targets) in enumerate(batches):
        losses, records = [], []
        for i, (copy, optimizer, machine) in enumerate(zip(models, optimizers, (a, b), strict=True)):
            recorder = _Recorder()
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(seed + step)
                ran = stack.enter_context(emulate(copy, machine, optimizer, seed, observer=recorder))
                if (state := states[i]) is not None:
                    ran.load_state_dict(state)
                optimizer.zero_grad()
                loss = loss_fn(copy(inputs), targets)
                ran.scale(loss).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                states[i] = ran.state_dict()
            losses.append(loss.detach())
            records.append(recorder.seen)
        found = _in_step(step, *records) or _in_tensor(step, "", "", "loss", losses[0], losses[1])
        found = found or _in_weights(step, *models)
        if found is not None:
            return found
    return None


def _in_step(step: int, a: list[Seen], b: list[Seen]) -> Divergence | None:
    for one, other in zip(a, b, strict=True):
        for name, x in one.tensors.items():
            found = _in_tensor(step, one.site, one.gemm, name, x, other.tensors[name])
            if found is not None:
                return _with_vectors(found, one) if name == "result" else found
    return None


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


def _with_vectors(found: Divergence, seen: Seen) -> Divergence:
    left, right = (seen.tensors[factor.role] for factor in seen.factors)
    matrices = left.dim() == right.dim() == len(found.element) and left.dim() in (2, 3) and left.shape[-1] == right.shape[-2]
    if not matrices or seen.factors[0].role == seen.factors[1].role:
        return found
    for index in found.element[:-2]:
        left, right = left[index], right[index]
    row, column = left[found.element[-2]], right[:, found.element[-1]]
    return replace(found, row=tuple(row.tolist()), column=tuple(column.tolist()))
