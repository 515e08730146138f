"""Rounding blocks in compiled loops: largest magnitudes, scales and elements of a piece that stays in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import block_lowering, lowering
from hwsim.formats.block_lowering import (
    ABSMAX,
    CANDIDATES,
    CEIL,
    ELEMENT,
    EVEN,
    FLOOR,
    MSE,
    TWO_LEVEL,
)
from hwsim.formats.lowering import STOCHASTIC, UNIFORM

from . import fast as fast_loops
from . import kernels
from . import words as random_words
from .compiling import inlined, kept, sources
from .fast import INFINITY, SIGN, as_carried, fast, nearest_scaled, product_numbers
from .kernels import FRACTION, IMPLICIT, general, multiply, power_of_two, round_quotient, significand
from .words import BLOCK, fill_words

PIECE = 1024
NEAREST_POWER = 16
"""The loop for scales that are powers of two, beside those of fast.py."""
NO_WORD = np.uint32(0)
LARGEST = np.finfo(np.float32).max


@inlined
def largest_bits(bits: Any, mask: Any) -> Any:
    """The bits of the largest magnitude, given as integers of 32 or 64 bits, with the mask of magnitudes."""
    top = bits.dtype.type(0)
    for i in range(bits.size):
        top = max(top, bits.dtype.type(bits[i] & mask))
    return top


@kept
def largest_finite_bits(bits: Any, limits: Any) -> Any:
    """The bits of the largest finite magnitude; limits: the mask of magnitudes, infinity."""
    top = largest_bits(bits, limits[0])
    if top >= limits[1]:
        top = 0
        for i in range(bits.size):
            a = bits[i] & limits[0]
            top = max(top, a if a < limits[1] else 0)
    return top


@inlined
def block_tops(bits: Any, first: Any, stride: Any, height: Any, width: Any, tops: Any, columns: Any, limits: Any) -> Any:
    """The bits of the largest magnitude of each block of a piece, into tops. Returns whether one is NaN or infinite.

    Args:
        bits: the tensor as integers; the piece begins at `first`, has `height` rows `stride` apart, columns.size columns and
            blocks `width` wide.
        columns: a buffer.
    """
    mask, n = limits[0], columns.size
    source = bits[first : first + n]
    if height > 1:
        for j in range(n):
            columns[j] = source[j] & mask
        for r in range(1, height):
            row = bits[first + r * stride : first + r * stride + n]
            for j in range(n):
                columns[j] = max(columns[j], bits.dtype.type(row[j] & mask))
        source = columns
    worst = bits.dtype.type(0)
    for b in range(tops.size):
        tops[b] = largest_bits(source[b * width : min(b * width + width, n)], mask)
        worst = max(worst, tops[b])
    return worst >= limits[1]


@inlined
def scale_exponent(amax: Any, numbers: Any) -> Any:
    """The exponent of a power of two by the rules `floor`, `ceil`, `even` and `rceil`."""
    m, q = significand(amax)
    e, rest = q + 52, m & FRACTION
    if numbers.rule == FLOOR:
        return e - numbers.element_exponent
    if numbers.rule == CEIL:
        return e + (rest != 0) - numbers.element_exponent
    if numbers.rule == EVEN:
        return e + (rest >= IMPLICIT - (IMPLICIT >> (numbers.mantissa_bits + 1))) - numbers.element_exponent
    limit, limit_exponent = significand(numbers.element_max)
    return q - limit_exponent + (m > limit)


@inlined
def squared_error(x: Any, first: Any, stride: Any, height: Any, width: Any, scale: Any, trial: Any) -> Any:
    """The sum of (x - s round(x / s))^2 over the finite elements of a block, in row-major order."""
    error = 0.0
    for r in range(height):
        for i in range(first + r * stride, first + r * stride + width):
            value = np.float64(x[i])
            if np.isfinite(value):
                product = round_quotient(value, scale, NO_WORD, trial) * scale
                distance = value - product
                error += distance * distance
    return error


@inlined
def best_scale(amax: Any, x: Any, first: Any, stride: Any, height: Any, width: Any, numbers: Any, records: Any) -> Any:
    """The candidate scale with the least squared error."""
    if amax == 0:
        return numbers.smallest_scale
    best, least = 0.0, np.inf
    for share in CANDIDATES:
        scale = max(round_quotient(np.float64(amax) * share, numbers.element_max, NO_WORD, records[2]), numbers.smallest_scale)
        error = squared_error(x, first, stride, height, width, scale, records[3])
        if best == 0 or error < least:
            best, least = scale, error
    return best


@inlined
def block_scales(amax: Any, raw: Any, scales: Any, words: Any, levels: Any, numbers: Any, records: Any, loop: Any) -> None:
    """The scale of each block from its largest magnitude, by every rule but `mse`.

    Args:
        amax: in the tensor's dtype. raw: a buffer like it. scales: float64.
        levels: S of the rule `two_level`, then t. loop: whether scales may be rounded by the fast loop, or None.
    """
    rule, divisor = records[2], np.ones(1)
    if numbers.rule == TWO_LEVEL:
        factor = np.float32(np.float32(levels[0]) * np.float32(numbers.reciprocal))
        for b in range(amax.size):
            raw[b] = min(np.float32(min(amax[b], LARGEST)) * min(factor, LARGEST), LARGEST)
    elif numbers.rule == ABSMAX:
        divisor[0] = numbers.element_max
        raw[:] = amax
    else:
        for b in range(amax.size):
            exponent = scale_exponent(np.float64(amax[b]), numbers) if amax[b] > 0 else numbers.low
            scales[b] = power_of_two(min(max(exponent, numbers.low), numbers.high))
        return
    done = False
    if loop is not None and rule.mantissa_bits:
        done = nearest_scaled(raw, scales, divisor, 0, rule)
    if not done:
        general(raw, scales, words, divisor, 0, rule, records[1])
    if numbers.rule == ABSMAX:
        for b in range(amax.size):
            scales[b] = max(scales[b], numbers.smallest_scale)


@inlined
def nearest_power(x: Any, out: Any, scales: Any, inverses: Any, rule: Any) -> Any:
    """Nearest even of x / s by (q + c) - c in float32, where s is a power of two; False where a quotient is out of range."""
    to_magic, quiet = np.int32((23 - rule.mantissa_bits) << 23), np.int32(1 << 22)
    normal, highest = np.int32((min(rule.min_exponent, 127) + 127) << 23), np.int32((230 + rule.mantissa_bits) << 23)
    if rule.min_exponent == UNIFORM:
        normal = highest
    low_magic = np.float32(1.5 * 2.0 ** (23 + rule.smallest_exponent))
    top, bottom = np.float32(rule.max_value), np.float32(rule.min_value)
    above, below = np.float32(rule.above), np.float32(rule.below)
    sign_mask = SIGN if rule.signed_zero else np.int32(0)
    largest = np.int32(0)
    for i in range(x.size):
        q = np.float32(x[i] * inverses[i])
        bits = np.float32(q).view(np.int32)
        exponent = np.int32(bits & INFINITY)
        largest = max(largest, exponent)
        magic = np.int32(np.int32(exponent + to_magic) | quiet).view(np.float32)
        magic = low_magic if exponent < normal else magic
        y = np.float32(np.float32(q + magic) - magic)
        y = above if y > top else y
        y = below if y < bottom else y
        y = np.int32(np.float32(y).view(np.int32) | np.int32(bits & sign_mask)).view(np.float32)
        out[i] = y * scales[i]
    return largest < highest


@inlined
def spread(scales: Any, factor: Any, width: Any, out: Any) -> None:
    """For each column its block's scale times a factor."""
    for b in range(scales.size):
        value = out.dtype.type(scales[b] * factor)
        row = out[b * width : min(b * width + width, out.size)]
        for j in range(row.size):
            row[j] = value


@inlined
def finite_tops(bits: Any, first: Any, stride: Any, height: Any, width: Any, n: Any, tops: Any, broken: Any, limits: Any) -> None:
    """Mark the blocks that have NaN or an infinity, and put the largest finite magnitude in their tops."""
    for b in range(tops.size):
        broken[b] = tops[b] >= limits[1]
        if broken[b]:
            tops[b] = 0
            for r in range(height):
                start = first + r * stride
                tops[b] = max(tops[b], largest_finite_bits(bits[start + b * width : start + min(b * width + width, n)], limits))


@inlined
def round_odd_row(x: Any, out: Any, words: Any, width: Any, scales: Any, divisors: Any, records: Any) -> Any:
    """A row of blocks; where a scale is NaN, values are NaN and elements zeros. Returns whether another element became NaN."""
    found = False
    for b in range(scales.size):
        low, high = b * width, min(b * width + width, x.size)
        if np.isnan(scales[b]):
            out[low:high] = np.nan if records[0].rescale else 0.0
        else:
            found |= general(x[low:high], out[low:high], words[low:high], divisors[low:high], 1, records[0], records[1])
    return found


@inlined
def round_products(
    x: Any, out: Any, words: Any, factors: Any, encodings: Any, products: Any, flush: Any, records: Any, loop: Any, narrow: Any
) -> Any:
    """A row by the rule `two_level`: float32(x e) rounded, times the scales s t. Returns whether an element became NaN.

    Elements of a block whose scale is NaN are zeros.
    """
    for i in range(x.size):
        value = np.float32(x[i])
        value = np.copysign(np.float32(0), value) if abs(x[i]) < flush else value
        products[i] = np.float32(value * encodings[i]) if encodings[i] == encodings[i] else np.float32(0)
    found, done = False, False
    if loop is not None:
        done = fast(products, out, words, factors, 0, records[0], loop)
    if not done:
        found = general(products, out, words, np.ones(1), 0, records[0], records[1])
    if records[0].rescale == 0:
        return found
    if loop is None:
        for i in range(x.size):
            out[i] = multiply(np.float64(out[i]), factors[i], records[1])
    else:
        product = product_numbers(narrow)
        for i in range(x.size):
            out[i] = as_carried(np.float64(out[i]) * factors[i], product)
    return found


def _entry(version: int) -> Any:
    """round_pieces, which numba compiles again for another version of its sources."""

    @kept
    def round_pieces(
        low: Any,
        high: Any,
        x: Any,
        bits: Any,
        limits: Any,
        out: Any,
        scales: Any,
        tiling: Any,
        levels: Any,
        draw: Any,
        rule: Any,
        loop: Any,
        narrow: Any,
    ) -> Any:
        """Round the pieces low .. high - 1: up to PIECE columns of a row of blocks. Returns whether an element became NaN.

        Args:
            x, out: contiguous, float32 or float64. bits, limits: see largest_finite_bits.
            scales: float64, one a block.
            tiling: the fields of a Tiling.
            levels: S and t of the rule `two_level`, ones elsewhere.
            draw: the numbers of a Draw.
            rule: the records of the rules of elements, of the result's dtype, of scales and of trials; the ScaleNumbers.
            loop: the fast loop for elements (see fast.py), or None, which compiles to none.
            narrow: the record of the result's dtype where the fast loops multiply into one narrower than float32, else None.
        """
        _, rows, columns, height, width = tiling
        records, numbers = rule[0], rule[1][0]
        bands, strips = -(-rows // height), -(-columns // width)
        span = max(width, PIECE // width * width)
        pieces, room = -(-columns // span), min(span, columns)
        blocks = -(-room // width)
        words, divisors, buffer = np.empty(room + 2 * BLOCK, np.uint32), np.empty(room), np.empty(room, bits.dtype)
        multipliers, inverses, reciprocals = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(blocks)
        tops, raw, broken = np.empty(blocks, bits.dtype), np.empty(blocks, x.dtype), np.empty(blocks, np.bool_)
        found = version < 0  # False; a version that is not named would not be closed over
        for piece in range(low, high):
            band, left = piece // pieces, piece % pieces * span
            above = band % bands * height
            tall, n = min(height, rows - above), min(span, columns - left)
            first = (band // bands * rows + above) * columns + left
            count, strip = -(-n // width), band * strips + left // width
            own, amax = scales[strip : strip + count], tops[:count].view(x.dtype)
            special = block_tops(bits, first, columns, tall, width, tops[:count], buffer[:n], limits)
            if special:
                finite_tops(bits, first, columns, tall, width, n, tops[:count], broken, limits)
            if numbers.rule == MSE:
                for b in range(count):
                    wide = min(width, n - b * width)
                    own[b] = best_scale(amax[b], x, first + b * width, columns, tall, wide, numbers, records)
            else:
                block_scales(amax, raw[:count], own, words, levels, numbers, records, loop)
            odd = False
            for b in range(count):
                if special and broken[b] and numbers.special != ELEMENT:
                    own[b] = np.nan
                odd |= np.isnan(own[b])
            powers = not odd and loop is not None and loop == NEAREST_POWER
            if numbers.rule == TWO_LEVEL:
                for b in range(count):
                    reciprocals[b] = min(np.float32(1) / np.float32(own[b] * levels[1]), LARGEST)
                spread(own, levels[1], width, divisors[:n])
                spread(reciprocals[:count], np.float64(1), width, inverses[:n])
            elif powers:
                for b in range(count):
                    reciprocals[b] = 1.0 / own[b]
                spread(own, np.float64(1), width, multipliers[:n])
                if records[0].rescale == 0:
                    multipliers[:n] = 1
                spread(reciprocals[:count], np.float64(1), width, inverses[:n])
            else:
                spread(own, levels[1], width, divisors[:n])
            for r in range(tall):
                start, skip = first + r * columns, 0
                if records[0].mode == STOCHASTIC:
                    skip = (start + draw[4]) & (BLOCK - 1)
                    fill_words(words, (start + draw[4]) >> 6, (skip + n + BLOCK - 1) >> 6, draw)
                row = x[start : start + n], out[start : start + n], words[skip : skip + n]
                done = False
                if numbers.rule == TWO_LEVEL:
                    found |= round_products(
                        *row, divisors[:n], inverses[:n], multipliers[:n], numbers.flush_inputs, records, loop, narrow
                    )
                    done = True
                elif odd:
                    found |= round_odd_row(*row, width, own, divisors, records)
                    done = True
                elif powers:
                    done = nearest_power(row[0], row[1], multipliers, inverses, records[0])
                elif loop is not None and loop != NEAREST_POWER:
                    done = fast(*row, divisors, 1, records[0], loop, narrow)
                if not done:
                    spread(own, levels[1], width, divisors[:n])
                    found |= general(*row, divisors, 1, records[0], records[1])
        return found

    return round_pieces


round_pieces = _entry(
    sources(__file__, fast_loops.__file__, kernels.__file__, random_words.__file__, lowering.__file__, block_lowering.__file__)
)
