"""What quantizing the data does to their spectrum, in the eigenbasis and in rotated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from hwsim.config.record import Record
from hwsim.training import power_law, rotation, spectral_distortion
from hwsim.training.spectra import Basis

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .words import number, ratio

LAWS = ("additive", "multiplicative")


class Parameters(Record):
    """Does quantizing the data add a floor to their spectrum, or scale it, and what does a rotation change?

    The data are x = U diag(i^-exponent)^(1/2) g, quantized elementwise with unbiased errors; the optimum is 1 in the eigenbasis.

    Args:
        dimension: d, a power of two where a Hadamard basis takes part.
        exponent: a, how fast the eigenvalues fall.
        size: the variance of additive errors, the relative variance of multiplicative ones.
        bases: U.
    """

    name: Literal["spectral_distortion"]
    dimension: Annotated[int, Field(ge=2, le=4096)] = 256
    exponent: Annotated[float, Field(ge=0)] = 2.0
    size: Annotated[float, Field(gt=0)] = 0.01
    bases: Annotated[tuple[Basis, ...], Field(min_length=1)] = ("identity", "hadamard", "random")

    @model_validator(mode="after")
    def _possible(self) -> Parameters:
        if "hadamard" in self.bases and self.dimension & (self.dimension - 1):
            raise ValueError(f"dimension: got {self.dimension} with a Hadamard basis; allowed: a power of two")
        return self


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """The spectrum of the quantized data beside that of the clean ones, and the approximation error, for law and basis."""
    clean = power_law(parameters.dimension, parameters.exponent)
    found: list[Row] = []
    for basis in parameters.bases:
        turn = rotation(basis, parameters.dimension, seed)
        for law in LAWS:
            distortion = spectral_distortion(clean, 1.0, (law, parameters.size), turn)
            for i, (before, after) in enumerate(zip(clean, distortion.spectrum, strict=True)):
                row = {"basis": basis, "law": law, "index": i + 1, "eigenvalue": float(before), "quantized": float(after)}
                found.append(row | {"approximation": distortion.approximation, "irreducible": distortion.irreducible})
    return found


def section(found: Sequence[Mapping[str, Any]]) -> Section:
    """The spectra, and the approximation errors."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["law"], row["basis"]), []).append(row)
    ends = {key: group[0] for key, group in groups.items()}
    lines = []
    for (law, basis), group in sorted(groups.items()):
        last = group[-1]
        added = last["quantized"] - last["eigenvalue"]
        first = group[0]["quantized"] / group[0]["eigenvalue"] - 1
        lines.append(
            [law, basis, number(first), number(added), number(last["eigenvalue"]), number(ends[law, basis]["approximation"])]
        )
    header = ["errors", "basis", "first eigenvalue grows by", "last one gains", "and was", "approximation error"]
    table = Table(
        "What quantization adds to the spectrum, and the excess risk of the best predictor from quantized data", header, lines
    )
    return Section(
        _headline(ends), [table], [Plot("Eigenvalues of the quantized data; dots are those of the clean data.", _panels(groups))]
    )


def _headline(ends: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    d, size = next(iter(ends.values()))["dimension"], next(iter(ends.values()))["size"]
    error = {key: end["approximation"] for key, end in ends.items()}
    text = f"With errors of size {size:g} in {d} dimensions, "
    if ("multiplicative", "identity") in error and ("additive", "identity") in error:
        aligned, floor = error["multiplicative", "identity"], error["additive", "identity"]
        text += f"multiplicative errors only scale an aligned spectrum (approximation error {number(aligned)}) and additive ones "
        text += f"lay a floor under it ({number(floor)})"
        if ("multiplicative", "hadamard") in error:
            turned = error["multiplicative", "hadamard"]
            text += "; a Hadamard rotation turns the multiplicative into a floor, "
            text += f"{ratio(turned / aligned)} as costly ({number(turned)})"
        return text + "."
    return text + ", ".join(f"{law} errors in the {basis} basis cost {number(e)}" for (law, basis), e in error.items()) + "."


def _panels(groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[Panel]:
    panels = []
    for law in LAWS:
        members = [(basis, group) for (its_law, basis), group in groups.items() if its_law == law]
        if members:
            shown = np.unique(np.geomspace(1, len(members[0][1]), 40).astype(int)) - 1
            x = [members[0][1][i]["index"] for i in shown]
            lines = [Line(basis, x, [group[i]["quantized"] for i in shown], "dashes") for basis, group in members]
            clean = Line("clean", x, [members[0][1][i]["eigenvalue"] for i in shown], "dots")
            panels.append(Panel(f"{law} errors", "index", "eigenvalue", [*lines, clean], x_log=True, y_log=True))
    return panels


EXPERIMENT = Experiment(Parameters, rows, section)
