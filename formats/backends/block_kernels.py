"""Rounding blocks in compiled loops: scales and elements of a piece that stays in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import block_lowering, lowering
from hwsim.formats.block_lowering import ELEMENT, MSE, TWO_LEVEL
from hwsim.formats.lowering import NEAREST_EVEN, STOCHASTIC

from . import block_loops, block_maxima, drawn_loops, kernels, magnitude_kernels, nearest_loops
from . import block_scales as scale_loops
from . import fast as fast_loops
from . import words as random_words
from .block_loops import (
    LARGEST,
    MANTISSA_BITS,
    SMALLEST_EXPONENT,
    have_room,
    nearest_blocks,
    power_scales,
    splits,
    tops_of,
    two_level_factors,
)
from .block_scales import best_scale, block_scales, block_tops, finite_tops
from .compiling import inlined, kept, sources
from .fast import fast
from .kernels import general, multiply
from .nearest_loops import as_carried, product_numbers
from .words import BLOCK, fill_words

PIECE = 2048
NEAREST_POWER = 16
"""The loop for scales that are powers of two, beside those of fast.py."""


@inlined
def room_for(rule: Any) -> Any:
    """Whether elements are rounded by `nearest_blocks`."""
    return rule.mode == NEAREST_EVEN and rule.mantissa_bits < MANTISSA_BITS and rule.smallest_exponent > SMALLEST_EXPONENT


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
    """run_tops and round_pieces, which numba compiles again for another version of its sources."""

    @kept
    def round_pieces(
        low: Any,
        high: Any,
        x: Any,
        out: Any,
        origin: Any,
        bits: Any,
        limits: Any,
        scales: Any,
        tiling: Any,
        levels: Any,
        known: Any,
        draw: Any,
        rule: Any,
        loop: Any,
        narrow: Any,
    ) -> Any:
        """Round the pieces low .. high - 1: up to PIECE columns of a row of blocks. Returns whether an element became NaN.

        Args:
            x, out: contiguous, float32 or float64; their first elements are the tensor's element `origin`.
            bits, limits: x as integers, and what largest_finite_bits takes.
            scales: float32 or float64, one a block.
            tiling: the fields of a Tiling.
            levels: S and t of the rule `two_level`, ones elsewhere.
            known: the bits of each block's largest magnitude, all finite, where they are known; else empty.
            draw: the numbers of a Draw.
            rule: the records of the rules of elements, of the result's dtype, of scales and of trials; the ScaleNumbers.
            loop: the fast loop for elements (see fast.py), or None, which compiles to none.
            narrow: the record of the result's dtype where the fast loops multiply into one narrower than float32, else None.
        """
        _, rows, columns, height, width = tiling
        records, numbers = rule[0], rule[1][0]
        bands, strips = -(-rows // height), -(-columns // width)
        span = max(width, PIECE // width * width)
        pieces, longest = -(-columns // span), min(span, columns)
        blocks = -(-longest // width)
        words, divisors, buffer = np.empty(longest + 2 * BLOCK, np.uint32), np.empty(longest), np.empty(longest, bits.dtype)
        inverses, quotients, rests = np.empty(longest, np.float32), np.empty(longest, np.float32), np.empty(blocks, np.float32)
        reciprocals, singles = np.empty(blocks, np.float32), np.empty(blocks, np.float32)
        tops, raw, broken = np.empty(blocks, bits.dtype), np.empty(blocks, x.dtype), np.empty(blocks, np.bool_)
        splitting = numbers.rule == TWO_LEVEL and loop is not None and narrow is None and room_for(records[0])
        splitting &= numbers.flush_inputs == 0 and splits(records[0], records[2], numbers.digits)
        found = version < 0  # False; a version that is not named would not be closed over
        for piece in range(low, high):
            band, left = piece // pieces, piece % pieces * span
            above = band % bands * height
            tall, n = min(height, rows - above), min(span, columns - left)
            first = (band // bands * rows + above) * columns + left - origin
            count, strip = -(-n // width), band * strips + left // width
            own, top, amax = scales[strip : strip + count], tops[:count], tops[:count].view(x.dtype)
            special = False
            if known.size:
                for b in range(count):
                    top[b] = known[strip + b]
            else:
                special = block_tops(bits, first, columns, tall, width, top, buffer[:n], limits)
            if special:
                finite_tops(bits, first, columns, tall, width, n, top, broken, limits)
            powers = products = False
            if loop is not None and loop == NEAREST_POWER:
                powers = power_scales(top, own, reciprocals[:count], singles[:count], numbers)
            if loop is not None and splitting and not special:
                pairs = reciprocals[:count], singles[:count], rests[:count]
                products = two_level_factors(top, own, *pairs, levels, numbers, records[2])
            if not powers and not products:
                if numbers.rule == MSE:
                    for b in range(count):
                        wide = min(width, n - b * width)
                        own[b] = best_scale(amax[b], x, first + b * width, columns, tall, wide, numbers, records)
                else:
                    block_scales(amax, raw[:count], own, words, levels, numbers, records, loop)
            if special and numbers.special != ELEMENT:
                for b in range(count):
                    own[b] = np.nan if broken[b] else own[b]
            odd = False
            for b in range(count):
                odd |= own[b] != own[b]
            if numbers.rule == TWO_LEVEL and not products:
                for b in range(count):
                    reciprocals[b] = min(np.float32(1) / np.float32(own[b] * levels[1]), LARGEST)
            if records[0].rescale == 0:
                singles[:count] = 1
                rests[:count] = 0
            room = False
            if loop is not None and (powers or products) and not special:
                room = have_room(top, reciprocals[:count], records[0])
            spread_out = False
            for r in range(tall):
                start, skip = first + r * columns, 0
                target = out[start : start + n]
                done = False
                if loop is not None and room:
                    whole = x[start : start + n]
                    if powers:
                        nearest_blocks(whole, target, reciprocals, singles, None, records[0], width)
                    else:
                        nearest_blocks(whole, target, reciprocals, singles, rests, records[0], width)
                    done = True
                if not done and not spread_out:
                    spread(own, levels[1], width, divisors[:n])
                    if numbers.rule == TWO_LEVEL:
                        spread(reciprocals[:count], np.float64(1), width, inverses[:n])
                    spread_out = True
                if records[0].mode == STOCHASTIC:
                    word = start + origin + draw[4]
                    skip = word & (BLOCK - 1)
                    fill_words(words, word >> 6, (skip + n + BLOCK - 1) >> 6, draw)
                row = x[start : start + n], target, words[skip : skip + n]
                if not done:
                    if numbers.rule == TWO_LEVEL:
                        flush = numbers.flush_inputs
                        found |= round_products(*row, divisors[:n], inverses[:n], quotients[:n], flush, records, loop, narrow)
                        done = True
                    elif odd:
                        found |= round_odd_row(*row, width, own, divisors, records)
                        done = True
                    elif loop is not None and loop != NEAREST_POWER:
                        done = fast(*row, divisors, 1, records[0], loop, narrow)
                if not done:
                    found |= general(*row, divisors, 1, records[0], records[1])
        return found

    @kept
    def run_tops(bits: Any, tops: Any, width: Any) -> Any:
        """The bits of the largest magnitude of each block of float32 bits, into tops. Returns the largest of all."""
        worst = tops_of(bits, tops, width)
        return worst if version >= 0 else np.int32(0)  # a version that is not named would not be closed over

    return run_tops, round_pieces


run_tops, round_pieces = _entry(
    sources(
        __file__,
        scale_loops.__file__,
        block_loops.__file__,
        block_maxima.__file__,
        magnitude_kernels.__file__,
        fast_loops.__file__,
        nearest_loops.__file__,
        drawn_loops.__file__,
        kernels.__file__,
        random_words.__file__,
        lowering.__file__,
        block_lowering.__file__,
    )
)
