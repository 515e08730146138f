"""Whether the vectors would notice a wrong gate: single-gate changes, with a proof or a new vector for each survivor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .netlist import FIRST, KINDS, ONE, ZERO, Netlist
from .simulator import Words, simulate_words

Fate = Literal["killed", "killed by an added vector", "equivalent"]
PAIRS = [kind for kind in KINDS if kind not in ("NOT", "MUX", "AOI3", "OAI3")]
OTHERS = {"NOT": ("NOT",), "MUX": ("AOI3", "OAI3"), "AOI3": ("OAI3", "MUX"), "OAI3": ("AOI3", "MUX")}


@dataclass(frozen=True)
class Mutant:
    """A netlist with one gate changed.

    Attributes:
        gate: its index. was, now: its kind before and after; a NOT becomes a wire, written as AND of its input with itself.
        fate: what became of it. vector: the input bits, in the netlist's order, that an added vector has.
    """

    gate: int
    was: str
    now: str
    fate: Fate
    vector: tuple[int, ...] = ()


def mutated(netlist: Netlist, gate: int, kind: str) -> Netlist:
    """The netlist with another kind of gate in one place."""
    kinds, reads = netlist.kinds.copy(), netlist.reads
    if KINDS[kinds[gate]] == "NOT":
        reads = reads.copy()
        reads[gate, 1] = reads[gate, 0]
    kinds[gate] = KINDS.index(kind)
    return replace(netlist, kinds=kinds, reads=reads)


def mutants(netlist: Netlist, inputs: Words, count: int = 300, seed: int = 0) -> Iterator[Mutant]:
    """Random single-gate changes and their fates; each survivor of the vectors is proven equivalent, or killed by a new one.

    Args:
        inputs: the vectors' bits, (input bits, words), in the netlist's order.
    """
    rng = np.random.default_rng(seed)
    golden = simulate_words(netlist, inputs)
    for gate in rng.choice(len(netlist.kinds), min(count, len(netlist.kinds)), replace=False).tolist():
        was = KINDS[netlist.kinds[gate]]
        choices = ["AND"] if was == "NOT" else [k for k in OTHERS.get(was, PAIRS) if k != was]
        now = str(rng.choice(choices))
        changed = mutated(netlist, gate, now)
        found = simulate_words(changed, inputs)
        if any((found[port] != words).any() for port, words in golden.items()):
            yield Mutant(gate, was, now, "killed")
            continue
        vector = distinguishing(netlist, changed)
        yield Mutant(gate, was, now, "equivalent" if vector is None else "killed by an added vector", vector or ())


def distinguishing(netlist: Netlist, changed: Netlist) -> tuple[int, ...] | None:
    """Input bits on which two netlists with the same wiring differ, or None where a SAT solver proves that there are none."""
    from pysat.solvers import Cadical153

    differs = np.nonzero((netlist.kinds != changed.kinds) | (netlist.reads != changed.reads).any(axis=1))[0]
    if not len(differs):
        return None
    first = netlist.first
    twin: dict[int, int] = {}
    reads = changed.reads.tolist()
    for gate in range(int(differs[0]), len(reads)):
        if gate in differs or any(net in twin for net in reads[gate]):
            twin[first + gate] = netlist.nets + len(twin)
    variable = [net + 1 for net in range(netlist.nets + len(twin))]
    outputs = [net for nets in netlist.outputs.values() for net in nets if net in twin]
    with Cadical153() as solver:
        solver.add_clause([-variable[ZERO]])
        solver.add_clause([variable[ONE]])
        for gate, (kind, nets) in enumerate(zip(netlist.kinds.tolist(), netlist.reads.tolist(), strict=True)):
            for clause in _clauses(KINDS[kind], variable[first + gate], [variable[net] for net in nets]):
                solver.add_clause(clause)
        for net, copy in twin.items():
            kind, nets = changed.kinds[net - first], changed.reads[net - first].tolist()
            for clause in _clauses(KINDS[kind], variable[copy], [variable[twin.get(n, n)] for n in nets]):
                solver.add_clause(clause)
        top = len(variable)
        unequal = []
        for net in outputs:
            top += 1
            for clause in _clauses("XOR", top, [variable[net], variable[twin[net]]]):
                solver.add_clause(clause)
            unequal.append(top)
        solver.add_clause(unequal)
        if not solver.solve():
            return None
        model = set(solver.get_model())
    return tuple(int(variable[net] in model) for net in range(FIRST, first))


def _clauses(kind: str, y: int, x: list[int]) -> list[list[int]]:
    """y = kind(x), as clauses."""
    a, b, c = (*x, 0, 0, 0)[:3]
    match kind:
        case "NOT":
            return [[y, a], [-y, -a]]
        case "AND" | "NAND":
            y = y if kind == "AND" else -y
            return [[-y, a], [-y, b], [y, -a, -b]]
        case "OR" | "NOR":
            y = y if kind == "OR" else -y
            return [[y, -a], [y, -b], [-y, a, b]]
        case "XOR" | "XNOR":
            y = y if kind == "XOR" else -y
            return [[-y, a, b], [-y, -a, -b], [y, -a, b], [y, a, -b]]
        case "MUX":
            return [[c, -a, y], [c, a, -y], [-c, -b, y], [-c, b, -y]]
        case "AOI3":
            return [[-y, -a, -b], [-y, -c], [y, a, c], [y, b, c]]
        case _:
            return [[-y, -a, -c], [-y, -b, -c], [y, a, b], [y, c]]
