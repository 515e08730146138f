"""A Triton kernel that rounds whole tensors to levels: the compiled loops of level_kernels.py without branches."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from hwsim.formats import steps

from .gpu_kernels import UNSPECIALIZED, report, scale_of, word_of
from .gpu_rounding import (
    FIELD,
    FLUSH_INPUTS,
    INFINITY,
    MINUS_INFINITY,
    MODE,
    NAN,
    RANDOM_BITS,
    RESCALE,
    STOCHASTIC,
    A,
    B,
    exactly,
    float64_of,
    multiply,
    power_of_two,
    reals,
    significand,
)

BASE = tl.constexpr(steps.BASE)
LARGEST = tl.constexpr(2.0**200)
TINY = tl.constexpr(2.0**-300)
SPLITTER = tl.constexpr(2.0**27 + 1)
COARSE = tl.constexpr(2.0**17)
CLEAR = tl.constexpr(2.0**-45)
LEADING = tl.constexpr(2.0**-52)
VARIANT = FIELD["variant"]


@triton.jit  # type: ignore[untyped-decorator]
def sign(x: tl.tensor) -> Any:
    """-1, 0 or 1 in int64."""
    return (x > 0).to(tl.int64) - (x < 0).to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def product(a: tl.tensor, b: tl.tensor) -> Any:
    """a b as the sum of two numbers, exactly (Dekker)."""
    p = a * b
    c, d = a * SPLITTER, b * SPLITTER
    a_high, b_high = c - (c - a), d - (d - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@triton.jit  # type: ignore[untyped-decorator]
def normalized(x: tl.tensor, scale: tl.tensor) -> Any:
    """x and an ordinary scale over the power of two that brings the scale to 1 .. 2, and over the scale's sign."""
    m, q = significand(tl.abs(scale))
    exponent = -(q + 52)
    half = exponent >> 1
    numerator = x * power_of_two(half) * power_of_two(exponent - half)
    return tl.where(scale < 0, -numerator, numerator), m.to(tl.float64) * LEADING


@triton.jit  # type: ignore[untyped-decorator]
def add(rest: tl.tensor, e: tl.tensor) -> Any:
    """The sum of two numbers, and what is lost in it, exactly (Knuth)."""
    total = rest + e
    back = total - rest
    return total, (rest - (total - back)) + (e - back)


@triton.jit  # type: ignore[untyped-decorator]
def sign_of_sum(
    t0: tl.tensor,
    t1: tl.tensor,
    t2: tl.tensor,
    t3: tl.tensor,
    t4: tl.tensor,
    t5: tl.tensor,
    t6: tl.tensor,
    t7: tl.tensor,
    t8: tl.tensor,
) -> Any:
    """The sign of the exact sum: of the last component of Shewchuk's expansion that is not zero."""
    t1, t0 = add(t1, t0)
    t2, t0 = add(t2, t0)
    t2, t1 = add(t2, t1)
    t3, t0 = add(t3, t0)
    t3, t1 = add(t3, t1)
    t3, t2 = add(t3, t2)
    t4, t0 = add(t4, t0)
    t4, t1 = add(t4, t1)
    t4, t2 = add(t4, t2)
    t4, t3 = add(t4, t3)
    t5, t0 = add(t5, t0)
    t5, t1 = add(t5, t1)
    t5, t2 = add(t5, t2)
    t5, t3 = add(t5, t3)
    t5, t4 = add(t5, t4)
    t6, t0 = add(t6, t0)
    t6, t1 = add(t6, t1)
    t6, t2 = add(t6, t2)
    t6, t3 = add(t6, t3)
    t6, t4 = add(t6, t4)
    t6, t5 = add(t6, t5)
    t7, t0 = add(t7, t0)
    t7, t1 = add(t7, t1)
    t7, t2 = add(t7, t2)
    t7, t3 = add(t7, t3)
    t7, t4 = add(t7, t4)
    t7, t5 = add(t7, t5)
    t7, t6 = add(t7, t6)
    t8, t0 = add(t8, t0)
    t8, t1 = add(t8, t1)
    t8, t2 = add(t8, t2)
    t8, t3 = add(t8, t3)
    t8, t4 = add(t8, t4)
    t8, t5 = add(t8, t5)
    t8, t6 = add(t8, t6)
    t8, t7 = add(t8, t7)
    low = tl.where(t2 != 0, sign(t2), tl.where(t1 != 0, sign(t1), sign(t0)))
    middle = tl.where(t5 != 0, sign(t5), tl.where(t4 != 0, sign(t4), tl.where(t3 != 0, sign(t3), low)))
    return tl.where(t8 != 0, sign(t8), tl.where(t7 != 0, sign(t7), tl.where(t6 != 0, sign(t6), middle)))


@triton.jit  # type: ignore[untyped-decorator]
def side_of(x: tl.tensor, scale: tl.tensor, quotient: tl.tensor) -> Any:
    """The sign of x / scale - quotient, exactly, for quotients below 2^200."""
    exact = (x == 0) | (tl.abs(scale) == float("inf")) | (scale == 0) | (scale != scale)
    known = exact | (quotient == 0) | (tl.abs(quotient) >= LARGEST) | (quotient != quotient)
    numerator, divisor = normalized(tl.where(known, 0.0, x), tl.where(known, 1.0, scale))
    p, rest = product(tl.where(known, 0.0, quotient), divisor)
    side = sign((numerator - p) - rest)
    return tl.where((quotient == 0) & (exact == 0), sign(x) * sign(scale), side)


@triton.jit  # type: ignore[untyped-decorator]
def key_of(quotient: tl.tensor, side: tl.tensor) -> Any:
    """The key of a real number, given by its nearest float64 and the side of it that it lies on (see Steps)."""
    negative = (quotient < 0) | ((quotient == 0) & (side < 0))
    magnitude = tl.where(tl.abs(quotient) < LARGEST, tl.abs(quotient), LARGEST).to(tl.int64, bitcast=True)
    key = tl.maximum(2 * (magnitude - BASE) + tl.where(negative, -side, side), 1)
    key = tl.where((quotient == 0) & (side == 0), 0, key)
    return tl.where(negative, -key, key)


@triton.jit  # type: ignore[untyped-decorator]
def reaches(
    x: tl.tensor, scale: tl.tensor, inner: tl.tensor, outer: tl.tensor, word: tl.tensor, rule: tl.tensor, between: tl.tensor
) -> Any:
    """Whether |x / scale - inner| reaches the draw's share of |outer - inner|; anything where not `between`."""
    n, variant = tl.load(rule + RANDOM_BITS), tl.load(rule + VARIANT)
    missing = (1 << n) - (word.to(tl.int64) >> (32 - n))
    doubled = tl.where(variant == A, 2 * missing, 2 * missing - 1)
    included = (variant == A) | (variant == B) | ((missing & 1) == 0)
    share = doubled.to(tl.float64) * power_of_two(-n - 1)
    coarse, left = tl.floor(share * COARSE) / COARSE, 1.0 - share
    left_coarse = tl.floor(left * COARSE) / COARSE
    limit = (inner * left + outer * share) * scale
    distance = x - limit
    size = tl.abs(x) + (tl.abs(inner) + tl.abs(outer)) * scale
    above = sign(distance)
    unclear = between & (tl.abs(distance) <= size * CLEAR)
    if tl.max(unclear.to(tl.int32)) != 0:
        t1, t2 = product(-inner * left_coarse, scale)
        t3, t4 = product(-inner * (left - left_coarse), scale)
        t5, t6 = product(-outer * coarse, scale)
        t7, t8 = product(-outer * (share - coarse), scale)
        above = tl.where(unclear, sign_of_sum(x, t1, t2, t3, t4, t5, t6, t7, t8), above)
    above = tl.where(outer > inner, above, -above)
    return (above > 0) | ((above == 0) & included)


@triton.jit  # type: ignore[untyped-decorator]
def level_of(
    x: tl.tensor,
    scale: tl.tensor,
    word: tl.tensor,
    rule: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    width: tl.tensor,
    inside: tl.tensor,
) -> Any:
    """x / scale (x itself where scale is None), exact, as a level; `width` is half the padded number of edges."""
    real = reals(rule)
    quotient, side = x, sign(x * 0.0)
    infinite = tl.abs(x) == float("inf")
    if scale is not None:
        quotient = x / scale
        side = side_of(x, scale, quotient)
        infinite = (tl.abs(quotient) == float("inf")) & (infinite | (scale == 0))
    key = key_of(quotient, side)
    place = tl.zeros_like(key)
    while width > 0:
        edge = tl.load(keys + place + width - 1, mask=inside, other=0)
        place += tl.where(edge <= key, width, 0)
        width = width >> 1
    low = tl.load(values + place, mask=inside, other=0)
    rounded = low
    if tl.load(rule + MODE) == STOCHASTIC:
        high = tl.load(values + place + 1, mask=inside, other=0)
        above = (quotient > low) | ((quotient == low) & (side > 0))
        between = above & (low != high)
        total = low + high
        negative = (quotient < 0) | ((quotient == 0) & (side < 0))
        lower_is_inner = (total > 0) | ((total == 0) & negative)
        inner, outer = tl.where(lower_is_inner, low, high), tl.where(lower_is_inner, high, low)
        numerator, divisor = tl.where(between, x, 0.0), tl.where(between, 1.0, 1.0)
        if scale is not None:
            ordinary = between & (tl.abs(scale) < float("inf")) & (scale != 0)
            numerator, divisor = normalized(tl.where(ordinary, x, 0.0), tl.where(ordinary, scale, 1.0))
            tiny = ordinary & (x != 0) & (tl.abs(quotient) < TINY)
            numerator = tl.where(tiny, (sign(x) * sign(scale)).to(tl.float64) * TINY, numerator)
        up = reaches(numerator, divisor, inner, outer, word, rule, between)
        rounded = tl.where(between, tl.where(up, outer, inner), low)
    infinities = tl.where(quotient < 0, tl.load(real + MINUS_INFINITY), tl.load(real + INFINITY))
    return tl.where(quotient != quotient, tl.load(real + NAN), tl.where(infinite, infinities, rounded))


@triton.jit(do_not_specialize=[*UNSPECIALIZED, "width"])  # type: ignore[untyped-decorator]
def round_to_levels(
    x: tl.tensor,
    out: tl.tensor,
    rules: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    width: tl.int64,
    scales: tl.tensor,
    found: tl.tensor,
    count: tl.int64,
    row: tl.int64,
    length: tl.int64,
    stride: tl.int64,
    period: tl.int64,
    blocks: tl.int64,
    size: tl.int64,
    step: tl.int64,
    key0: tl.int64,
    key1: tl.int64,
    high0: tl.int64,
    high1: tl.int64,
    offset: tl.int64,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Any rounding of any input dtype to levels.

    Args:
        x, out: contiguous, of any floating dtype.
        rules: the packed numbers of the LevelRule and of the carrier's Rule, FIELDS int64 each.
        values, keys, width: the outcomes (float64) and their edges' keys (int64), padded to a power of two, and half of that.
        scales, found, count: as for round_by_rule; then the fields of a Geometry and the numbers of a Draw.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    real = reals(rules)
    value = float64_of(tl.load(x + i, mask=inside, other=0))
    value = tl.where(tl.abs(value) < tl.load(real + FLUSH_INPUTS), value * 0.0, value)
    word = tl.zeros([BLOCK], tl.uint32)
    if tl.load(rules + MODE) == STOCHASTIC:
        word = word_of(i + offset, key0, key1, high0, high1)
    if scales is None:
        rounded = level_of(value, None, word, rules, values, keys, width, inside)
        result = rounded
    else:
        place = scale_of(i, row, length, stride, period, blocks, size, step)
        scale = float64_of(tl.load(scales + place, mask=inside, other=1))
        rounded = level_of(value, scale, word, rules, values, keys, width, inside)
        result = rounded
        if tl.load(rules + RESCALE) != 0:
            result = multiply(rounded, scale, rules + FIELDS)
    report(found, rounded, inside)
    tl.store(out + i, exactly(result, out.dtype.element_ty), mask=inside)
