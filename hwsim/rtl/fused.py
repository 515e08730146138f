"""A fused group: products aligned to the largest exponent, cut, summed exactly, handed on for one rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.macs.orders import Alignment, Cut, LateSum

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


def fused(w: Wires, total: Exact, terms: Sequence[Term], how: Alignment, smallest: int) -> Exact:
    """The running sum and the products of one group, aligned, cut and summed: what the accumulator then rounds.

    Args:
        smallest: the exponent of a subnormal running sum.
    """
    addends = [total, *(term.value for term in terms)]
    nan, infinite, minus = joined_specials(w, addends)
    total = as_special(total, w)
    terms = [replace(term, value=as_special(term.value, w)) for term in terms]
    running = Term(total, len(total.magnitude) - 1, w.let(~total.nonzero))
    if how.fraction_bits == "exact":
        made = _exactly(w, [running, *terms], how.negative_zero)
    elif how.late is not None:
        made = _joined_late(w, running, list(terms), how, how.late, how.fraction_bits)
    else:
        made = _aligned(w, [running, *terms], how, how.fraction_bits)
    return replace(made, nan=nan, infinite=infinite, sign=w.let(Mux(infinite, minus, made.sign)))


def _exactly(w: Wires, terms: list[Term], negative_zero: bool) -> Exact:
    low = min(t.value.low for t in terms)
    high = max(t.value.high + len(t.value.magnitude) for t in terms)
    placed = []
    for term in terms:
        x = term.value
        at = w.shift_left(Cat(Const(0, x.low - low), x.magnitude), x.offset, high - low)
        placed.append(w.let(Mux(x.sign, -at, Cat(at, Const(0, 1)).as_signed())))
    made = _signed(w, w.total(placed), low, 0, Const(0, 1))
    if not negative_zero:
        return made
    all_negative = Const(1, 1)
    for term in terms:
        all_negative = w.let(all_negative & term.value.sign)
    return replace(made, sign=w.let(made.sign | (all_negative & ~made.nonzero)))


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


def _floor(w: Wires, total: Value, by: Value) -> Value:
    """floor(total / 2^by) of a signed value."""
    sign = total[-1]
    flipped = w.let(total ^ sign.replicate(len(total)))
    moved, _ = w.shift_right(flipped, by)
    return w.let((moved ^ sign.replicate(len(total))).as_signed())


def _joined_late(w: Wires, total: Term, terms: list[Term], how: Alignment, late: LateSum, bits: int) -> Exact:
    """The products first, then the running sum (see LateSum)."""
    halves = [terms[::2], terms[1::2]] if how.grouping == "even_odd" else [terms]
    low = min(t.low for t in [total, *terms])
    sums: list[tuple[Value, Value, Value]] = []
    for half in halves:
        exponents = [w.let(t.value.offset + (t.low - low)) for t in half]
        present = w.let(~_all(w, [t.zero for t in half]))
        top = w.largest([w.let(Mux(t.zero, 0, e)) for t, e in zip(half, exponents, strict=True)])
        cuts = [cut(w, t.value, t.point, bits, w.let(top - e), how.alignment) for t, e in zip(half, exponents, strict=True)]
        sums.append((w.total(cuts), top, present))
    e_total = w.let(total.value.offset + (total.low - low))
    e_dot = w.largest([w.let(Mux(present, top, 0)) for _, top, present in sums])
    some = ~_all(w, [~present for _, _, present in sums])
    e_dot = w.let(Mux(some, e_dot, e_total))
    fine = late.dot_bits - bits
    joined = []
    for value, top, _ in sums:
        if len(sums) == 1:
            joined.append(value)
            continue
        by = w.let((e_dot - top)[: len(e_dot)])
        most = len(value) + 1
        joined.append(_floor(w, value, w.let(Mux(by > most, most, by)[: most.bit_length()])))
    dot = w.total(joined)
    top = w.larger(e_dot, e_total)
    most = len(dot) + max(fine, 0) + 1
    by = w.let(top - e_dot)
    widened = w.let(Cat(Const(0, max(fine, 0)), dot).as_signed())
    by = w.let(Mux(by > most, most, by)[: most.bit_length()]) if fine >= 0 else w.let(by + (-fine))
    kept_dot = _floor(w, widened, by)
    away = w.let(top - e_total)
    kept_sum = cut(w, total.value, total.point, late.sum_bits, away, "floor")
    if late.drop_below is not None:
        kept_sum = w.let(Mux(away > late.drop_below, 0, kept_sum))
    unit = max(late.dot_bits, late.sum_bits)
    both = w.let((kept_dot << (unit - late.dot_bits)) + (kept_sum << (unit - late.sum_bits)))
    span = max(t.low + t.value.span for t in [total, *terms]) - low
    made = _signed(w, both, low - unit, span, w.unsigned(top, max(span, 1).bit_length()))
    return _normalised(w, made, both, late.total_bits, total.value.low + total.point, how)


def _normalised(w: Wires, x: Exact, both: Value, bits: int, smallest: int, how: Alignment) -> Exact:
    """The number rounded down to `bits` bits behind its own first one, which counts as at least 2^smallest."""
    width = len(x.magnitude)
    zeros = w.leading_zeros(x.magnitude)
    first = w.let((width - 1) - zeros)
    floor_at = w.let(Value.cast((smallest - x.low) - x.offset))
    place = w.let(Mux(floor_at > Value.cast(first), floor_at, first))
    by = w.let(place - bits)
    by = w.let(Mux(by < 0, 0, by))
    most = width + 1
    by = w.let(Mux(by > most, most, by)[: most.bit_length()])
    moved = _floor(w, both, by)
    back = w.shift_left(w.let(Cat(moved, moved[-1])), by, width + 1).as_signed()
    return _signed(w, w.let(back), x.low, x.span, x.offset)


def _all(w: Wires, bits: Sequence[Value]) -> Value:
    out: Value = Const(1, 1)
    for bit in bits:
        out = w.let(out & bit)
    return out
