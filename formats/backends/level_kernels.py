"""Rounding one range of elements to levels in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.formats import lowering, philox
from hwsim.formats.lowering import STOCHASTIC
from hwsim.formats.steps import BASE

from . import kernels, nearest_loops, words
from .compiling import inlined, kept, sources
from .kernels import CHUNK, IMPLICIT, A, B, multiply, power_of_two, significand
from .nearest_loops import EXPONENT, INFINITY, MAGNITUDE
from .words import BLOCK, fill_words

LARGEST = 2.0**200
TINY = 2.0**-300
"""Below it no number differs from another of its sign to a draw: thresholds between float32 numbers are multiples of 2^-182."""
SPLITTER = 2.0**27 + 1
COARSE = 2.0**17
"""Random thresholds are split after 17 of their 33 bits: either part times a float32 number is exact in float64."""
CLEAR = 2.0**-45
"""A distance beyond this share of its terms has the sign that float64 gives it."""
FEW, GROUP = 16, 4
"""Up to so many edges are all compared, in groups; more are searched."""


@inlined
def product(a: Any, b: Any) -> Any:
    """a b as the sum of two numbers, exactly (Dekker)."""
    p = a * b
    c, d = a * SPLITTER, b * SPLITTER
    a_high, b_high = c - (c - a), d - (d - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@inlined
def normalized(x: Any, scale: Any) -> Any:
    """x and scale over the power of two that brings the scale to 1 .. 2, and over the scale's sign."""
    m, q = significand(abs(scale))
    exponent = -q - 52
    half = exponent >> 1
    numerator = x * power_of_two(half) * power_of_two(exponent - half)
    return -numerator if scale < 0 else numerator, m / np.float64(IMPLICIT)


@inlined
def sign_of_sum(terms: Any, count: Any) -> Any:
    """The sign of the exact sum: of the last component of Shewchuk's expansion, which replaces the terms, that is not zero."""
    sign = 0.0
    for n in range(1, count):
        rest = terms[n]
        for place in range(n):
            e = terms[place]
            total = rest + e
            back = total - rest
            terms[place] = (rest - (total - back)) + (e - back)
            rest = total
        terms[n] = rest
    for n in range(count):
        if terms[n] != 0:
            sign = np.sign(terms[n])
    return sign


@inlined
def side_of(x: Any, scale: Any, quotient: Any) -> Any:
    """The sign of x / scale - quotient, exactly, for quotients below 2^200."""
    if scale == 1 or np.isinf(scale) or x == 0:
        return np.int64(0)
    if quotient == 0:
        return np.int64(-1 if (x < 0) != (scale < 0) else 1)
    if not abs(quotient) < LARGEST:
        return np.int64(0)
    numerator, divisor = normalized(x, scale)
    p, rest = product(quotient, divisor)
    return np.int64(np.sign((numerator - p) - rest))


@inlined
def key_of(quotient: Any, side: Any) -> Any:
    """The key of a real number, given by its nearest float64 and the side of it that it lies on (see Steps)."""
    if quotient == 0 and side == 0:
        return np.int64(0)
    negative = quotient < 0 or (quotient == 0 and side < 0)
    bits = np.float64(min(abs(quotient), LARGEST)).view(np.int64)
    key = max(2 * (bits - BASE) + (-side if negative else side), 1)
    return -key if negative else key


@inlined
def place_of(number: Any, edges: Any) -> Any:
    """How many edges are at most the number; their count is a power of two less one."""
    place, width = 0, (edges.size + 1) >> 1
    while width > 0:
        place += width if edges[place + width - 1] <= number else 0
        width >>= 1
    return place


@inlined
def threshold_of(word: Any, rule: Any) -> Any:
    """The share v from which on the draw goes outwards, and whether it does so at v itself (see Rounding)."""
    n = rule.random_bits
    missing = (np.int64(1) << n) - (np.int64(word) >> (32 - n))
    if rule.variant == A:
        return missing / np.float64(np.int64(1) << n), True
    share = (2 * missing - 1) / np.float64(np.int64(2) << n)
    return share, rule.variant == B or (missing & 1) == 0


@inlined
def reaches(x: Any, scale: Any, inner: Any, outer: Any, word: Any, rule: Any, terms: Any) -> Any:
    """Whether |x / scale - inner| reaches the draw's share of |outer - inner|."""
    share, included = threshold_of(word, rule)
    coarse, left = np.floor(share * COARSE) / COARSE, 1 - share
    left_coarse = np.floor(left * COARSE) / COARSE
    if scale != 1:
        x, scale = normalized(x, scale)
    limit = (inner * left + outer * share) * scale
    distance = x - limit
    if not abs(distance) > CLEAR * (abs(x) + (abs(inner) + abs(outer)) * scale):
        terms[0] = x
        terms[1], terms[2] = product(-inner * left_coarse, scale)
        terms[3], terms[4] = product(-inner * (left - left_coarse), scale)
        terms[5], terms[6] = product(-outer * coarse, scale)
        terms[7], terms[8] = product(-outer * (share - coarse), scale)
        distance = sign_of_sum(terms, 9)
    distance = distance if outer > inner else -distance
    return distance > 0 or (distance == 0 and included)


@inlined
def level_of(x: Any, scale: Any, word: Any, rule: Any, values: Any, keys: Any, terms: Any) -> Any:
    """x / scale, exact, as a level; `values` end in a repetition of the largest."""
    quotient = x / scale
    if np.isnan(quotient):
        return rule.nan
    if np.isinf(quotient) and (np.isinf(x) or scale == 0):
        return rule.minus_infinity if quotient < 0 else rule.infinity
    side = side_of(x, scale, quotient)
    place = place_of(key_of(quotient, side), keys)
    low = values[place]
    if rule.mode != STOCHASTIC or (quotient == low and side == 0):
        return low
    high = values[place + 1]
    if low == high or quotient < low or (quotient == low and side < 0):
        return low
    total = low + high
    lower_is_inner = total > 0 or (total == 0 and (quotient < 0 or (quotient == 0 and side < 0)))
    inner, outer = (low, high) if lower_is_inner else (high, low)
    if np.isinf(scale):
        x, scale = 0.0, 1.0
    elif abs(quotient) < TINY and x != 0:
        x = -TINY if (x < 0) != (scale < 0) else TINY
        scale = 1.0
    return outer if reaches(x, scale, inner, outer, word, rule, terms) else inner


@inlined
def general(
    x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, carrier: Any, values: Any, keys: Any, terms: Any
) -> Any:
    """Round every x; element i is divided by scale[stride i]. Returns whether one became NaN."""
    found = False
    for i in range(x.size):
        value = np.float64(x[i])
        if abs(value) < rule.flush_inputs:
            value = np.float64(0)
        s = scale[stride * i]
        rounded = level_of(value, s, words[i] if rule.mode == STOCHASTIC else np.uint32(0), rule, values, keys, terms)
        found |= np.isnan(rounded)
        out[i] = multiply(rounded, s, carrier) if s != 1 and rule.rescale != 0 else rounded
    return found


@inlined
def few(x: Any, out: Any, values: Any, edges: Any) -> None:
    """Levels by comparison with all edges, GROUP at a time, which keeps them in vector registers."""
    for i in range(x.size):
        out[i] = values[0]
    for k in range(0, edges.size, GROUP):
        e0, e1, e2, e3 = edges[k], edges[k + 1], edges[k + 2], edges[k + 3]
        v0, v1, v2, v3 = values[k + 1], values[k + 2], values[k + 3], values[k + 4]
        for i in range(x.size):
            number, y = x[i], out[i]
            y = v0 if number >= e0 else y
            y = v1 if number >= e1 else y
            y = v2 if number >= e2 else y
            out[i] = v3 if number >= e3 else y


@inlined
def many(x: Any, out: Any, values: Any, edges: Any, places: Any) -> None:
    """Levels by a search, all numbers one step at a time."""
    width = (edges.size + 1) >> 1
    for i in range(x.size):
        places[i] = width if x[i] >= edges[width - 1] else 0
    width >>= 1
    while width > 0:
        for i in range(x.size):
            place = places[i]
            places[i] = place + (np.int32(width) if x[i] >= edges[place + width - 1] else np.int32(0))
        width >>= 1
    for i in range(x.size):
        out[i] = values[places[i]]


@inlined
def doubtful(x: Any, edges: Any, places: Any) -> Any:
    """Whether a number that has been found its place is next to an edge of it, where the quotient that it stands for may be."""
    bits, marks, found = x.view(np.int64), edges.view(np.int64), np.int64(0)
    for i in range(x.size):
        below = bits[i] - marks[max(places[i] - 1, 0)] + 1
        above = bits[i] - marks[min(places[i], edges.size - 1)] + 1
        found |= np.int64((np.uint64(below) <= 2) | (np.uint64(above) <= 2))
    return found != 0


@inlined
def quick(
    x: Any, out: Any, scale: Any, stride: Any, rescale: Any, values: Any, edges: Any, wide: Any, quotients: Any, places: Any
) -> Any:
    """Levels of finite float32 numbers by edges in their own type or, scaled, in float64. Returns whether all are sure."""
    n = x.size
    if quotients is None:
        bits, largest = x.view(np.int32), np.int32(0)
        for i in range(n):
            largest = max(largest, np.int32(bits[i] & MAGNITUDE))
        if edges.size <= FEW:
            few(x, out, values, edges)
        else:
            many(x, out, values, edges, places)
        return largest < INFINITY
    near, special = quotients[:n], np.int64(0)
    for i in range(n):
        near[i] = np.float64(x[i]) / scale[stride * i]
    bits = near.view(np.int64)
    for i in range(n):
        special |= np.int64(bits[i] & EXPONENT == EXPONENT)
    if edges.size <= FEW:
        few(near, out, values, edges)
    else:
        many(near, out, values, edges, places)
        if wide and doubtful(near, edges, places[:n]):
            return False
    if rescale:
        for i in range(n):
            out[i] = np.float32(np.float64(out[i]) * scale[stride * i])
    return special == 0


def _entry(version: int) -> Any:
    """round_levels, which numba compiles again for another version of its sources."""

    @kept
    def round_levels(
        x: Any,
        out: Any,
        low: Any,
        high: Any,
        origin: Any,
        scale: Any,
        geometry: Any,
        draw: Any,
        rules: Any,
        table: Any,
        loop: Any,
    ) -> Any:
        """Round the elements low .. high - 1 of a tensor. Returns whether one became NaN.

        Args:
            x, out: contiguous, float32 or float64; their first elements are the tensor's element `origin`.
            scale: float64, at least one element.
            geometry: the fields of a Geometry.
            draw: the numbers of a Draw.
            rules: the records of the LevelRule's numbers and the carrier's Rule.
            table: the outcomes and the keys of their edges.
            loop: for the loop on finite float32 outcomes, edges, and whether these have digits that a quotient in float64 may
                miss (None where nothing is scaled); or None, which compiles to none.
        """
        row, length, stride, period, blocks, size, step = geometry
        rule, carrier = rules[0], rules[1]
        words, terms, places = np.empty(CHUNK + BLOCK, np.uint32), np.empty(9), np.empty(CHUNK, np.int32)
        found = version < 0  # False; a version that is not named would not be closed over
        while low < high:
            stop, skip = min(low + CHUNK, high), 0
            if rule.mode == STOCHASTIC:
                first = low + draw[4]
                skip = first & (BLOCK - 1)
                fill_words(words, first >> 6, (skip + stop - low + BLOCK - 1) >> 6, draw)
            while low < stop:
                r = low // row
                place = low - r * row
                g = place // length
                end = min(stop, r * row + min((g + 1) * length, row))
                first_scale = ((r // period) * blocks + (r % period) // size) * step + g + stride * (place - g * length)
                divisors, pieces = scale[first_scale:], (x[low - origin : end - origin], out[low - origin : end - origin])
                done = False
                if loop is not None:
                    quotients = None if loop[2] is None else np.empty(CHUNK)
                    done = quick(*pieces, divisors, stride, rule.rescale != 0, loop[0], loop[1], loop[2], quotients, places)
                if not done:
                    drawn = words[skip : skip + end - low]
                    found |= general(*pieces, drawn, divisors, stride, rule, carrier, table[0], table[1], terms)
                skip += end - low
                low = end
        return found

    return round_levels


round_levels = _entry(
    sources(__file__, nearest_loops.__file__, kernels.__file__, words.__file__, lowering.__file__, philox.__file__)
)
