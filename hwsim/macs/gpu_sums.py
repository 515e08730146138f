"""Sums on GPUs: Triton device functions that round float64 blocks as lanes.py and fused.py round lanes."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from hwsim.formats.backends.gpu_kernels import word_of

from . import lanes

FIELD = {name: tl.constexpr(place) for place, name in enumerate(lanes.Edges._fields)}
LOW, LOW_MAGIC, SHIFT, MODE = FIELD["low"], FIELD["low_magic"], FIELD["shift"], FIELD["mode"]
MAX_VALUE, MIN_VALUE, OVER, UNDER = FIELD["max_value"], FIELD["min_value"], FIELD["over"], FIELD["under"]
INFINITY, NEGATIVE_INFINITY, NAN = FIELD["infinity"], FIELD["negative_infinity"], FIELD["nan"]
FLUSH_BELOW, ZERO, SPAN = FIELD["flush_below"], FIELD["zero"], FIELD["span"]
RANDOM_SCALE, RANDOM_SHIFT = FIELD["random_scale"], FIELD["random_shift"]

AWAY, TO_ZERO, UP, DOWN = (tl.constexpr(mode) for mode in (lanes.AWAY, lanes.ZERO, lanes.UP, lanes.DOWN))
ODD, EVEN, A = (tl.constexpr(mode) for mode in (lanes.ODD, lanes.EVEN, lanes.STOCHASTIC_A))
B, C = (tl.constexpr(mode) for mode in (lanes.STOCHASTIC_B, lanes.STOCHASTIC_C))

EXPONENT_MASK = tl.constexpr(lanes.EXPONENT_MASK)
SIGN_MASK = tl.constexpr(lanes.SIGN_MASK)
INVERSE = tl.constexpr(2046 << 52)
HALF_INTEGERS = tl.constexpr(1.5 * 2.0**52)
EPSILON = tl.constexpr(2.0**-52)
FLOOR, NEAREST, STICKY = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
OFFSET, OUTPUTS, TERMS = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)


@triton.jit  # type: ignore[untyped-decorator]
def add_to_odd(a: tl.tensor, b: tl.tensor, rule: tl.tensor) -> Any:
    """a + b in float64, rounded to odd; an exact zero of unlike signs is -0 where the rule rounds down (IEEE 754 6.3)."""
    s = a + b
    late = s - a
    error = (a - (s - late)) + (b - late)
    bits = s.to(tl.int64, bitcast=True)
    inexact = (error < 0) | (error > 0)
    opposite = (error.to(tl.int64, bitcast=True) ^ bits) < 0
    s = tl.where(inexact, (bits - opposite.to(tl.int64)) | 1, bits).to(tl.float64, bitcast=True)
    down = tl.load(rule + MODE) == DOWN
    return tl.where((s == 0) & ((a.to(tl.int64, bitcast=True) < 0) | (b.to(tl.int64, bitcast=True) < 0)) & down, -0.0, s)


@triton.jit  # type: ignore[untyped-decorator]
def word_at(output: tl.tensor, level: tl.tensor, k: tl.tensor, stream: tl.tensor) -> Any:
    """The random word of one addition (see words.Stream), as an integer of 64 bits."""
    index = tl.load(stream + OFFSET) + (level * tl.load(stream + OUTPUTS) + output) * tl.load(stream + TERMS) + k
    return word_of(index, tl.load(stream), tl.load(stream + 1), tl.load(stream + 2), tl.load(stream + 3)).to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def settle(s: tl.tensor, rule: tl.tensor, output: tl.tensor, level: tl.tensor, k: tl.tensor, stream: tl.tensor) -> Any:
    """An exact or odd-rounded float64 rounded by a rule, with the word of this addition (see words.Stream)."""
    real, mode = rule.to(tl.pointer_type(tl.float64), bitcast=True), tl.load(rule + MODE)
    bits, m = s.to(tl.int64, bitcast=True), tl.abs(s)
    binade = ((bits & EXPONENT_MASK) + tl.load(rule + SHIFT)).to(tl.float64, bitcast=True)
    magic = tl.where(m >= tl.load(real + LOW), binade, tl.load(real + LOW_MAGIC))
    r = (m + magic) - magic
    if mode != EVEN:
        random = tl.zeros(s.shape, tl.float64)
        if mode >= A:
            random = (word_at(output, level, k, stream) >> tl.load(rule + RANDOM_SHIFT)).to(tl.float64)
        r = neighbour(r, m, magic, bits < 0, random, tl.load(real + RANDOM_SCALE), mode)
    return bounded((r.to(tl.int64, bitcast=True) | (bits & SIGN_MASK)).to(tl.float64, bitcast=True), s, real)


@triton.jit  # type: ignore[untyped-decorator]
def neighbour(
    r: tl.tensor, m: tl.tensor, magic: tl.tensor, negative: tl.tensor, random: tl.tensor, scale: tl.tensor, mode: tl.tensor
) -> Any:
    """m rounded by the mode, from r, which is m rounded to nearest even."""
    ulp = magic * EPSILON
    if mode == AWAY:
        r = tl.where(m - r == 0.5 * ulp, r + ulp, r)
    elif mode == TO_ZERO:
        r = tl.where(r - m == 0.5 * ulp, r - ulp, r)
    else:
        outwards = ((mode == UP) & (negative == 0)) | ((mode == DOWN) & negative)
        r = tl.where((r > m) & (outwards == 0), r - ulp, r)
        rest, up = m - r, outwards & (r < m)
        if mode == ODD:
            up = (r < m) & (((r + magic).to(tl.int64, bitcast=True) & 1) == 0)
        elif mode == A:
            up = rest * scale >= (scale - random) * ulp
        elif mode == B:
            up = rest * (2.0 * scale) >= (2.0 * scale - 2.0 * random - 1.0) * ulp
        elif mode == C:
            up = ((rest * inverse(ulp) * scale + HALF_INTEGERS) - HALF_INTEGERS) + random >= scale
        r = tl.where(up, r + ulp, r)
    return r


@triton.jit  # type: ignore[untyped-decorator]
def bounded(r: tl.tensor, s: tl.tensor, real: tl.tensor) -> Any:
    """A value on the unbounded grid, or what the flush, overflow, infinity and NaN rules make of it; `s` is before it."""
    out = tl.where(tl.abs(r) < tl.load(real + FLUSH_BELOW), r * 0.0, r) + tl.load(real + ZERO)
    span, least = tl.load(real + SPAN), tl.load(real + MIN_VALUE)
    if span > 0:
        wrapped = out - span * tl.floor((out - least) * inverse(span))
        out = tl.where(tl.abs(out) < float("inf"), wrapped, tl.load(real + NAN))
    else:
        limited = tl.where(out > tl.load(real + MAX_VALUE), tl.load(real + OVER), out)
        limited = tl.where(out < least, tl.load(real + UNDER), limited)
        limited = tl.where(s == float("inf"), tl.load(real + INFINITY), limited)
        limited = tl.where(s == float("-inf"), tl.load(real + NEGATIVE_INFINITY), limited)
        out = tl.where(s != s, tl.load(real + NAN), limited)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def power(x: tl.tensor, low: tl.tensor, of_zero: tl.tensor) -> Any:
    """2^exponent of x, at least `low`; `of_zero` for zero, 0 for NaN and the infinities."""
    e = tl.maximum((x.to(tl.int64, bitcast=True) & EXPONENT_MASK).to(tl.float64, bitcast=True), low)
    return tl.where(x == 0, of_zero, tl.where(tl.abs(x) < float("inf"), e, 0.0))


@triton.jit  # type: ignore[untyped-decorator]
def inverse(x: tl.tensor) -> Any:
    """1 / x of a power of two."""
    return (-x.to(tl.int64, bitcast=True) + INVERSE).to(tl.float64, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def cut(x: tl.tensor, HOW: tl.constexpr) -> Any:
    """x cut at one (see Alignment); |x| < 2^51 where it is rounded to nearest."""
    whole = tl.where(x < 0, -tl.floor(-x), tl.floor(x))
    if HOW == FLOOR:
        whole = tl.floor(x)
    elif HOW == NEAREST:
        whole = (x + HALF_INTEGERS) - HALF_INTEGERS
    elif HOW == STICKY:
        whole += tl.where((whole == x) | (x != x), 0.0, tl.where(x < 0, -0.5, 0.5))
    return whole


@triton.jit  # type: ignore[untyped-decorator]
def close(
    s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, s3: tl.tensor, step: tl.tensor, scale: tl.tensor, rules: tl.tensor,
    output: tl.tensor, stream: tl.tensor, LEVELS: tl.constexpr, FIELDS: tl.constexpr,
) -> Any:  # fmt: skip
    """The sums after as many outer sums have taken theirs in as the step says; it also says where each one's run began."""
    count = tl.load(step)
    if LEVELS >= 1:  # noqa: SIM102
        if count >= 1:
            s1 = join(s1, s0 * scale, rules + 2 * FIELDS, output, 2, tl.load(step + 1), stream)
            s0 = tl.zeros_like(s0)
    if LEVELS >= 2:  # noqa: SIM102
        if count >= 2:
            s2 = join(s2, s1, rules + 3 * FIELDS, output, 3, tl.load(step + 2), stream)
            s1 = tl.zeros_like(s1)
    if LEVELS >= 3:  # noqa: SIM102
        if count >= 3:
            s3 = join(s3, s2, rules + 4 * FIELDS, output, 4, tl.load(step + 3), stream)
            s2 = tl.zeros_like(s2)
    return s0, s1, s2, s3


@triton.jit  # type: ignore[untyped-decorator]
def join(
    outer: tl.tensor, inner: tl.tensor, rule: tl.tensor, output: tl.tensor, level: tl.tensor, k: tl.tensor, stream: tl.tensor
) -> Any:
    """round(outer + inner)."""
    return settle(add_to_odd(outer, inner, rule), rule, output, level, k, stream)
