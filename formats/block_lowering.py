"""A block format and a projection as the plain numbers that kernels take at run time."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from .base import round_log2
from .block import FLOAT32, SCALE_RULES, Block
from .level_lowering import AnyRule, lower_any, unpack
from .lowering import Rule, lower
from .lowering import unpack as unpack_rule
from .reference import SMALLEST_NORMAL_FLOAT32
from .rounding import Projection

FLOOR, CEIL, RCEIL, EVEN, ABSMAX, MSE, TWO_LEVEL = range(len(SCALE_RULES))
SPECIALS = ("nan", "error", "element")
NAN, ERROR, ELEMENT = range(len(SPECIALS))
CANDIDATES = tuple(i / 16 for i in range(8, 25))
"""The shares of amax that the rule `mse` maps to the largest element."""
SEPARATOR = "\n"
"""Between packed rules; those of levels hold JSON, in which a line break is written otherwise."""
SMALLEST_NORMAL = float(SMALLEST_NORMAL_FLOAT32)


class ScaleNumbers(NamedTuple):
    """What a kernel has to know to find a block's scale.

    `rule`, `special`: places in SCALE_RULES and SPECIALS; `element_exponent`, `mantissa_bits`: of the largest element;
    `low`, `high`: exponents of the scale format's smallest and largest power of two; `digits`: significant bits of a scale;
    `smallest`: the exponent of the smallest value of all; then the largest element, the smallest positive
    scale, and for `two_level`, in float32, the largest element times the largest scale, one by the largest element, and the
    magnitude below which inputs are flushed.
    """

    rule: int
    special: int
    element_exponent: int
    mantissa_bits: int
    low: int
    high: int
    digits: int
    smallest: int
    element_max: float
    smallest_scale: float
    top: float
    reciprocal: float
    flush_inputs: float


SCALE_INTEGERS = ScaleNumbers._fields.index("element_max")


class BlockRule(NamedTuple):
    """The rounding of elements, of scales, of the `mse` rule's trials, and how scales are found."""

    element: AnyRule
    scale: Rule
    trial: AnyRule
    numbers: ScaleNumbers

    def packed(self) -> str:
        """All fields as one word (see Rule.packed)."""
        own = " ".join([*map(str, self.numbers[:SCALE_INTEGERS]), *map(float.hex, self.numbers[SCALE_INTEGERS:])])
        return SEPARATOR.join([self.element.packed(), self.scale.packed(), self.trial.packed(), own])


@lru_cache(maxsize=1024)
def unpack_block(packed: str) -> BlockRule:
    """The BlockRule of packed fields."""
    element, scale, trial, own = packed.split(SEPARATOR)
    fields = own.split()
    numbers = ScaleNumbers(*map(int, fields[:SCALE_INTEGERS]), *map(float.fromhex, fields[SCALE_INTEGERS:]))
    return BlockRule(unpack(element), unpack_rule(scale), unpack(trial), numbers)


@lru_cache(maxsize=1024)
def lower_block(fmt: Block, projection: Projection, rescale: bool = True) -> BlockRule:
    """The BlockRule of a block format and the projection of its elements.

    Raises:
        FormatError: the element format cannot follow the overflow rule.
    """
    low, high = fmt.scale_exponents
    numbers = ScaleNumbers(
        rule=SCALE_RULES.index(fmt.scale_rule),
        special=SPECIALS.index(fmt.special),
        element_exponent=fmt.element_exponent,
        mantissa_bits=fmt.element_mantissa_bits,
        low=low,
        high=high,
        digits=fmt.scale.grid.mantissa_bits + 1,
        smallest=low + round_log2(fmt.element.smallest_subnormal),
        element_max=fmt.element.max,
        smallest_scale=fmt.scale.smallest_subnormal,
        top=_float32(min(fmt.element.max * fmt.scale.max, FLOAT32.max)),
        reciprocal=_float32(1 / fmt.element.max),
        flush_inputs=SMALLEST_NORMAL if projection.flush_inputs else 0.0,
    )
    nearest = Projection(nan="zero")
    if fmt.tensor_scale is not None:
        projection = replace(projection, flush_inputs=False)
    return BlockRule(
        lower_any(fmt.element, projection, rescale),
        lower(fmt.scale, nearest, False),
        lower_any(fmt.element, nearest, False),
        numbers,
    )


def _float32(x: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("f", struct.pack("f", x))[0])
