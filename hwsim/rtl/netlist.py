"""A synthesised circuit: gates in an order in which each reads what is already known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("NOT", "AND", "NAND", "OR", "NOR", "XOR", "XNOR", "MUX", "AOI3", "OAI3")
"""The gates a netlist may have; MUX gives B where S is set and A elsewhere, AOI3 is not (A B or C), OAI3 not ((A or B) C)."""

PINS = {"NOT": "A", "MUX": "ABS", "AOI3": "ABC", "OAI3": "ABC"}
ZERO, ONE, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Netlist:
    """Gates over numbered nets: net 0 is constant 0, net 1 constant 1, then the input bits, then the gates' outputs.

    Attributes:
        inputs, outputs: for each port the nets of its bits, the lowest first.
        kinds: for each gate its index in KINDS. reads: (gates, 3), the nets it reads. Gate g drives net `first + g`.
    """

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    kinds: NDArray[np.uint8]
    reads: NDArray[np.int32]

    @property
    def first(self) -> int:
        """The net that the first gate drives."""
        return FIRST + sum(map(len, self.inputs.values()))

    @property
    def nets(self) -> int:
        """How many nets there are."""
        return self.first + len(self.kinds)

    @property
    def counts(self) -> Counter[str]:
        """How many gates of each kind."""
        return Counter(KINDS[kind] for kind in self.kinds.tolist())

    @cached_property
    def depth(self) -> int:
        """The most gates on a way from an input to an output."""
        level = [0] * self.nets
        for gate, reads in enumerate(self.reads.tolist()):
            level[self.first + gate] = 1 + max(level[net] for net in reads)
        return max((level[net] for nets in self.outputs.values() for net in nets), default=0)


def from_yosys(text: str, name: str) -> Netlist:
    """The netlist of a module in Yosys's JSON.

    Raises:
        ValueError: it has a cell that is no gate of KINDS, or gates that read each other in a circle.
    """
    module = json.loads(text)["modules"][name]
    number: dict[Any, int] = {"0": ZERO, "1": ONE, "x": ZERO}
    ports: dict[str, dict[str, tuple[int, ...]]] = {"input": {}, "output": {}}
    count = FIRST
    for port, about in module["ports"].items():
        if about["direction"] == "input":
            for bit in about["bits"]:
                number[bit] = count
                count += 1
            ports["input"][port] = tuple(number[bit] for bit in about["bits"])
    kinds, reads = [], []
    for cell in _ordered(module["cells"], set(number)):
        kind = cell["type"].strip("$_")
        pins = PINS.get(kind, "AB")
        nets = [number[cell["connections"][pin][0]] for pin in pins]
        number[cell["connections"]["Y"][0]] = count
        count += 1
        kinds.append(KINDS.index(kind))
        reads.append(nets + [ZERO] * (3 - len(nets)))
    for port, about in module["ports"].items():
        if about["direction"] == "output":
            ports["output"][port] = tuple(number[bit] for bit in about["bits"])
    return Netlist(name, ports["input"], ports["output"], np.array(kinds, np.uint8), np.array(reads, np.int32).reshape(-1, 3))


def _ordered(cells: Mapping[str, Any], known: set[Any]) -> Iterator[Any]:
    """The cells, each after those it reads."""
    waiting: dict[Any, list[str]] = {}
    missing: dict[str, int] = {}
    ready = []
    for name, cell in cells.items():
        kind = cell["type"].strip("$_")
        if kind not in KINDS:
            raise ValueError(f"the netlist has a cell of type {cell['type']}; allowed: {', '.join(KINDS)}")
        needs = {cell["connections"][pin][0] for pin in PINS.get(kind, "AB")} - known
        missing[name] = len(needs)
        for bit in needs:
            waiting.setdefault(bit, []).append(name)
        if not needs:
            ready.append(name)
    done = 0
    while ready:
        cell = cells[ready.pop()]
        done += 1
        yield cell
        for name in waiting.get(cell["connections"]["Y"][0], ()):
            missing[name] -= 1
            if not missing[name]:
                ready.append(name)
    if done != len(cells):
        raise ValueError("the netlist has gates that read each other in a circle")
