"""A fused group: products aligned to the largest exponent, cut, summed exactly, handed on for one rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.macs.orders import Alignment, Cut

from .reals import NO, Exact, as_special, joined_specials
from .wires import Wires


@dataclass(frozen=True, eq=False)
class Term:
    """An addend with the exponent it takes part in the alignment with.

    Attributes:
        value: the exact number.
        point: how many bits of its magnitude stand behind the point: the term's exponent is that of its last bit plus these.
        zero: whether it is a zero that takes part with `e_zero`.
    """

    value: Exact
    point: int
    zero: Value

    @property
    def low(self) -> int:
        """The exponent where the offset is 0."""
        return self.value.low + self.point


def limited(w: Wires, x: Exact, limit: int | None) -> Exact:
    """The number, or an infinity where its magnitude is 2^limit or more."""
    if limit is None or x.high + len(x.magnitude) <= limit:
        return x
    bits = len(x.magnitude)
    over = [x.magnitude[i:].any() & (x.offset >= limit - x.low - i) for i in range(bits)]
    reached = NO
    for bit in over:
        reached = w.let(reached | bit)
    return replace(x, infinite=w.let(x.infinite | (reached & ~x.nan)))


def fused(w: Wires, total: Exact, terms: Sequence[Term], how: Alignment) -> Exact:
    """The running sum and the products of one group, aligned, cut and summed: what the accumulator then rounds."""
    addends = [total, *(term.value for term in terms)]
    nan, infinite, minus = joined_specials(w, addends)
    total = as_special(total, w)
    terms = [replace(term, value=as_special(term.value, w)) for term in terms]
    running = Term(total, len(total.magnitude) - 1, w.let(~total.nonzero))
    if how.fraction_bits == "exact":
        made = _exactly(w, [running, *terms])
    else:
        made = _aligned(w, [running, *terms], how, how.fraction_bits)
    return replace(made, nan=nan, infinite=infinite, sign=w.let(Mux(infinite, minus, made.sign)))


def _exactly(w: Wires, terms: list[Term]) -> Exact:
    low = min(t.value.low for t in terms)
    high = max(t.value.high + len(t.value.magnitude) for t in terms)
    placed = []
    for term in terms:
        x = term.value
        at = w.shift_left(Cat(Const(0, x.low - low), x.magnitude), x.offset, high - low)
        placed.append(w.let(Mux(x.sign, -at, Cat(at, Const(0, 1)).as_signed())))
    return _signed(w, w.total(placed), low, 0, Const(0, 1))


def _aligned(w: Wires, terms: list[Term], how: Alignment, bits: int) -> Exact:
    low = min([t.low for t in terms] + ([how.e_zero] if how.e_zero is not None else []))
    exponents, taking_part = [], []
    for term in terms:
        e = w.let(term.value.offset + (term.low - low))
        if how.e_zero is None:
            exponents.append(w.let(Mux(term.zero, 0, e)))
            taking_part.append(e)
        else:
            exponents.append(w.let(Mux(term.zero, how.e_zero - low, e)))
            taking_part.append(e)
    top = w.largest(exponents)
    cuts = [cut(w, t.value, t.point, bits, w.let(top - e), how.alignment) for t, e in zip(terms, taking_part, strict=True)]
    span = max([t.low + t.value.span for t in terms] + ([how.e_zero] if how.e_zero is not None else [])) - low
    extra = 1 if how.alignment == "sticky" else 0
    return _signed(w, w.total(cuts), low - bits - extra, span, w.unsigned(top, max(span, 1).bit_length()))


def cut(w: Wires, x: Exact, point: int, bits: int, down: Value, how: Cut) -> Value:
    """A number cut at `bits` bits behind the point of the largest exponent, as a signed value in units of that place.

    Args:
        down: how far its own exponent lies below the largest; where it is negative the number is a zero.
        how: `sticky` counts in half units.
    """
    magnitude = x.magnitude
    shift = Mux(down < 0, 0, down) if down.shape().signed else down
    if bits >= point:
        wide = w.let(Cat(Const(0, bits - point), magnitude))
        behind = 0
    else:
        wide, behind = magnitude, point - bits
    length = len(wide)
    far = length + 1
    by = w.let(shift)
    by = w.let(Mux(by > far, far, by)[: far.bit_length()])
    if how == "nearest":
        padded = w.let(Cat(Const(0, 1), wide))
        moved, lost = w.shift_right(padded, by)
        if behind:
            kept, half = moved[behind + 1 :], moved[behind]
            lost = w.let(lost | moved[:behind].any())
        else:
            kept, half = moved[1:], moved[0]
        kept = w.let(kept + (half & (lost | kept[0])))
        return w.let(Mux(x.sign, -kept, Cat(kept, Const(0, 1)).as_signed()))
    moved, lost = w.shift_right(wide, by)
    if behind:
        lost = w.let(lost | moved[:behind].any())
        moved = w.let(moved[behind:])
    if how == "floor":
        moved = w.let(moved + (lost & x.sign))
    if how == "sticky":
        moved = w.let(Cat(lost, moved))
    return w.let(Mux(x.sign, -moved, Cat(moved, Const(0, 1)).as_signed()))


def _signed(w: Wires, total: Value, low: int, span: int, offset: Value) -> Exact:
    """A signed sum as sign and magnitude."""
    total = w.let(total)
    sign = w.let(total < 0)
    magnitude = w.let(Mux(sign, -total, total)[: len(total)])
    return Exact(sign, magnitude, offset, low, span, len(magnitude) - 1)
