"""The account of a run: what ran, where, how often, in which phase, through which cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hwsim.casts import Cast
from hwsim.layering import Operand

from .opened import native_steps
from .operations import ACTIVATIONS
from .phases import Phase
from .sites import Layer, Site, Sites


@dataclass(frozen=True)
class AuditRow:
    """One kind of work at one place.

    Args:
        phase: forward, evaluation, loss, backward, recompute, callback, optimizer, entry or other.
        op: the ATen operation.
        site: the contraction's name, or the path of the layer that ran.
        count: how often it ran.
        role: of a GEMM `input`, `weight`, `grad_output` or `result`; of the optimizer `accumulate`, `gradient`, `momentum`,
            `variance`, `state`, `update` or `weight`; elsewhere `vector`, `move` (values that only move, whole numbers, truth
            values), `random`, `wire` or `unknown`.
        cast: the declared cast, or `none` where the datapath declares none or values only move.
        flops: 2 M N K of a GEMM, in its `result` row; one for each element written elsewhere; 0 for moves.
        gemm: `output`, `grad_input` or `grad_weight`; empty elsewhere.
        mac: the unit that computed a GEMM; empty elsewhere.
        elements: that a GEMM's operand or result has, over all calls; those written elsewhere; 0 for moves.
    """

    phase: str
    op: str
    site: str
    count: int
    role: str
    cast: str
    flops: int
    gemm: str = ""
    mac: str = ""
    elements: int = 0


@dataclass(frozen=True)
class NativeRow:
    """Tensors that stayed in the precision that the model gave them, and why."""

    phase: str
    op: str
    site: str
    role: str
    reason: str
    count: int
    flops: int


UNDECLARED = "the datapath declares no cast"
REASONS = {
    "random": "random numbers are drawn by the host; they are rounded when something computes with them",
    "embedding": "rows of a weight, selected and not computed; they are rounded when something computes with them",
    "wire": "the datapath declares no wire format",
    "unknown": "unknown operation, passed by unknown_ops: pass",
    "scale": "scales that train stay in full precision",
    "counter": "counts and scalars of the optimizer's control flow",
}

GemmKey = tuple[Phase, str, Site, str, Operand, Operand]
OtherKey = tuple[Phase, str, str, str, str]


class Audit:
    """Counts by place; the rows are written out when asked for."""

    def __init__(self) -> None:
        self._gemms: dict[GemmKey, list[int]] = {}
        self._vectors: dict[tuple[Phase, str, Layer], list[int]] = {}
        self._moves: dict[tuple[Phase, str, Layer], int] = {}
        self._others: dict[OtherKey, list[int]] = {}

    def gemm(self, key: GemmKey, flops: int, left: int, right: int, result: int) -> None:
        """Count a GEMM, and the elements of its operands and of its result."""
        entry = self._gemms.get(key)
        if entry is None:
            entry = self._gemms[key] = [0, 0, 0, 0, 0]
        for i, more in enumerate((1, flops, left, right, result)):
            entry[i] += more

    def vector(self, phase: Phase, op: str, layer: Layer, flops: int) -> None:
        """Count an operation of the vector unit."""
        key = (phase, op, layer)
        entry = self._vectors.get(key)
        if entry is None:
            entry = self._vectors[key] = [0, 0]
        entry[0] += 1
        entry[1] += flops

    def move(self, phase: Phase, op: str, layer: Layer) -> None:
        """Count an operation that only moves values."""
        key = (phase, op, layer)
        self._moves[key] = self._moves.get(key, 0) + 1

    def other(self, phase: Phase, op: str, site: str, role: str, cast: Cast | None, flops: int) -> None:
        """Count anything else."""
        entry = self._others.setdefault((phase, op, site, role, _text(cast)), [0, 0])
        entry[0] += 1
        entry[1] += flops

    def state_dict(self) -> dict[str, list[list[Any]]]:
        """The counts, by the names of their places, in the order in which these first ran."""
        return {
            "gemms": [
                [phase.value, op, site.name, site.layer.path, *roles, *entry]
                for (phase, op, site, *roles), entry in self._gemms.items()
            ],
            "vectors": [[phase.value, op, layer.path, *entry] for (phase, op, layer), entry in self._vectors.items()],
            "moves": [[phase.value, op, layer.path, count] for (phase, op, layer), count in self._moves.items()],
            "others": [[phase.value, *names, *entry] for (phase, *names), entry in self._others.items()],
        }

    def load_state_dict(self, state: dict[str, list[list[Any]]], sites: Sites) -> None:
        """Count on from saved counts; those so far are dropped."""
        self._gemms = {
            (Phase(phase), op, sites.site(name, sites.layer(path), _is_product(gemm, left, right)), gemm, left, right): entry
            for phase, op, name, path, gemm, left, right, *entry in state["gemms"]
        }
        self._vectors = {(Phase(phase), op, sites.layer(path)): entry for phase, op, path, *entry in state["vectors"]}
        self._moves = {(Phase(phase), op, sites.layer(path)): count for phase, op, path, count in state["moves"]}
        self._others = {(Phase(phase), op, site, role, cast): entry for phase, op, site, role, cast, *entry in state["others"]}

    def rows(self) -> list[AuditRow]:
        """All rows, in the order in which their places first ran."""
        return [*self._gemm_rows(), *self._vector_rows(), *self._move_rows(), *self._other_rows()]

    def unemulated(self) -> list[NativeRow]:
        """The rows without a cast for which values were computed or selected, and the unit's inner steps that are torch's own."""
        results = [
            NativeRow(row.phase, row.op, row.site, row.role, REASONS.get(row.role, UNDECLARED), row.count, row.flops)
            for row in self.rows()
            if row.cast == "none" and row.role != "move"
        ]
        return [*results, *self._selected(), *self._native_steps()]

    def coverage(self) -> dict[str, float]:
        """The shares of operations and of FLOPs that ran as the datapath declares; 1.0 is all.

        An absent cast is a declaration (the model's own precision; `unemulated` names it); what the machine does not know is not.
        """
        entries = [(entry, True) for entry in (*self._gemms.values(), *self._vectors.values())]
        entries += [([count, 0], True) for count in self._moves.values()]
        entries += [(entry, key[3] not in ("unknown", "wire") or key[4] != "none") for key, entry in self._others.items()]
        return {
            share: _ratio(sum(e[i] for e, known in entries if known), sum(e[i] for e, _ in entries))
            for i, share in enumerate(("operations", "flops"))
        }

    def _selected(self) -> Iterator[NativeRow]:
        for (phase, op, layer), count in self._moves.items():
            if op in ACTIVATIONS:
                reason = UNDECLARED if layer.vector.cast is None else REASONS["embedding"]
                yield NativeRow(phase.value, op, layer.path, "embedding", reason, count, 0)

    def _native_steps(self) -> Iterator[NativeRow]:
        for (phase, op, layer), (count, flops) in self._vectors.items():
            reason = native_steps(op, layer.steps)
            if reason:
                yield NativeRow(phase.value, op, layer.path, "steps", reason, count, flops)

    def _gemm_rows(self) -> Iterator[AuditRow]:
        for (phase, op, site, gemm, left, right), (count, flops, *elements) in self._gemms.items():
            ports = site.ports(gemm, left, right)  # type: ignore[arg-type]
            mac = ports.mac.name or str(ports.mac.order)
            work = ((left, ports.left, 0), (right, ports.right, 0), ("result", ports.result, flops))
            for (role, port, share), moved in zip(work, elements, strict=True):
                yield AuditRow(phase.value, op, site.name, count, role, _text(port.cast), share, gemm, mac, moved)

    def _vector_rows(self) -> Iterator[AuditRow]:
        for (phase, op, layer), (count, flops) in self._vectors.items():
            yield AuditRow(phase.value, op, layer.path, count, "vector", _text(layer.vector.cast), flops, elements=flops)

    def _move_rows(self) -> Iterator[AuditRow]:
        for (phase, op, layer), count in self._moves.items():
            yield AuditRow(phase.value, op, layer.path, count, "move", "none", 0)

    def _other_rows(self) -> Iterator[AuditRow]:
        for (phase, op, site, role, cast), (count, flops) in self._others.items():
            yield AuditRow(phase.value, op, site, count, role, cast, flops, elements=flops)


def _is_product(gemm: str, left: str, right: str) -> bool:
    """Whether a GEMM belongs to a product of two activations: no weight is multiplied, and none's gradient is made."""
    return gemm != "grad_weight" and "weight" not in (left, right)


def _text(cast: Cast | None) -> str:
    return "none" if cast is None else str(cast)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
