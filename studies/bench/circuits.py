"""How long a netlist takes to simulate, and the circuits of all small units to synthesise."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwsim.macs import Mac, mac

from .measurement import Measurement
from .steps import Measurements

if TYPE_CHECKING:
    from hwsim.rtl.units import Unit

VECTORS = 2_000_000
TERMS, WIDE = 8, 32
AT_A_TIME = 2
SUITE_LIMIT, SIMULATION_LIMIT = 180.0, 1.0
"""Seconds promised for the area suite on two cores, and for 2,000,000 vectors of an FP8 multiply-add."""


def measure(rounds: int) -> Measurements:
    """Both, the synthesis once."""
    return Measurements((simulation(rounds), suite(small_units())))


def simulation(rounds: int, vectors: int = VECTORS) -> Measurement:
    """Random codes through the netlist of an FP8 multiply-add with an fp32 accumulator, packing and unpacking included."""
    from hwsim.rtl.simulator import simulate
    from hwsim.rtl.synthesis import synthesised
    from hwsim.rtl.units import lowered

    unit = lowered(mac({"operands": "fp8_e4m3fn", "accumulator": {"format": "fp32"}, "order": "sequential"}))
    netlist, widths = synthesised(unit.step), {port.name: port.width for port in unit.step.inputs}
    draw = np.random.default_rng(0)
    given = {port: draw.integers(0, 1 << width, vectors) for port, width in widths.items()}
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        simulate(netlist, given, widths)
        best = min(best, time.perf_counter() - start)
    name = f"{vectors:,} vectors of {len(netlist.kinds):,} gates"
    return _alone("netlist of an FP8 multiply-add", name, best * VECTORS / vectors, SIMULATION_LIMIT)


def small_units() -> list[Unit]:
    """The shipped units that have circuits, take at most eight terms at once and do not multiply fp32 by fp32."""
    from hwsim.catalogue import Catalogue
    from hwsim.rtl.subjects import subjects

    found = []
    for name in Catalogue().names("macs"):
        subject = subjects(name, kind="unit")[0]
        terms = subject.declared.fused.terms if isinstance(subject.declared, Mac) and subject.declared.fused else 1
        if subject.unit is None or terms not in range(TERMS + 1) or all(fmt.bits >= WIDE for fmt in subject.unit.operands):
            continue
        found.append(subject.unit)
    return found


def suite(units: Iterable[Unit]) -> Measurement:
    """The default mapping of every circuit of these units, two at a time, nothing kept from before."""
    from hwsim.rtl.synthesis import synthesised

    circuits = [circuit for unit in units for circuit in unit.circuits]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        start = time.perf_counter()
        list(pool.map(lambda circuit: synthesised(circuit, cache=Path(folder)), circuits))
        spent = time.perf_counter() - start
    return _alone("area suite, default mapping, two at a time", f"{len(circuits)} circuits", spent, SUITE_LIMIT)


def _alone(title: str, name: str, seconds: float, limit: float) -> Measurement:
    return Measurement(title, name, seconds, {name: 1.0}, {}, limits={name: limit})
