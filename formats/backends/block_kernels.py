"""Rounding blocks in compiled loops: scales and elements of a piece that stays in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import block_lowering, lowering
from hwsim.formats.block_lowering import ELEMENT, MSE, TWO_LEVEL
from hwsim.formats.lowering import STOCHASTIC, UNIFORM

from . import block_scales as scale_loops
from . import fast as fast_loops
from . import kernels
from . import words as random_words
from .block_scales import LARGEST, best_scale, block_scales, block_tops, finite_tops
from .compiling import inlined, kept, sources
from .fast import INFINITY, SIGN, as_carried, fast, product_numbers
from .kernels import general, multiply
from .words import BLOCK, fill_words

PIECE = 1024
NEAREST_POWER = 16
"""The loop for scales that are powers of two, beside those of fast.py."""


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
        done = fast(products, out, words, np.ones(1), 0, records[0], loop)
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
    sources(
        __file__,
        scale_loops.__file__,
        fast_loops.__file__,
        kernels.__file__,
        random_words.__file__,
        lowering.__file__,
        block_lowering.__file__,
    )
)
