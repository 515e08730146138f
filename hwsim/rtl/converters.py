"""A Cast as a circuit: from float32 bit patterns to codes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction

import torch
from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.casts import Cast
from hwsim.errors import FormatError
from hwsim.formats import Block, Float, Format, Levels, Projection
from hwsim.formats.reference import not_a_number, project

from .circuit import Build, Circuit, Port
from .reals import unpacked
from .rounding import Target, code_of, rounded
from .wires import Wires

FP32 = Float(8, 23, name="fp32")
MAX_LEVELS = 256


def identifier(*words: object) -> str:
    """A Verilog identifier of some words."""
    return re.sub(r"\W+", "_", "_".join(str(word) for word in words if word)).strip("_")


def converter(cast: Cast, name: str = "") -> Circuit:
    """The circuit of a cast: x, a float32 pattern, becomes y, a code; `invalid` where `nan: error` refuses a NaN.

    A stochastic rounding reads its N random bits from the port `random`. Rounding to one of a list of levels is a step
    function: one comparator a level.

    Raises:
        FormatError: a field that has no circuit: `scaling` (its scale is found over a whole tensor), `transform`, a block
            format, more than 256 levels, levels with stochastic rounding. The error names it.
    """
    fmt = cast.format
    _check(cast)
    bits = cast.rounding.random_bits if cast.rounding.is_stochastic else 0
    inputs = (Port("x", 32), *((Port("random", bits),) if bits else ()))
    outputs = (Port("y", fmt.bits), *(() if _takes_all(fmt, cast.projection) else (Port("invalid", 1),)))
    levels = fmt.lattice
    build = _by_levels(fmt, levels, cast.projection) if isinstance(levels, Levels) else _on_grid(fmt, cast.projection)
    return Circuit(name or identifier("cast", fmt, cast.rounding, cast.projection.overflow), inputs, outputs, build)


def _takes_all(fmt: Format, projection: Projection) -> bool:
    return fmt.has_nan or projection.nan != "error"


def _check(cast: Cast) -> None:
    fmt = cast.format
    if isinstance(fmt, Block):
        raise FormatError(
            f"format: {fmt} has no circuit: its scales are found over blocks; allowed: its element {fmt.element}", "format"
        )
    if cast.scaled:
        raise FormatError("scaling: has no circuit: its scale is found over a whole tensor; allowed: none", "scaling")
    if cast.transform is not None:
        raise FormatError(f"transform: {cast.transform} has no circuit; allowed: none", "transform")
    if isinstance(fmt.lattice, Levels):
        if cast.rounding.is_stochastic:
            raise FormatError(f"rounding: stochastic has no circuit on the levels of {fmt}; allowed: the other modes", "rounding")
        if len(fmt.lattice.values) > MAX_LEVELS:
            count = len(fmt.lattice.values)
            raise FormatError(f"format: {fmt} has {count} levels; allowed in a circuit: up to {MAX_LEVELS}", "format")


def _on_grid(fmt: Format, projection: Projection) -> Build:
    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        x = unpacked(w, given["x"], FP32, "signed" if projection.flush_inputs else "none")
        y, invalid = rounded(w, x, Target(fmt, projection), given.get("random"))
        return {"y": y, "invalid": invalid}

    return build


def _by_levels(fmt: Format, levels: Levels, projection: Projection) -> Build:
    """Float32 patterns in the order of their numbers; the first pattern of every step is found by bisection."""

    def becomes(key: int) -> float:
        return float(project(Fraction(_number(key)), fmt, projection))

    keys = range(-FINITE, FINITE + 1)
    firsts = [bisect_left(keys, value, key=becomes) + keys.start for value in levels.values[1:]]
    codes = [code_of(value, fmt) for value in levels.values]
    replaced = projection if projection.nan != "error" else Projection(nan="max")
    of_nan = code_of(not_a_number(fmt, replaced), fmt)

    def build(w: Wires, given: Mapping[str, Value]) -> dict[str, Value]:
        x = given["x"]
        size, negative = x[:31], x[31]
        key = w.let(Mux(negative, -Cat(size, Const(0, 1)).as_signed(), Cat(size, Const(0, 1)).as_signed()))
        code: Value = Const(codes[0], fmt.bits)
        for first, above, under in zip(firsts, codes[1:], codes, strict=False):
            code = w.let(code ^ (w.let(key >= first).replicate(fmt.bits) & (above ^ under)))
        nan = w.let(size > FINITE + 1)
        return {"y": Mux(nan, of_nan, code), "invalid": nan}

    return build


FINITE = 0x7F7FFFFF


def _number(key: int) -> float:
    pattern = torch.tensor([abs(key)], dtype=torch.int32).view(torch.float32)
    return float(pattern[0]) * (-1 if key < 0 else 1)
