"""Whether a netlist is the emulator: every circuit of a Cast or a Mac on directed vectors, and whole dot products through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsim.casts import Cast
from hwsim.formats import Draw, Format
from hwsim.macs import Mac, reference
from hwsim.macs.grouping import groups, innermost_runs

from .circuit import Circuit
from .netlist import Netlist
from .simulator import Codes, simulate
from .stimuli import SIDE, Stimuli, encoded, of_converter, of_unit, step_machine, through_port
from .units import Unit


@dataclass(frozen=True)
class Verdict:
    """How a circuit compared.

    Attributes:
        circuit: its name. oracle: `emulator`, or `rational`: the scalar reference in exact arithmetic.
        first: the first vector that differs, in words; empty where none does.
    """

    circuit: str
    oracle: str
    vectors: int
    mismatches: int
    first: str = ""

    def __str__(self) -> str:
        text = f"{self.circuit} against the {self.oracle}: {self.vectors:,} vectors, {self.mismatches} differ"
        return f"{text}; {self.first}" if self.first else text


def compared(circuit: Circuit, netlist: Netlist, stimuli: Stimuli, oracle: str = "emulator") -> Verdict:
    """A netlist's outputs beside the wanted ones."""
    widths = {port.name: port.width for port in circuit.inputs}
    found = simulate(netlist, stimuli.given, widths)
    wrong = np.zeros(stimuli.count, bool)
    for name, codes in stimuli.wanted.items():
        wrong |= found[name] != codes
    places = np.nonzero(wrong)[0]
    first = _described(stimuli, found, int(places[0])) if len(places) else ""
    return Verdict(circuit.name, oracle, stimuli.count, len(places), first)


def _described(stimuli: Stimuli, found: Mapping[str, Codes], at: int) -> str:
    given = ", ".join(f"{name} = {_hex(codes[at])}" for name, codes in stimuli.given.items())
    got = ", ".join(f"{name} = {_hex(found[name][at])}, not {_hex(codes[at])}" for name, codes in stimuli.wanted.items())
    return f"vector {at}: {given} give {got}"


def _hex(codes: object) -> str:
    return " ".join(f"{int(code):x}" for code in np.atleast_1d(codes))  # type: ignore[call-overload]


def unit_verdicts(
    mac: Mac, unit: Unit, netlists: Mapping[str, Netlist], side: int = SIDE, exact: int = 20_000
) -> Iterator[Verdict]:
    """Every circuit of a unit on side^2 vectors, the step on `exact` ones against the rational reference too (0: not at all)."""
    for circuit, stimuli in of_unit(mac, unit, side):
        yield compared(circuit, netlists[circuit.name], stimuli)
        if circuit is unit.step and exact:
            yield compared(circuit, netlists[circuit.name], by_rationals(mac, unit, stimuli, exact), "rational reference")


def cast_verdict(cast: Cast, circuit: Circuit, netlist: Netlist, count: int = SIDE * SIDE) -> Verdict:
    """A converter on `count` vectors."""
    return compared(circuit, netlist, of_converter(cast, circuit, count))


def by_rationals(mac: Mac, unit: Unit, stimuli: Stimuli, count: int) -> Stimuli:
    """Some of the vectors, with what the reference makes of them in exact rational arithmetic."""
    if any(name.startswith(("random", "scale")) for name in stimuli.given):
        return _rationals(mac, unit, stimuli, np.arange(min(count, stimuli.count)))
    chosen = np.random.default_rng(0).permutation(stimuli.count)[:count]
    return _rationals(mac, unit, stimuli, chosen)


def _rationals(mac: Mac, unit: Unit, stimuli: Stimuli, chosen: Codes) -> Stimuli:
    machine, (fa, fb) = step_machine(mac), unit.operands
    given = {name: codes[chosen] for name, codes in stimuli.given.items()}
    a, b = (through_port(_values(fmt, given[port]), fmt, mac).tolist() for port, fmt in zip("ab", (fa, fb), strict=True))
    c = _values(unit.state, given["c"]).tolist() if "c" in given else None
    scales: list[list[Any] | None] = [None, None]
    if "scale_a" in given and mac.scales is not None:
        scales = [_values(mac.scales.format, given[f"scale_{side}"]).tolist() for side in "ab"]
    results = []
    for n, at in enumerate(chosen.tolist()):
        sa, sb = (_listed(s[n]) if s is not None else None for s in scales)
        terms = reference.Terms(
            _listed(a[n]), _listed(b[n]), sa, sb, fa.grid.min_exponent, fb.grid.min_exponent, at, stimuli.count, Draw(0)
        )
        results.append(reference.dot(terms, None if c is None else c[n], machine))
    values = torch.tensor(results, dtype=torch.float64)
    return Stimuli(given, {"d": encoded(mac.accumulator.format, values)})


def _listed(given: object) -> list[float]:
    return list(given) if isinstance(given, list) else [given]  # type: ignore[list-item]


def _values(fmt: Format, codes: Codes) -> Tensor:
    return fmt.decode(torch.from_numpy(np.ascontiguousarray(codes))).double()


def through(mac: Mac, unit: Unit, netlists: Mapping[str, Netlist], a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """c_r + a_r . b_r for rows r of (R, K), every step of it by a netlist; zeros fill K up to whole steps.

    For units without scales and without random words.
    """
    fa, fb = unit.operands
    a, b = (torch.nn.functional.pad(x, (0, -x.shape[1] % unit.terms)) for x in (a, b))
    ca, cb = encoded(fa, a), encoded(fb, b)
    levels = mac.levels(a.shape[1])
    rows = len(a)
    formats = [mac.accumulator.format, *(level.into.format for level in levels)]
    totals = [np.zeros(rows, np.int64) for _ in formats]
    if unit.port is not None:
        c = _values(mac.c_format, _run(unit.port, netlists, {"x": encoded(mac.c_format, c)}))
    start = encoded(unit.total, c) if mac.c.enters != "last" else np.zeros(rows, np.int64)
    ports = [unit.state, *(level.into.format for level in levels)]
    ports[-1] = unit.total
    totals[-1] = start
    for ks, ended in innermost_runs(range(a.shape[1]), levels):
        for group in _groups(mac, ks):
            given = {"a": ca[:, list(group)], "b": cb[:, list(group)], "c": totals[0]}
            totals[0] = _ported(_run(unit.step, netlists, given), formats[0], ports[0])
        for n in range(ended):
            partial = _ported(totals[n], ports[n], formats[n])
            given = {"a": partial, "c": totals[n + 1]}
            totals[n + 1] = _ported(_run(unit.outer[n], netlists, given), formats[n + 1], ports[n + 1])
            totals[n] = np.zeros(rows, np.int64)
    result = _ported(totals[-1], ports[-1], formats[-1])
    if unit.last is not None:
        result = _run(unit.last, netlists, {"a": encoded(mac.c_format, c), "c": result})
    return _values(mac.outermost.format, result)


def _groups(mac: Mac, ks: range) -> Iterator[list[int]]:
    if mac.fused:
        yield from (list(group) for group in groups(mac.fused, ks))
    elif mac.tree:
        yield list(ks)
    else:
        yield from ([k] for k in ks)


def _ported(codes: Codes, source: Format, to: Format) -> Codes:
    return codes if source == to else encoded(to, _values(source, codes))


def _run(circuit: Circuit, netlists: Mapping[str, Netlist], given: Mapping[str, Codes]) -> Codes:
    ports = {port.name: port.width for port in circuit.inputs}
    return simulate(netlists[circuit.name], {name: given[name] for name in ports}, ports)["d"]
