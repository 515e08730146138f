"""One combinational circuit: its ports, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amaranth.back import rtlil
from amaranth.hdl import Signal, Value

from .wires import Wires

Build = Callable[[Wires, Mapping[str, Value]], Mapping[str, Value]]


@dataclass(frozen=True)
class Port:
    """A bundle of wires: `count` codes of `width` bits each, the first in the lowest bits."""

    name: str
    width: int
    count: int = 1

    @property
    def bits(self) -> int:
        """How many wires it has."""
        return self.width * self.count


@dataclass(frozen=True)
class Circuit:
    """A combinational circuit.

    Attributes:
        name: a Verilog identifier.
        inputs, outputs: its ports.
        build: writes the logic: from the inputs by name to the outputs by name.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    build: Build = field(repr=False)

    def rtlil(self) -> str:
        """The circuit in Yosys's own language."""
        w = Wires()
        given = {port.name: Signal(port.bits, name=port.name) for port in self.inputs}
        results = {port.name: Signal(port.bits, name=port.name) for port in self.outputs}
        made = self.build(w, given)
        for name, wire in results.items():
            w.module.d.comb += wire.eq(made[name])
        text: str = rtlil.convert(w.module, ports=[*given.values(), *results.values()], name=self.name, emit_src=False)
        return text
