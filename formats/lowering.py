"""A format and a projection as the plain numbers that kernels take at run time, so that a new format compiles nothing."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import isnan
from typing import NamedTuple, TypeVar

from .base import Format
from .errors import FormatError
from .reference import SMALLEST_NORMAL_FLOAT32, check_projection, in_range, infinite, not_a_number, zero
from .rounding import MODES, Projection

NEAREST_EVEN, NEAREST_AWAY, NEAREST_ZERO, TOWARD_ZERO, TOWARD_POSITIVE, TOWARD_NEGATIVE, TO_ODD, STOCHASTIC = range(len(MODES))
VARIANTS = "ABC"
BEYOND = Fraction(2) ** 1100
UNIFORM = 1 << 20


class Rule(NamedTuple):
    """What a kernel has to know to round to a format.

    `mode`, `random_bits`, `variant`: the rounding; `mantissa_bits`, `min_exponent` (beyond every exponent on a uniform grid),
    `smallest_exponent`: the grid; `parity`: added to a binade's exponent where that decides evenness (no fraction bits);
    `wrap_bits`: the width that codes wrap to, or 0; `refuses_nan`: whether a NaN in the result is an error;
    `signed_zero`: whether a zero keeps its sign; `rescale`: whether a scaled value is multiplied by its scale again.
    `max_value`, `min_value`: the range of finite values; then what lies beyond it, the infinities, NaN, exact zeros and what
    rounds to zero become, by sign; the magnitudes below which inputs and outputs are flushed.
    """

    mode: int
    random_bits: int
    variant: int
    mantissa_bits: int
    min_exponent: int
    smallest_exponent: int
    parity: int
    wrap_bits: int
    refuses_nan: int
    signed_zero: int
    rescale: int
    max_value: float
    min_value: float
    above: float
    below: float
    infinity: float
    minus_infinity: float
    nan: float
    zero: float
    minus_zero: float
    rounded_zero: float
    rounded_minus_zero: float
    flush_inputs: float
    flush_outputs: float

    @property
    def uniform(self) -> bool:
        """Whether the ulp is the same everywhere."""
        return self.min_exponent == UNIFORM

    def packed(self) -> str:
        """The fields as one word, the real ones in exact hexadecimal: the cheapest argument an operator can take."""
        return " ".join([*map(str, self[:INTEGERS]), *map(float.hex, self[INTEGERS:])])


F = TypeVar("F", bound=Callable[..., object])


def constant_in_graphs(function: F) -> F:
    """`torch.compiler.assume_constant_result`, which would import all of torch's compiler to set this one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


INTEGERS = Rule._fields.index("max_value")


@lru_cache(maxsize=1024)
def unpack(packed: str) -> Rule:
    """The Rule of packed fields."""
    fields = packed.split()
    return Rule(*map(int, fields[:INTEGERS]), *map(float.fromhex, fields[INTEGERS:]))


@lru_cache(maxsize=1024)
def lower(fmt: Format, projection: Projection, rescale: bool = True) -> Rule:
    """The Rule of a format and a projection; what special inputs become is asked of the reference.

    Args:
        fmt: the format.
        projection: everything else about the rounding.
        rescale: whether scaled values are handed on times their scale, or as values of the format.

    Raises:
        FormatError: the format cannot follow the overflow rule.
    """
    check_projection(fmt, projection)
    grid, rounding = fmt.grid, projection.rounding

    def becomes(outcome: Callable[..., Fraction | float], *given: object) -> float:
        """What the reference says; NaN where it refuses, which kernels report."""
        try:
            return float(outcome(*given, fmt, projection))
        except FormatError:
            return float("nan")

    rule = Rule(
        mode=MODES.index(rounding.mode),
        random_bits=rounding.random_bits,
        variant=VARIANTS.index(rounding.variant),
        mantissa_bits=grid.mantissa_bits,
        min_exponent=UNIFORM if grid.uniform else grid.min_exponent,
        smallest_exponent=grid.smallest_exponent,
        parity=0 if grid.mantissa_bits else grid.min_exponent + (not grid.zero),
        wrap_bits=grid.bits if projection.overflow == "wrap" else 0,
        refuses_nan=0,
        signed_zero=int(grid.negative_zero),
        rescale=int(rescale),
        max_value=grid.max_value,
        min_value=grid.min_value,
        above=becomes(in_range, BEYOND, False),
        below=becomes(in_range, -BEYOND, True),
        infinity=becomes(infinite, False),
        minus_infinity=becomes(infinite, True),
        nan=becomes(not_a_number),
        zero=becomes(zero, False),
        minus_zero=becomes(zero, True),
        rounded_zero=becomes(in_range, Fraction(0), False),
        rounded_minus_zero=becomes(in_range, Fraction(0), True),
        flush_inputs=float(SMALLEST_NORMAL_FLOAT32) if projection.flush_inputs else 0.0,
        flush_outputs=fmt.smallest_normal if projection.flush_outputs else 0.0,
    )
    return rule._replace(refuses_nan=int(not fmt.has_nan and any(map(isnan, rule[INTEGERS:]))))
