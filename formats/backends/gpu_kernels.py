"""Triton kernels that round whole tensors: one for every rule, and two fast ones on float32 bits (the loops of fast.py)."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .gpu_rounding import (
    ABOVE,
    FLUSH_INPUTS,
    INFINITY,
    MANTISSA_BITS,
    MAX_VALUE,
    MIN_EXPONENT,
    MINUS_INFINITY,
    MODE,
    NAN,
    PARITY,
    RANDOM_BITS,
    RESCALE,
    SIGNED_ZERO,
    SMALLEST_EXPONENT,
    STOCHASTIC,
    exactly,
    float32_of,
    float64_of,
    multiply,
    reals,
    round_quotient,
)

SIGN = tl.constexpr(-(1 << 31))
MAGNITUDE = tl.constexpr((1 << 31) - 1)
INFINITE = tl.constexpr(0x7F800000)
PAGE = tl.constexpr(64)
LANES = tl.constexpr(16)
UNSPECIALIZED = [*("row", "length", "stride", "period", "blocks", "size", "step"), *("key0", "key1", "high0", "high1")]


@triton.jit  # type: ignore[untyped-decorator]
def words(counter: tl.tensor, key0: tl.tensor, key1: tl.tensor, high0: tl.tensor, high1: tl.tensor) -> Any:
    """The four output words of Philox-4x32-10 of counters below 2^62 (see formats/philox.py)."""
    low, high = (counter & 0xFFFFFFFF).to(tl.uint32), (counter >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    return tl.philox_impl(
        low, high, zero + high0.to(tl.uint32), zero + high1.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32)
    )


@triton.jit  # type: ignore[untyped-decorator]
def word_of(index: tl.tensor, key0: tl.tensor, key1: tl.tensor, high0: tl.tensor, high1: tl.tensor) -> Any:
    """The random word of each element of the logical tensor."""
    w0, w1, w2, w3 = words((index >> 6 << 4) + (index & 15), key0, key1, high0, high1)
    which = (index >> 4) & 3
    return tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))


@triton.jit  # type: ignore[untyped-decorator]
def scale_of(
    i: tl.tensor,
    row: tl.tensor,
    length: tl.tensor,
    stride: tl.tensor,
    period: tl.tensor,
    blocks: tl.tensor,
    size: tl.tensor,
    step: tl.tensor,
) -> Any:
    """The index of the scale of each element (see Geometry)."""
    r = i // row
    place = i - r * row
    segment = place // length
    page = r // period
    return (page * blocks + (r - page * period) // size) * step + segment + stride * (place - segment * length)


@triton.jit  # type: ignore[untyped-decorator]
def report(found: tl.tensor, rounded: tl.tensor, inside: tl.tensor) -> None:
    """Set the flag where an element became NaN; None where nobody asks."""
    if found is not None:
        tl.store(found + tl.zeros(rounded.shape, tl.int32), 1, mask=inside & (rounded != rounded))


@triton.jit(do_not_specialize=UNSPECIALIZED)  # type: ignore[untyped-decorator]
def round_by_rule(
    x: tl.tensor,
    out: tl.tensor,
    rules: tl.tensor,
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
    """Any rounding of any input dtype, in integer arithmetic.

    Args:
        x, out: contiguous, of any floating dtype.
        rules: the packed fields of the format's Rule and of the carrier's, FIELDS int64 each.
        scales: contiguous, or None.
        found: an int32 that becomes 1 where an element becomes NaN, or None.
        count: the number of elements; then the fields of a Geometry and the numbers of a Draw.
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
        rounded = round_quotient(value, None, word, rules)
        result = rounded
    else:
        place = scale_of(i, row, length, stride, period, blocks, size, step)
        scale = float64_of(tl.load(scales + place, mask=inside, other=1))
        rounded = round_quotient(value, scale, word, rules)
        result = rounded
        if tl.load(rules + RESCALE) != 0:
            result = multiply(rounded, scale, rules + FIELDS)
    report(found, rounded, inside)
    tl.store(out + i, exactly(result, out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def finish(t: tl.tensor, bits: tl.tensor, rule: tl.tensor) -> Any:
    """The float32 value of a rounded magnitude's bits with the sign, and the specials, of the input's bits."""
    real = reals(rule)
    a = bits & MAGNITUDE
    top = tl.load(real + MAX_VALUE).to(tl.float32).to(tl.int32, bitcast=True)
    t = tl.where(t > top, tl.load(real + ABOVE).to(tl.float32).to(tl.int32, bitcast=True), t)
    signed = (t != 0) | (tl.load(rule + SIGNED_ZERO) != 0)
    value = tl.where(signed, t | (bits & SIGN), t).to(tl.float32, bitcast=True)
    infinities = tl.where(bits < 0, tl.load(real + MINUS_INFINITY), tl.load(real + INFINITY)).to(tl.float32)
    return tl.where(a < INFINITE, value, tl.where(a == INFINITE, infinities, tl.load(real + NAN).to(tl.float32)))


@triton.jit  # type: ignore[untyped-decorator]
def linear_from(rule: tl.tensor) -> Any:
    """The float32 bits from which on the format's codes are float32 codes with their end cut off."""
    low, smallest = tl.load(rule + MIN_EXPONENT), tl.load(rule + SMALLEST_EXPONENT)
    cut_float32 = (low == -126) & (smallest == -126 - tl.load(rule + MANTISSA_BITS))
    return tl.where(cut_float32, 0, (low + 127) << 23).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def power_of_two_32(e: tl.tensor) -> Any:
    """2^e in float32, for e from -126 to 127."""
    return ((e + 127) << 23).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def round_nearest(x: tl.tensor, out: tl.tensor, rule: tl.tensor, found: tl.tensor, count: tl.int64, BLOCK: tl.constexpr) -> None:
    """Nearest even, on float32 bits: above the smallest normal, half is added and the end cut off; below, (x + c) - c."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    bits = float32_of(tl.load(x + i, mask=inside, other=0)).to(tl.int32, bitcast=True)
    a = bits & MAGNITUDE
    a = tl.where(a < INFINITE, a, 0)
    cut = 23 - tl.load(rule + MANTISSA_BITS).to(tl.int32)
    even = (tl.load(rule + PARITY).to(tl.int32) & 1) << cut
    high = (a + (1 << (cut - 1)) - ((a & (1 << cut)) == even).to(tl.int32)) & -(1 << cut)
    magic = 1.5 * power_of_two_32(tl.load(rule + SMALLEST_EXPONENT) + 23)
    low = ((a.to(tl.float32, bitcast=True) + magic) - magic).to(tl.int32, bitcast=True)
    y = finish(tl.where(a < linear_from(rule), low, high), bits, rule)
    report(found, y, inside)
    tl.store(out + i, exactly(y, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["key0", "key1", "high0", "high1"])  # type: ignore[untyped-decorator]
def round_drawn(
    x: tl.tensor,
    out: tl.tensor,
    rule: tl.tensor,
    found: tl.tensor,
    count: tl.int64,
    key0: tl.int64,
    key1: tl.int64,
    high0: tl.int64,
    high1: tl.int64,
    offset: tl.int64,
    COUNTERS: tl.constexpr,
) -> None:
    """Stochastic A, on float32 bits: above the smallest normal, random bits are added to those cut off; below, v is compared.

    Each Philox counter serves the four elements of its page that are 16 apart, so that no word is computed twice.
    """
    j = tl.arange(0, COUNTERS)
    counter = (offset // PAGE * LANES + tl.program_id(0).to(tl.int64) * COUNTERS) + j
    first = counter // LANES * PAGE + counter % LANES - offset
    w0, w1, w2, w3 = words(counter, key0, key1, high0, high1)
    draw_piece(x, out, rule, found, count, first, w0)
    draw_piece(x, out, rule, found, count, first + 16, w1)
    draw_piece(x, out, rule, found, count, first + 32, w2)
    draw_piece(x, out, rule, found, count, first + 48, w3)


@triton.jit  # type: ignore[untyped-decorator]
def draw_piece(
    x: tl.tensor, out: tl.tensor, rule: tl.tensor, found: tl.tensor, count: tl.tensor, i: tl.tensor, word: tl.tensor
) -> None:
    """Elements i by their words."""
    inside = (i >= 0) & (i < count)
    bits = float32_of(tl.load(x + i, mask=inside, other=0)).to(tl.int32, bitcast=True)
    a = bits & MAGNITUDE
    a = tl.where(a < INFINITE, a, 0)
    cut, n = 23 - tl.load(rule + MANTISSA_BITS).to(tl.int32), tl.load(rule + RANDOM_BITS).to(tl.int32)
    kept = -(1 << tl.maximum(cut - n, 0))
    high = (a + ((word >> (32 - cut).to(tl.uint32)).to(tl.int32) & kept)) & -(1 << cut)
    exponent = tl.maximum(tl.load(rule + SMALLEST_EXPONENT), -126)
    scaled = tl.where(a < linear_from(rule), a, 0).to(tl.float32, bitcast=True) * power_of_two_32(-exponent)
    k = scaled.to(tl.int32)
    v = ((scaled - k.to(tl.float32)) * power_of_two_32(n.to(tl.int64))).to(tl.int32)
    k += (v + (word >> (32 - n).to(tl.uint32)).to(tl.int32) >= (1 << n)).to(tl.int32)
    low = (k.to(tl.float32) * power_of_two_32(exponent)).to(tl.int32, bitcast=True)
    y = finish(tl.where(a < linear_from(rule), low, high), bits, rule)
    report(found, y, inside)
    tl.store(out + i, exactly(y, out.dtype.element_ty), mask=inside)
