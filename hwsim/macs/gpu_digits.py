"""Exact sums on GPUs in arrays of 32-bit digits, rounded once, as exact.py has them: what float64 blocks cannot hold.

Every program keeps the digits of its block of results in global memory, lowest first, each digit a block of its own. A barrier
stands before digits are read that another thread may have written.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from . import exact, lanes
from .gpu_kernels import STEP, entering, outermost, place, product_of, promotion_scale
from .gpu_sums import AWAY, DOWN, EVEN, MODE, ODD, TO_ZERO, UP, A, B, bounded, word_at

DIGIT, DIGIT_MASK = tl.constexpr(exact.DIGIT), tl.constexpr(exact.LOW)
FRACTION, HIDDEN = tl.constexpr(exact.FRACTION), tl.constexpr(1 << lanes.FRACTION_BITS)
PART, PART_MASK = tl.constexpr(27), tl.constexpr((1 << 27) - 1)
BIAS, FRACTION_BITS = tl.constexpr(1023), tl.constexpr(lanes.FRACTION_BITS)
GRID = tl.constexpr(len(exact.Wide._fields))


@triton.jit  # type: ignore[untyped-decorator]
def split(x: tl.tensor) -> Any:
    """The significand of |x| as an integer, and the exponent of its last bit."""
    bits = x.to(tl.int64, bitcast=True)
    e, f = (bits >> FRACTION_BITS) & 0x7FF, bits & FRACTION
    return tl.where(e == 0, f, f | HIDDEN), tl.where(e == 0, 1, e) - (BIAS + FRACTION_BITS)


@triton.jit  # type: ignore[untyped-decorator]
def add_integer(
    digits: tl.tensor, own: tl.tensor, value: tl.tensor, position: tl.tensor, sign: tl.tensor, SIZE: tl.constexpr
) -> None:
    """Add sign value 2^position, 0 <= value < 2^62."""
    tl.debug_barrier()
    where, shift = digits + position // DIGIT * SIZE + own, position % DIGIT
    x, y = (value & DIGIT_MASK) << shift, (value >> DIGIT) << shift
    tl.store(where, tl.load(where) + sign * (x & DIGIT_MASK))
    tl.store(where + SIZE, tl.load(where + SIZE) + sign * (((x >> DIGIT) & DIGIT_MASK) + (y & DIGIT_MASK)))
    tl.store(where + 2 * SIZE, tl.load(where + 2 * SIZE) + sign * ((y >> DIGIT) & DIGIT_MASK))


@triton.jit  # type: ignore[untyped-decorator]
def add_term(digits: tl.tensor, own: tl.tensor, lowest: tl.tensor, a: tl.tensor, b: tl.tensor, SIZE: tl.constexpr) -> Any:
    """Add a b: to the digits, exactly, where it is finite; otherwise it is returned (0 if not). The first counts 2^lowest."""
    finite = (tl.abs(a) < float("inf")) & (tl.abs(b) < float("inf"))
    p, q = tl.where(finite, a, 0.0), tl.where(finite, b, 0.0)
    sign = tl.where((p.to(tl.int64, bitcast=True) ^ q.to(tl.int64, bitcast=True)) < 0, -1, 1).to(tl.int64)
    x, ex = split(p)
    y, ey = split(q)
    position = tl.where((x == 0) | (y == 0), 0, ex + ey - lowest)
    x1, x0, y1, y0 = x >> PART, x & PART_MASK, y >> PART, y & PART_MASK
    add_integer(digits, own, x0 * y0, position, sign, SIZE)
    add_integer(digits, own, x0 * y1 + x1 * y0, position + PART, sign, SIZE)
    add_integer(digits, own, x1 * y1, position + 2 * PART, sign, SIZE)
    return tl.where(finite, 0.0, a * b)


@triton.jit  # type: ignore[untyped-decorator]
def taken_out(digits: tl.tensor, own: tl.tensor, count: tl.tensor, SIZE: tl.constexpr) -> Any:
    """The number that the digits hold, which are zero afterwards.

    Whether it is negative; of its magnitude the place and value of the highest digit that is not zero, the two digits below, and
    whether any further one is not zero.
    """
    tl.debug_barrier()
    none = tl.zeros(own.shape, tl.int64)
    c = none
    for w in range(0, count):
        c = (tl.load(digits + w * SIZE + own) + c) >> DIGIT
    negative = c < 0
    sign = tl.where(negative, -1, 1).to(tl.int64)
    c, top, high, middle, low, before, earlier = none, none, none, none, none, none, none
    sticky, below = none != 0, none != 0
    for w in range(0, count):
        at = digits + w * SIZE + own
        v = tl.load(at) * sign + c
        tl.store(at, none)
        d, c = v & DIGIT_MASK, v >> DIGIT
        found = d != 0
        high, middle, low = tl.where(found, d, high), tl.where(found, before, middle), tl.where(found, earlier, low)
        top, sticky = tl.where(found, w, top), tl.where(found, below, sticky)
        below |= earlier != 0
        earlier, before = before, d
    return negative, top, high, middle, low, sticky


@triton.jit  # type: ignore[untyped-decorator]
def shifted(x: tl.tensor, left: tl.tensor) -> Any:
    """The unsigned x times 2^left, without what falls out of 64 bits."""
    up, down = tl.minimum(tl.maximum(left, 0), 63).to(tl.uint64), tl.minimum(tl.maximum(-left, 0), 63).to(tl.uint64)
    return tl.where((left > 63) | (left < -63), 0, tl.where(left < 0, x >> down, x << up)).to(tl.uint64)


@triton.jit  # type: ignore[untyped-decorator]
def power_of_two(e: tl.tensor) -> Any:
    """2^e, -1022 <= e <= 1023."""
    return ((e + BIAS) << FRACTION_BITS).to(tl.float64, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def goes_up(rest: tl.tensor, sticky: tl.tensor, even: tl.tensor, negative: tl.tensor, n: tl.tensor, mode: tl.tensor,
            word: tl.tensor) -> Any:  # fmt: skip
    """Whether the mode takes the neighbour away from zero, v = (rest + sticky) / 2^64 being what is cut."""
    half = (tl.full(rest.shape, 1, tl.uint64) << 63).to(tl.uint64)
    above, tie = (rest > half) | ((rest == half) & sticky), (rest == half) & (sticky == 0)
    up = above | (tie & (even == 0))
    if mode == AWAY:
        up = rest >= half
    elif mode == TO_ZERO:
        up = above
    elif mode == ODD:
        up = ((rest != 0) | sticky) & even
    elif mode >= A:
        r, v = word >> (32 - n), (rest >> (64 - n).to(tl.uint64)).to(tl.int64)
        one = tl.full(v.shape, 1, tl.int64)
        if mode == A:
            up = v + r >= one << n
        elif mode == B:
            up = (rest >> (63 - n).to(tl.uint64)).to(tl.int64) + 2 * r + 1 >= one << (n + 1)
        else:
            below = (rest << n.to(tl.uint64)).to(tl.uint64)
            more = (below > half) | ((below == half) & (sticky | ((v & 1) == 1)))
            up = v + more.to(tl.int64) + r >= one << n
    elif mode != EVEN:
        up = ((rest != 0) | sticky) & (((mode == UP) & (negative == 0)) | ((mode == DOWN) & negative))
    return up


@triton.jit  # type: ignore[untyped-decorator]
def settle_digits(
    digits: tl.tensor, own: tl.tensor, count: tl.tensor, lowest: tl.tensor, special: tl.tensor, zero: tl.tensor, rule: tl.tensor,
    grid: tl.tensor, output: tl.tensor, level: tl.tensor, k: tl.tensor, stream: tl.tensor, SIZE: tl.constexpr,
) -> Any:  # fmt: skip
    """The sum in `digits`, which are zero afterwards, a special value if there is one, or the zero, as a value of the format."""
    real, mode = rule.to(tl.pointer_type(tl.float64), bitcast=True), tl.load(rule + MODE)
    digits_of, min_exponent, smallest, n = tl.load(grid), tl.load(grid + 1), tl.load(grid + 2), tl.load(grid + 3)
    negative, top, high, middle, low, sticky = taken_out(digits, own, count, SIZE)
    none = tl.zeros_like(high)
    length = ((high.to(tl.float64).to(tl.int64, bitcast=True) >> FRACTION_BITS) - (BIAS - 1)).to(tl.int64)
    length = tl.where(high == 0, 1, length)
    window = shifted(high.to(tl.uint64), 64 - length) | shifted(middle.to(tl.uint64), 32 - length)
    window |= shifted(low.to(tl.uint64), -length)
    sticky |= (low & ((none + 1 << length) - 1)) != 0
    e = lowest + DIGIT * top + length - 1
    q = tl.where(e >= min_exponent, e - digits_of, smallest)
    drop = 63 - (e - q)
    whole = tl.where(drop < 64, shifted(window, -drop), 0).to(tl.uint64)
    rest = shifted(window, 64 - drop)
    sticky |= (drop > 64) & (shifted(rest, drop - 64) != window)
    word = none
    if mode >= A:
        word = word_at(output, level, k, stream)
    up = goes_up(rest, sticky, (whole & 1) == 0, negative, n, mode, word)
    r = (whole.to(tl.int64) + up.to(tl.int64)).to(tl.float64)
    far = tl.minimum(tl.maximum(q, -1000), 1000)
    rest_of_q = tl.minimum(tl.maximum(q - far, -1000), 1000)
    r = r * power_of_two(far) * power_of_two(rest_of_q) * power_of_two(tl.minimum(q - far - rest_of_q, 1000))
    r = tl.where(negative, -r, r)
    r = tl.where(high == 0, zero, r)
    outside = (tl.abs(special) < float("inf")) == 0
    return bounded(tl.where(outside, special, r), tl.where(outside, special, 1.0), real)


@triton.jit  # type: ignore[untyped-decorator]
def join_digits(
    outer: tl.tensor, inner: tl.tensor, scale: tl.tensor, digits: tl.tensor, own: tl.tensor, count: tl.tensor, lowest: tl.tensor,
    rule: tl.tensor, grid: tl.tensor, output: tl.tensor, level: tl.tensor, k: tl.tensor, stream: tl.tensor, SIZE: tl.constexpr,
) -> Any:  # fmt: skip
    """round(outer + inner scale), scale > 0."""
    special = add_term(digits, own, lowest, outer, tl.full(own.shape, 1.0, tl.float64), SIZE)
    special += add_term(digits, own, lowest, inner, scale, SIZE)
    x, y = outer.to(tl.int64, bitcast=True) < 0, inner.to(tl.int64, bitcast=True) < 0
    down = tl.load(rule + MODE) == DOWN
    zero = tl.where((x & y) | ((x | y) & down), -0.0, 0.0).to(tl.float64)
    return settle_digits(digits, own, count, lowest, special, zero, rule, grid, output, level, k, stream, SIZE)


@triton.jit  # type: ignore[untyped-decorator]
def close_digits(
    s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, s3: tl.tensor, step: tl.tensor, scale: tl.tensor, digits: tl.tensor,
    own: tl.tensor, count: tl.tensor, lowest: tl.tensor, rules: tl.tensor, grids: tl.tensor, output: tl.tensor,
    stream: tl.tensor, LEVELS: tl.constexpr, FIELDS: tl.constexpr, SIZE: tl.constexpr,
) -> Any:  # fmt: skip
    """As `close`, with exact sums."""
    closing, one = tl.load(step), tl.full(own.shape, 1.0, tl.float64)
    if LEVELS >= 1:  # noqa: SIM102
        if closing >= 1:
            rule, grid, k = rules + 2 * FIELDS, grids + 2 * GRID, tl.load(step + 1)
            s1 = join_digits(s1, s0, scale, digits, own, count, lowest, rule, grid, output, 2, k, stream, SIZE)
            s0 = tl.zeros_like(s0)
    if LEVELS >= 2:  # noqa: SIM102
        if closing >= 2:
            rule, grid, k = rules + 3 * FIELDS, grids + 3 * GRID, tl.load(step + 2)
            s2 = join_digits(s2, s1, one, digits, own, count, lowest, rule, grid, output, 3, k, stream, SIZE)
            s1 = tl.zeros_like(s1)
    if LEVELS >= 3:  # noqa: SIM102
        if closing >= 3:
            rule, grid, k = rules + 4 * FIELDS, grids + 4 * GRID, tl.load(step + 3)
            s3 = join_digits(s3, s2, one, digits, own, count, lowest, rule, grid, output, 4, k, stream, SIZE)
            s2 = tl.zeros_like(s2)
    return s0, s1, s2, s3


@triton.jit  # type: ignore[untyped-decorator]
def sum_digits(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, scale_a: tl.tensor, scale_b: tl.tensor, out: tl.tensor, rules: tl.tensor,
    grids: tl.tensor, steps: tl.tensor, bounds: tl.tensor, stream: tl.tensor, room: tl.tensor, rows: tl.int64,
    columns: tl.int64, terms: tl.int64, first: tl.int64, width: tl.int64, every: tl.int64, blocks: tl.int64, groups: tl.int64,
    count: tl.int64, lowest: tl.int64, ROUNDS: tl.constexpr, IEEE_ZERO: tl.constexpr, LEVELS: tl.constexpr,
    C_FIRST: tl.constexpr, C_LAST: tl.constexpr, SCALED: tl.constexpr, FIELDS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Groups of products, added exactly to the running sum and rounded once; with ROUNDS of one product each, rounded before.

    steps, bounds: as in `sum_groups`. grids: the `Wide` of each rule. room: `count` digits, all zero, for each result of each
    program. A zero sum is +0, or with IEEE_ZERO signed as by IEEE 754 section 6.3.
    """
    i, j, inside = place(rows, columns, M, N)
    output, at = first + i * width + j, i * columns + j
    SIZE: tl.constexpr = M * N
    own = (tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]).to(tl.int64)
    digits = room + tl.program_id(0).to(tl.int64) * count * SIZE
    zero = tl.zeros([M, N], tl.float64)
    one = zero + 1.0
    s0, s1, s2, s3, scale = entering(c, at, inside, zero, C_FIRST, LEVELS)
    for g in range(0, groups):
        step = steps + STEP * g
        k0, k1, word_k = tl.load(bounds + g), tl.load(bounds + g + 1), tl.load(step + 4)
        if ROUNDS:
            x, y = product_of(a, b, i, j, k0, rows, columns, terms)
            special = add_term(digits, own, lowest, x, y, SIZE)
            below = (x.to(tl.int64, bitcast=True) ^ y.to(tl.int64, bitcast=True)) < 0
            nothing = tl.where(below, -0.0, 0.0).to(tl.float64)
            p = settle_digits(
                digits, own, count, lowest, special, nothing, rules + FIELDS, grids + GRID, output, 1, word_k, stream, SIZE
            )  # fmt: skip
            s0 = join_digits(s0, p, one, digits, own, count, lowest, rules, grids, output, 0, word_k, stream, SIZE)
        else:
            special = add_term(digits, own, lowest, s0, one, SIZE)
            minus = s0.to(tl.int64, bitcast=True) < 0
            plus = minus == 0
            for k in range(k0, k1):
                x, y = product_of(a, b, i, j, k, rows, columns, terms)
                below = (x.to(tl.int64, bitcast=True) ^ y.to(tl.int64, bitcast=True)) < 0
                plus, minus = plus | (below == 0), minus | below
                special += add_term(digits, own, lowest, x, y, SIZE)
            nothing = zero
            if IEEE_ZERO:
                down = tl.load(rules + MODE) == DOWN
                nothing = tl.where(minus & ((plus == 0) | down), -0.0, 0.0).to(tl.float64)
            s0 = settle_digits(digits, own, count, lowest, special, nothing, rules, grids, output, 0, word_k, stream, SIZE)
        if SCALED:
            n = tl.load(step + 1) // every
            scale = promotion_scale(scale_a, scale_b, i, j, n, blocks, rows, columns, rules + 6 * FIELDS, output, stream)
        s0, s1, s2, s3 = close_digits(
            s0, s1, s2, s3, step, scale, digits, own, count, lowest, rules, grids, output, stream, LEVELS, FIELDS, SIZE
        )  # fmt: skip
    total = outermost(s0, s1, s2, s3, LEVELS)
    if C_LAST:
        last, rule, grid = tl.load(c + at, mask=inside, other=0), rules + 5 * FIELDS, grids + 5 * GRID
        total = join_digits(total, last, one, digits, own, count, lowest, rule, grid, output, LEVELS + 2, 0, stream, SIZE)
    tl.store(out + at, total, mask=inside)
