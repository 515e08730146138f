"""Integers or floating point for the data: which costs less at equal bits, and where they cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import Annotated, Any, Literal

from pydantic import Field

from hwsim.formats import Float, Integer

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count, Positive, SgdProblem, risk
from .words import number

HALVINGS = 30


class Parameters(SgdProblem):
    """At equal bits, when do integers serve the data better than floating point, and when the other way round?

    Args:
        exponent: a, by which the eigenvalues fall; the axis of the question.
        dimensions: d; dimension is not used.
        integer_bits: b of the ideal additive error of variance 4^-b, whose multiplicative rival of size 4^-m is searched.
        bits: of the real formats that are compared.
        reach: how many deviations of the largest coordinate the integers' range covers.
    """

    name: Literal["additive_vs_multiplicative"]
    dimensions: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 64, 256, 1024)
    integer_bits: Annotated[tuple[Count, ...], Field(min_length=1)] = (4, 6)
    bits: tuple[Annotated[int, Field(ge=4, le=8)], ...] = (4, 6, 8)
    reach: Positive = 4.0


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """For each d: where the ideal errors cost the same, and what formats of equal bits cost."""
    found: list[Row] = []
    for d in parameters.dimensions:
        exact = risk(parameters.arguments(dimension=d))
        for bits in parameters.integer_bits:
            additive = _risk(parameters, d, ("additive", 4.0**-bits))
            line = bits - parameters.exponent / 2 * log2(d)
            row = {"kind": "crossover", "d": d, "bits": bits, "exact": exact, "risk": additive}
            found.append(row | {"m": _crossover(parameters, d, additive), "line": line})
        for bits in parameters.bits:
            for label, quantizer in rivals(bits, parameters.reach).items():
                value = _risk(parameters, d, quantizer)
                found.append({"kind": "formats", "d": d, "bits": bits, "format": label, "exact": exact, "risk": value})
    return found


def rivals(bits: int, reach: float) -> dict[str, Any]:
    """The integers of so many bits with a step that covers the largest coordinate, and every split of a floating-point format."""
    symmetric = Integer(bits, symmetric=True)
    step = {"rule": "fixed", "value": reach / symmetric.max}
    found: dict[str, Any] = {f"int{bits}": {"format": symmetric, "rounding": "stochastic", "scaling": step}}
    for exponent in range(2, min(bits - 1, 5) + 1):
        fmt = Float(exponent, bits - 1 - exponent, specials="finite")
        scale = {"rule": "fixed", "value": reach / fmt.max}
        found[f"e{exponent}m{bits - 1 - exponent}"] = {"format": fmt, "rounding": "stochastic", "scaling": scale}
    return found


def _risk(parameters: Parameters, d: int, quantizer: Any) -> float:
    return risk(parameters.arguments(dimension=d, quantizers={"data": quantizer}))


def _crossover(parameters: Parameters, d: int, target: float) -> float:
    """m at which the multiplicative error of size 4^-m costs as much, by bisection on the logarithm."""
    low, high = -4.0, 30.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        low, high = (m, high) if _risk(parameters, d, ("multiplicative", 4.0**-m)) > target else (low, m)
    return (low + high) / 2


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """The crossover against the published line, and the formats at equal bits."""
    crossings = [row for row in found if row["kind"] == "crossover"]
    formats = [row for row in found if row["kind"] == "formats"]
    header = ["a", "d", "b", "m of equal risk", "b - (a/2) log2 d", "difference"]
    lines = [
        [number(r["exponent"]), str(r["d"]), str(r["bits"]), f"{r['m']:.2f}", f"{r['line']:.2f}", f"{r['m'] - r['line']:+.2f}"]
        for r in crossings
    ]
    tables = [
        Table("Mantissa bits m at which ideal multiplicative errors cost as much as additive ones of b bits", header, lines)
    ]
    best = _best(formats)
    rows_of = [
        [number(a), str(d), str(bits), integer["format"], number(_cost(integer)), rival["format"], number(_cost(rival))]
        for (a, d, bits), (integer, rival) in best.items()
    ]
    columns = ["a", "d", "bits", "integers", "cost", "best floating point", "cost"]
    tables.append(Table("What stochastically rounded formats of equal bits add to the excess risk", columns, rows_of))
    return Section(
        _headline(crossings, best),
        tables,
        [Plot("Crossover of ideal errors, and formats at equal bits.", _panels(crossings, best))],
    )


Best = Mapping[tuple[float, int, int], tuple[Mapping[str, Any], Mapping[str, Any]]]


def _best(formats: Sequence[Mapping[str, Any]]) -> Best:
    groups: dict[tuple[float, int, int], list[Mapping[str, Any]]] = {}
    for row in formats:
        groups.setdefault((row["exponent"], row["d"], row["bits"]), []).append(row)
    return {key: (group[0], min(group[1:], key=_cost)) for key, group in groups.items()}


def _cost(row: Mapping[str, Any]) -> float:
    return float(row["risk"] - row["exact"])


def _headline(crossings: Sequence[Mapping[str, Any]], best: Best) -> str:
    differences = [row["m"] - row["line"] for row in crossings]
    low, high = min(row["d"] for row in crossings), max(row["d"] for row in crossings)
    by_size = {(row["exponent"], row["bits"], row["d"]): row["m"] for row in crossings}
    moved = [m - by_size[a, bits, low] for (a, bits, d), m in by_size.items() if d == high]
    text = (
        f"From d = {low} to {high} the m at which ideal multiplicative errors cost as much as additive ones moves by "
        f"{min(moved):+.2f} to {max(moved):+.2f} bits, and differs from b - (a/2) log2 d by {min(differences):+.2f} to "
        f"{max(differences):+.2f}"
    )
    if not best:
        return text + "."
    wins = [key for key, (integer, rival) in best.items() if _cost(rival) < _cost(integer)]
    steepest = max(a for a, _, _ in best)
    steep = sum(a == steepest for a, _, _ in wins)
    return (
        f"{text}; among real formats of equal bits floating point costs less than integers in {len(wins)} of {len(best)} cases "
        f"({steep} of {sum(a == steepest for a, _, _ in best)} at a = {steepest:g})."
    )


def _panels(crossings: Sequence[Mapping[str, Any]], best: Best) -> list[Panel]:
    curves = []
    exponents = sorted({row["exponent"] for row in crossings})
    bits = max(row["bits"] for row in crossings)
    for colour, a in enumerate(exponents):
        chosen = [row for row in crossings if row["exponent"] == a and row["bits"] == bits]
        d = [row["d"] for row in chosen]
        curves.append(Line(f"a = {a:g}", d, [row["m"] for row in chosen], "line", colour=colour))
        curves.append(Line(f"line, a = {a:g}", d, [row["line"] for row in chosen], "dots", colour=colour))
    panels = [Panel(f"m of equal risk, b = {bits}", "dimension", "m", curves, x_log=True)]
    lines = []
    for colour, width in enumerate(sorted({bits for _, _, bits in best})):
        largest = max(d for _, d, _ in best)
        chosen_pairs = [(a, pair) for (a, d, its), pair in best.items() if (d, its) == (largest, width)]
        ratios = [max(_cost(rival), 1e-18) / max(_cost(integer), 1e-18) for _, (integer, rival) in chosen_pairs]
        lines.append(Line(f"{width} bits, d = {largest}", [a for a, _ in chosen_pairs], ratios, "line", colour=colour))
    if lines:
        panels.append(Panel("cost of floating point over integers", "exponent a", "ratio", lines, y_log=True))
    return panels


EXPERIMENT = Experiment(Parameters, rows, section)
