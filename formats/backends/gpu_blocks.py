"""Triton kernels for blocks: the scales of a tensor's blocks, then its elements (the compiled loops of block_kernels.py)."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from hwsim.formats import block_lowering
from hwsim.formats.block_lowering import ScaleNumbers

from .gpu_kernels import report, scale_of, word_of
from .gpu_levels import level_of
from .gpu_rounding import (
    FRACTION,
    IMPLICIT,
    MODE,
    RESCALE,
    STOCHASTIC,
    exactly,
    float32_of,
    float64_of,
    multiply,
    power_of_two,
    reals,
    round_quotient,
    significand,
)

FIELD = {name: tl.constexpr(place) for place, name in enumerate(ScaleNumbers._fields)}
RULE, SPECIAL = FIELD["rule"], FIELD["special"]
ELEMENT_EXPONENT, MANTISSA_BITS = FIELD["element_exponent"], FIELD["mantissa_bits"]
LOW, HIGH = FIELD["low"], FIELD["high"]
ELEMENT_MAX, SMALLEST_SCALE = FIELD["element_max"], FIELD["smallest_scale"]
TOP, RECIPROCAL, FLUSH_INPUTS = FIELD["top"], FIELD["reciprocal"], FIELD["flush_inputs"]
FLOOR, CEIL, EVEN = tl.constexpr(block_lowering.FLOOR), tl.constexpr(block_lowering.CEIL), tl.constexpr(block_lowering.EVEN)
ABSMAX, MSE = tl.constexpr(block_lowering.ABSMAX), tl.constexpr(block_lowering.MSE)
TWO_LEVEL, ELEMENT = tl.constexpr(block_lowering.TWO_LEVEL), tl.constexpr(block_lowering.ELEMENT)
CANDIDATES = tl.constexpr(len(block_lowering.CANDIDATES))
FIRST_SHARE, SHARES = tl.constexpr(int(16 * block_lowering.CANDIDATES[0])), tl.constexpr(16.0)
LANES = tl.constexpr(32)
NAN, INFINITE = tl.constexpr(float("nan")), tl.constexpr(float("inf"))
LARGEST = tl.constexpr(2.0**128 - 2.0**104)
MAGNITUDE_32, INFINITE_32 = tl.constexpr((1 << 31) - 1), tl.constexpr(0x7F800000)
MAGNITUDE_64, INFINITE_64 = tl.constexpr((1 << 63) - 1), tl.constexpr(0x7FF << 52)


@triton.jit  # type: ignore[untyped-decorator]
def magnitude_of(x: tl.tensor) -> Any:
    """(the bits of |x|, whether it is finite); bits in the order of the magnitudes: of float32, or of float64."""
    if x.dtype == tl.float64:
        wide = x.to(tl.int64, bitcast=True) & MAGNITUDE_64
        return wide, wide < INFINITE_64
    else:
        bits = float32_of(x).to(tl.int32, bitcast=True) & MAGNITUDE_32
        return bits, bits < INFINITE_32


@triton.jit  # type: ignore[untyped-decorator]
def number_of(bits: tl.tensor) -> Any:
    """The float64 number of the bits of a magnitude."""
    if bits.dtype == tl.int64:
        return bits.to(tl.float64, bitcast=True)
    else:
        return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def single(x: tl.tensor) -> Any:
    """x rounded to float32 and at most its largest number, in float64."""
    nearest = x.to(tl.float32).to(tl.float64)
    return tl.where(nearest > LARGEST, LARGEST, nearest)


@triton.jit  # type: ignore[untyped-decorator]
def tensor_scales(top: tl.tensor, numbers: tl.tensor) -> Any:
    """S and t of the rule `two_level` in float64, from the bits of the tensor's largest magnitude."""
    amax = single(number_of(tl.load(top)))
    encoding = single(tl.load(reals(numbers) + TOP) / tl.where(amax > 0, amax, 1.0))
    encoding = tl.where(amax > 0, encoding, 1.0)
    return encoding, (1.0 / encoding).to(tl.float32).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def scale_exponent(amax: tl.tensor, numbers: tl.tensor) -> Any:
    """The exponent of a power of two by the rules `floor`, `ceil`, `even` and `rceil`, of a positive amax."""
    rule, largest = tl.load(numbers + RULE), tl.load(numbers + ELEMENT_EXPONENT)
    m, q = significand(amax)
    exponent, rest = q + 52, m & FRACTION
    if rule == FLOOR:
        exponent -= largest
    elif rule == CEIL:
        exponent += (rest != 0).to(tl.int64) - largest
    elif rule == EVEN:
        carried = rest + ((1 << (-tl.load(numbers + MANTISSA_BITS) + 52)) >> 1) >= IMPLICIT
        exponent += carried.to(tl.int64) - largest
    else:
        limit, limit_exponent = significand(tl.load(reals(numbers) + ELEMENT_MAX))
        exponent = q - limit_exponent + (m > limit).to(tl.int64)
    return exponent


@triton.jit  # type: ignore[untyped-decorator]
def quotient_scale(amax: tl.tensor, numbers: tl.tensor, rule: tl.tensor) -> Any:
    """amax by the largest element, in the scale format, at least its smallest positive value."""
    real = reals(numbers)
    divisor = tl.zeros_like(amax) + tl.load(real + ELEMENT_MAX)
    scale, smallest = round_quotient(amax, divisor, tl.zeros_like(amax).to(tl.uint32), rule), tl.load(real + SMALLEST_SCALE)
    return tl.where(scale < smallest, smallest, scale)


@triton.jit  # type: ignore[untyped-decorator]
def scale_by_rule(amax: tl.tensor, encoding: tl.tensor, numbers: tl.tensor, rule: tl.tensor) -> Any:
    """The scale of each block from its largest magnitude; amax itself for `mse`, whose scales come later."""
    which, real = tl.load(numbers + RULE), reals(numbers)
    scale = amax
    if which == TWO_LEVEL:
        factor = single(encoding * tl.load(real + RECIPROCAL))
        scale = round_quotient(single(single(amax) * factor), None, tl.zeros_like(amax).to(tl.uint32), rule)
    elif which == ABSMAX:
        scale = quotient_scale(amax, numbers, rule)
    elif which != MSE:
        low = tl.load(numbers + LOW)
        exponent = tl.where(amax > 0, scale_exponent(tl.where(amax > 0, amax, 1.0), numbers), low)
        scale = power_of_two(tl.minimum(tl.maximum(exponent, low), tl.load(numbers + HIGH)))
    return scale


@triton.jit  # type: ignore[untyped-decorator]
def rounded_by(
    x: tl.tensor,
    scale: tl.tensor,
    word: tl.tensor,
    rule: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    half: tl.tensor,
    inside: tl.tensor,
) -> Any:
    """x / scale (x itself where scale is None) on a grid, or on levels where there are tables."""
    if values is None:
        return round_quotient(x, scale, word, rule)
    else:
        return level_of(x, scale, word, rule, values, keys, half, inside)


@triton.jit  # type: ignore[untyped-decorator]
def largest_magnitude(x: tl.tensor, top: tl.tensor, count: tl.int64, BLOCK: tl.constexpr) -> None:
    """Raise `top` to the bits of the largest finite magnitude of x: int64 for float64, else int32."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bits, finite = magnitude_of(tl.load(x + i, mask=i < count, other=0))
    tl.atomic_max(top, tl.max(tl.where(finite, bits, 0), 0))


@triton.jit  # type: ignore[untyped-decorator]
def place_of(
    block: tl.tensor,
    bands: tl.tensor,
    strips: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> Any:
    """(the index of each block's first element, the column it begins at, how many rows it has)."""
    band = block // strips
    matrix = band // bands
    above, left = (band - matrix * bands) * height, block % strips * width
    return (matrix * rows + above) * columns + left, left, tl.minimum(height, rows - above)


@triton.jit(do_not_specialize=["blocks", "bands", "rows", "height"])  # type: ignore[untyped-decorator]
def block_scales(
    x: tl.tensor,
    scales: tl.tensor,
    tensor: tl.tensor,
    top: tl.tensor,
    rules: tl.tensor,
    numbers: tl.tensor,
    blocks: tl.int64,
    bands: tl.int64,
    strips: tl.int64,
    rows: tl.int64,
    columns: tl.int64,
    height: tl.int64,
    width: tl.int64,
    FIELDS: tl.constexpr,
    BLOCKS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """The scales of BLOCKS blocks; under the rule `mse` their largest magnitudes.

    Args:
        x: contiguous, of any floating dtype.
        scales: float64, one a block. tensor: float32, the tensor's scale; written under the rule `two_level`, as `top` is read.
        top: the bits of the tensor's largest finite magnitude.
        rules: the packed fields of the Rules of elements, of the result's dtype, of scales and of trials, FIELDS int64 each.
        numbers: the packed ScaleNumbers.
        blocks, bands, strips, rows, columns, height, width: of a Tiling.
        CHUNK: columns of a block that are looked at together.
    """
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    first, left, tall = place_of(block, bands, strips, rows, columns, height, width)
    tall = tl.where(block < blocks, tall, 0)[:, None]
    first, left, offset = first[:, None], left[:, None], tl.arange(0, CHUNK)[None, :]
    tops, _ = magnitude_of(tl.zeros([BLOCKS], x.dtype.element_ty))
    broken = tl.zeros([BLOCKS], tl.int32)
    row = blocks * 0
    while row < height:
        done = blocks * 0
        while done < width:
            c = done + offset
            inside = (c < width) & (left + c < columns) & (row < tall)
            bits, finite = magnitude_of(tl.load(x + (first + row * columns + c), mask=inside, other=0))
            broken = tl.maximum(broken, tl.max((finite == 0).to(tl.int32), 1))
            tops = tl.maximum(tops, tl.max(tl.where(finite, bits, 0), 1))
            done += CHUNK
        row += 1
    encoding = tl.full([], 1.0, tl.float64)
    if tl.load(numbers + RULE) == TWO_LEVEL:
        encoding, inverse = tensor_scales(top, numbers)
        tl.store(tensor, inverse.to(tl.float32))
    scale = scale_by_rule(number_of(tops), encoding, numbers, rules + 2 * FIELDS)
    scale = tl.where((broken != 0) & (tl.load(numbers + SPECIAL) != ELEMENT), NAN, scale)
    tl.store(scales + block, scale, mask=block < blocks)


@triton.jit(do_not_specialize=["blocks", "bands", "rows", "height", "half"])  # type: ignore[untyped-decorator]
def best_scales(
    x: tl.tensor,
    scales: tl.tensor,
    rules: tl.tensor,
    numbers: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    half: tl.int64,
    blocks: tl.int64,
    bands: tl.int64,
    strips: tl.int64,
    rows: tl.int64,
    columns: tl.int64,
    height: tl.int64,
    width: tl.int64,
    FIELDS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """The scales of the rule `mse`, from the largest magnitudes that block_scales left; all candidates beside each other.

    Args:
        values, keys, half: the tables of levels of trials (see round_to_levels), or None for elements on a grid; the rest is as
            for block_scales.
    """
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    first, left, tall = place_of(block, bands, strips, rows, columns, height, width)
    tall = tl.where(block < blocks, tall, 0)
    amax = tl.load(scales + block, mask=block < blocks, other=0)
    candidate = tl.arange(0, LANES)[None, :]
    share = (candidate + FIRST_SHARE).to(tl.float64) / SHARES
    tried = quotient_scale(tl.where(amax > 0, amax, 1.0)[:, None] * share, numbers, rules + 2 * FIELDS)
    error = tried * 0.0
    row = blocks * 0
    while row < height:
        column = blocks * 0
        while column < width:
            inside = (left + column < columns) & (row < tall)
            given = tl.load(x + (first + row * columns + column), mask=inside, other=0)
            value = float64_of(given)[:, None] + tried * 0.0
            finite = tl.abs(value) < INFINITE
            value = tl.where(finite, value, 0.0)
            word = tl.zeros_like(value).to(tl.uint32)
            nearest = rounded_by(value, tried, word, rules + 3 * FIELDS, values, keys, half, finite | (finite == 0))
            distance = value - nearest * tried
            error += tl.where(finite & inside[:, None], distance * distance, 0.0)
            column += 1
        row += 1
    error = tl.where(candidate < CANDIDATES, error, INFINITE)
    place = tl.min(tl.where(error == tl.min(error, 1)[:, None], candidate, LANES), 1)
    best = tl.sum(tl.where(candidate == place[:, None], tried, 0.0), 1)
    best = tl.where(amax > 0, best, tl.load(reals(numbers) + SMALLEST_SCALE))
    tl.store(scales + block, tl.where(amax == amax, best, amax), mask=block < blocks)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["half", "bands", "strips", "rows", "columns", "height", "width", "key0", "key1", "high0", "high1"]
)
def round_elements(
    x: tl.tensor,
    out: tl.tensor,
    rules: tl.tensor,
    numbers: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    half: tl.int64,
    scales: tl.tensor,
    tensor: tl.tensor,
    found: tl.tensor,
    count: tl.int64,
    bands: tl.int64,
    strips: tl.int64,
    rows: tl.int64,
    columns: tl.int64,
    height: tl.int64,
    width: tl.int64,
    key0: tl.int64,
    key1: tl.int64,
    high0: tl.int64,
    high1: tl.int64,
    offset: tl.int64,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Every element by its block's scale; where that is NaN, values are NaN and elements zeros.

    Args:
        x, out: contiguous, of any floating dtype.
        rules, numbers, scales, tensor: as for block_scales.
        values, keys, half: the tables of levels of elements (see round_to_levels), or None for elements on a grid.
        found: an int32 that becomes 1 where another element becomes NaN, or None.
        count: the number of elements; then fields of a Tiling and the numbers of a Draw.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    place = scale_of(i, columns, width, 0, rows, bands, height, strips)
    scale = tl.load(scales + place, mask=inside, other=1)
    known = scale == scale
    scale = tl.where(known, scale, 1.0)
    value = tl.where(known, float64_of(tl.load(x + i, mask=inside, other=0)), 0.0)
    value = tl.where(tl.abs(value) < tl.load(reals(numbers) + FLUSH_INPUTS), value * 0.0, value)
    word = tl.zeros([BLOCK], tl.uint32)
    if tl.load(rules + MODE) == STOCHASTIC:
        word = word_of(i + offset, key0, key1, high0, high1)
    rounded = value
    if tl.load(numbers + RULE) == TWO_LEVEL:
        scale = scale * tl.load(tensor).to(tl.float64)
        divisor = scale.to(tl.float32).to(tl.float64)
        inverse = single(1.0 / divisor)
        product = (value.to(tl.float32).to(tl.float64) * inverse).to(tl.float32).to(tl.float64)
        rounded = rounded_by(product, None, word, rules, values, keys, half, inside)
    else:
        rounded = rounded_by(value, scale, word, rules, values, keys, half, inside)
    report(found, rounded, inside & known)
    result = rounded
    if tl.load(rules + RESCALE) != 0:
        result = tl.where(known, multiply(rounded, scale, rules + FIELDS), NAN)
    tl.store(out + i, exactly(result, out.dtype.element_ty), mask=inside)
