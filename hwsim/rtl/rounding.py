"""A real on wires becomes a code: the circuit of `Projection`, for formats whose values lie on a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.formats import Format, Projection, Rounding
from hwsim.formats.lowering import BEYOND
from hwsim.formats.reference import in_range, infinite, not_a_number, zero

from .reals import NO, Exact
from .wires import Wires


@dataclass(frozen=True)
class Target:
    """Where a real becomes a code.

    Attributes:
        always_infinity: overflow is infinity under directed roundings too, as in a Mac.
        positive_zero: a zero loses its sign.
    """

    format: Format
    projection: Projection
    always_infinity: bool = False
    positive_zero: bool = False

    @property
    def guard(self) -> int:
        """How many bits behind the last one the rounding looks at; what lies below them counts as one bit."""
        return guard_bits(self.projection.rounding)


def guard_bits(rounding: Rounding) -> int:
    """How many bits behind the last one a rounding looks at, besides whether anything lies below."""
    if not rounding.is_stochastic:
        return 1
    return rounding.random_bits + {"A": 0, "B": 1, "C": 1}[rounding.variant]


def code_of(value: Fraction | float, fmt: Format) -> int:
    """The code of one value of the format, NaN, infinities and -0 included."""
    return int(fmt.encode(torch.tensor([float(value)], dtype=torch.float64))[0]) & ((1 << fmt.bits) - 1)


def rounded(w: Wires, x: Exact, to: Target, word: Value | None = None) -> tuple[Value, Value]:
    """(the code that a real becomes, whether the projection refuses it).

    Every rule of `Projection` is followed: the mode, overflow judged after rounding with an unbounded exponent, NaN, the sign of
    zero, flushed results. What specials become is asked of the reference. A NaN that `nan: error` refuses gives the code of the
    largest value.

    Args:
        word: the random bits of a stochastic rounding, as many as it has.
    """
    fmt = to.format
    code, zero_after, beyond = (_whole if fmt.grid.uniform else _floating)(w, x, to, word)
    exact_zero = w.let(~x.nonzero & ~x.lost)
    by_sign = _Outcomes(w, to, x.sign)
    out = Mux(beyond, by_sign(in_range, BEYOND), code)
    out = Mux(zero_after, by_sign(in_range, Fraction(0)), out)
    out = Mux(exact_zero, by_sign(zero), out)
    out = Mux(x.infinite, by_sign(infinite), out)
    out = w.let(Mux(x.nan, by_sign.nan, out)[: fmt.bits])
    if fmt.has_nan or to.projection.nan != "error":
        return out, NO
    return out, w.let(x.nan | (x.infinite if to.projection.overflow == "wrap" else NO))


class _Outcomes:
    """Codes of what is no ordinary value, by the sign of the number."""

    def __init__(self, w: Wires, to: Target, sign: Value) -> None:
        self.w, self.to, self.sign = w, to, sign
        projection = to.projection
        self.projection = replace(projection, nan="max") if projection.nan == "error" else projection
        self.nan = self._code(not_a_number(to.format, self.projection))

    def _code(self, value: Fraction | float) -> Value:
        return Const(code_of(value, self.to.format), self.to.format.bits)

    def __call__(self, rule: Callable[..., Fraction | float], *given: Fraction) -> Value:
        fmt = self.to.format
        found: list[Fraction | float] = []
        for negative in (False, True):
            if rule is in_range and given[0] and self.to.always_infinity:
                found.append(float("-inf" if negative else "inf"))
            elif rule is in_range:
                found.append(rule(-given[0] if negative else given[0], negative, fmt, self.projection))
            else:
                found.append(rule(negative, fmt, self.projection))
        if self.to.positive_zero:
            found = [found[0] if value == 0 else value for value in found]
        return self.w.let(Mux(self.sign, self._code(found[1]), self._code(found[0])))


def _goes_up(w: Wires, fraction: Value, below: Value, odd: Value, sign: Value, rounding: Rounding, word: Value | None) -> Value:
    """Whether the magnitude goes to its outer neighbour, by its guard bits and whether anything is set below them."""
    half, rest = fraction[-1] if len(fraction) else NO, w.let(fraction[:-1].any() | below) if len(fraction) > 1 else below
    inexact = half | rest
    match rounding.mode:
        case "nearest_even":
            return half & (rest | odd)
        case "nearest_away":
            return half
        case "nearest_zero":
            return half & rest
        case "toward_zero":
            return NO
        case "toward_positive":
            return inexact & ~sign
        case "toward_negative":
            return inexact & sign
        case "to_odd":
            return inexact & ~odd
        case "stochastic":
            if word is None:
                raise ValueError("a stochastic rounding without its random bits")
            n = rounding.random_bits
            match rounding.variant:
                case "A":
                    return (fraction + word)[n]
                case "B":
                    return (fraction + Cat(Const(1, 1), word))[n + 1]
                case "C":
                    whole, tie = fraction[1:], fraction[0] & (below | fraction[1])
                    return w.let(whole + word + tie)[n : n + 2].any()


def _floating(w: Wires, x: Exact, to: Target, word: Value | None) -> tuple[Value, Value, Value]:
    """(the code of the rounded value, whether that is zero, whether it lies beyond the format's largest)."""
    fmt, grid, guard = to.format, to.format.grid, to.guard
    m, emin, digits = grid.mantissa_bits, grid.min_exponent, grid.mantissa_bits + 1
    pad = max(digits + guard + 1 - len(x.magnitude), 0)
    magnitude, low, lost = Cat(Const(0, pad), x.magnitude), x.low - pad, x.lost
    bits = len(magnitude)
    short = emin - (low + bits - 1)
    if short > 0:
        under = w.let(x.offset < short)
        by = w.let(Mux(under, short - x.offset, 0)[: short.bit_length()])
        by = w.let(Mux(by > bits, bits, by)[: bits.bit_length()]) if short > bits else by
        magnitude, more = w.shift_right(magnitude, by)
        lost = w.let(lost | more)
        room = w.unsigned(Mux(under, 0, x.offset - short), max(x.span - short, 1).bit_length())
    else:
        room = w.let(x.offset + (-short))
    if x.leading or short < x.least:
        zeros = w.leading_zeros(magnitude)
        by = w.smaller(zeros, room)
        magnitude = w.shift_left(magnitude, by[: bits.bit_length()], bits)
        room = w.unsigned(room - by, len(room))
    magnitude = w.let(magnitude)
    normal, under = magnitude[-1], bits - digits
    fraction, below = magnitude[under - guard : under], magnitude[: under - guard].any() | lost
    if not grid.subnormals and m:
        at = bits - 1
        fraction = w.let(Mux(normal, fraction, magnitude[at - guard : at]))
        below = Mux(normal, below, magnitude[: at - guard].any() | lost)
    below = w.let(below)
    kept = magnitude[under : bits - 1]
    if not grid.subnormals and m:
        kept = w.let(Mux(normal, kept, 0)[:m])
    field = w.let(room + normal)
    count = w.let(Cat(kept, field))
    odd = count[0] if grid.zero else ~count[0]
    up = w.let(_goes_up(w, fraction, below, odd, x.sign, to.projection.rounding, word))
    step = w.let(Mux(normal, up, up << m)) if not grid.subnormals and m else up
    count = w.let(count + step)
    if to.projection.flush_outputs and m:
        count = w.let(Mux(count[m:].any(), count, 0))
    largest = code_of(fmt.max, fmt) + (not grid.zero)
    beyond = w.let(count > largest)
    if not fmt.signed:
        beyond = w.let(beyond | x.sign)
    code = w.unsigned(count if grid.zero else count - 1, fmt.bits - fmt.signed)
    return (Cat(code, x.sign) if fmt.signed else code), w.let(~count.any()), beyond


def _whole(w: Wires, x: Exact, to: Target, word: Value | None) -> tuple[Value, Value, Value]:
    """The same on a uniform grid: the number is put on a fixed point, as far up as the format reaches."""
    fmt, grid, guard = to.format, to.format.grid, to.guard
    unit = grid.smallest_exponent - guard
    reach = fmt.bits + 1 + guard
    left = max(0, min(x.high - unit, reach))
    placed = Cat(Const(0, left), x.magnitude)
    needed = left + unit - x.low
    huge = NO
    if needed > 0:
        by = w.let(needed - x.offset)
        if x.span > needed:
            huge = w.let((x.offset > needed) & x.nonzero)
            by = w.let(Mux(x.offset > needed, 0, by))
        by = w.let(Mux(by > len(placed), len(placed), by)[: len(placed).bit_length()])
        placed, lost = w.shift_right(placed, by)
    else:
        placed, lost = w.shift_left(placed, x.offset, len(placed) + x.span), NO
        placed = Cat(Const(0, -needed), placed)
    placed = w.let(placed)
    fraction, below, whole = placed[:guard], w.let(lost | x.lost), placed[guard:]
    up = _goes_up(w, fraction, below, whole[0], x.sign, to.projection.rounding, word)
    count = w.let(whole + w.let(up))
    code = w.unsigned(Mux(x.sign, -count, count), fmt.bits)
    step = Fraction(2) ** grid.smallest_exponent
    above = w.let((count > int(Fraction(fmt.max) / step)) | huge)
    under = w.let((count > int(-Fraction(fmt.min) / step)) | huge)
    if to.projection.overflow == "wrap":
        return Mux(huge, 0, code), NO, NO
    return code, w.let(~count.any() & ~huge), w.let(Mux(x.sign, under, above))
