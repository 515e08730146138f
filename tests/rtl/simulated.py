"""Circuits simulated as they are written, before any synthesis."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from amaranth.hdl import Signal
from amaranth.sim import Simulator

from hwsim.rtl.circuit import Circuit
from hwsim.rtl.stimuli import Codes, Stimuli
from hwsim.rtl.wires import Wires


def results(circuit: Circuit, given: Mapping[str, Codes]) -> dict[str, Codes]:
    """The outputs of a circuit, a code a vector."""
    w = Wires()
    inputs = {port.name: Signal(port.bits, name=port.name) for port in circuit.inputs}
    outputs = {port.name: Signal(port.bits, name=port.name) for port in circuit.outputs}
    made = circuit.build(w, inputs)
    for name, wire in outputs.items():
        w.module.d.comb += wire.eq(made[name])
    count = len(next(iter(given.values())))
    found = {name: np.zeros(count, np.int64) for name in outputs}

    async def bench(ctx):
        for n in range(count):
            for port in circuit.inputs:
                word = 0
                for place, code in enumerate(np.atleast_1d(given[port.name][n]).tolist()):
                    word |= code << (place * port.width)
                ctx.set(inputs[port.name], word)
            await ctx.delay(1e-9)
            for name, wire in outputs.items():
                found[name][n] = ctx.get(wire)

    simulator = Simulator(w.module)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def wrong(circuit: Circuit, stimuli: Stimuli) -> int:
    """On how many vectors a circuit differs from the emulator."""
    found = results(circuit, stimuli.given)
    return int(sum((found[name] != codes) for name, codes in stimuli.wanted.items()).astype(bool).sum())


def shortened(stimuli: Stimuli, count: int) -> Stimuli:
    """Some vectors, evenly spread."""
    step = max(stimuli.count // count, 1)
    given = {name: codes[::step] for name, codes in stimuli.given.items()}
    return replace(stimuli, given=given, wanted={name: codes[::step] for name, codes in stimuli.wanted.items()})
