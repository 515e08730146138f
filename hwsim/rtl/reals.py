"""An exact real on wires: what a code stands for, exact products, and sums that keep as many bits as a rounding can ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from amaranth.hdl import Cat, Const, Mux, Value

from hwsim.errors import FormatError
from hwsim.formats import Fixed, Float, Format, Integer

from .wires import Wires, any_of

NO = Value.cast(Const(0, 1))


@dataclass(frozen=True, eq=False)
class Exact:
    """(-1)^sign magnitude 2^(low + offset), or NaN, or an infinity; zero is magnitude 0, its sign that of the zero.

    Attributes:
        sign, nan, infinite, lost: single bits. `lost` says that the magnitude was cut: the number lies strictly between
            magnitude and magnitude + 1 units.
        magnitude: unsigned.
        offset: unsigned, up to `span`; `low` is the exponent of the magnitude's last bit where it is 0.
        leading: how many zeros may stand before the magnitude's first set bit; 0 for a float, but for its subnormals, whose
            offset is `least`.
        least: the smallest offset.
    """

    sign: Value
    magnitude: Value
    offset: Value
    low: int
    span: int
    leading: int
    nan: Value = field(default_factory=lambda: NO)
    infinite: Value = field(default_factory=lambda: NO)
    lost: Value = field(default_factory=lambda: NO)
    least: int = 0

    @property
    def high(self) -> int:
        """The largest exponent of the last bit."""
        return self.low + self.span

    @property
    def nonzero(self) -> Value:
        """Whether any bit is set."""
        return self.magnitude.any()


def unpacked(w: Wires, code: Value, fmt: Format, flush: str = "none") -> Exact:
    """The value of a code; exponents are the format's, so that subnormals have the smallest.

    Args:
        flush: `signed` or `positive`: subnormals become a zero of their sign, or they and zeros +0.

    Raises:
        FormatError: the format's values lie on no grid.
    """
    if isinstance(fmt, Integer | Fixed):
        return _whole(w, code, fmt)
    if not isinstance(fmt, Float):
        raise FormatError(f"operands: got {fmt}; allowed in a circuit: floats, integers and fixed point", "operands")
    m, width = fmt.mantissa_bits, fmt.bits - fmt.signed
    fraction, field = code[:m], code[m:width]
    below = w.let(~field.any()) if fmt.zero else NO
    kept = Mux(below, 0, fraction) if flush != "none" or not fmt.subnormals else fraction
    magnitude = w.let(Cat(kept[:m] if m else Const(0, 0), ~below))
    offset = w.let(Cat(field[0] | below, field[1:])) if fmt.zero else w.let(field)
    nan, infinite = specials(w, code, fmt)
    sign = code[width] if fmt.signed else NO
    if not fmt.has_negative_zero and fmt.signed:
        sign = w.let(sign & magnitude.any())
    if flush == "positive":
        sign = w.let(sign & ~below)
    grid, bias = fmt.grid, fmt.resolved_bias
    wide = grid.mantissa_bits
    return Exact(sign, magnitude, offset, -bias - wide, (1 << len(field)) - 1, 0, nan, infinite, least=int(fmt.zero))


def _whole(w: Wires, code: Value, fmt: Integer | Fixed) -> Exact:
    sign = code[fmt.bits - 1] if fmt.signed else NO
    magnitude = w.let(Mux(sign, -code.as_signed(), code)[: fmt.bits]) if fmt.signed else code
    return Exact(sign, magnitude, Const(0, 1), fmt.grid.smallest_exponent, 0, fmt.bits - 1)


def specials(w: Wires, code: Value, fmt: Float) -> tuple[Value, Value]:
    """(whether a code is NaN, whether it is an infinity)."""
    width, m = fmt.bits - fmt.signed, fmt.mantissa_bits
    magnitude, top = code[:width], (1 << width) - 1
    match fmt.specials:
        case "ieee":
            full = w.let(code[m:width].all())
            some = code[:m].any() if m else NO
            return w.let(full & some), w.let(full & ~some)
        case "fn":
            return w.let(magnitude == top), NO
        case "fnuz":
            return w.let(code == 1 << width), NO
        case "p3109":
            nan = code == (1 << width if fmt.signed else top)
            infinity = fmt.grid.infinity_code
            return w.let(nan), w.let(magnitude == infinity) & ~w.let(nan) if infinity is not None else NO
        case _:
            return NO, NO


def product(w: Wires, x: Exact, y: Exact) -> Exact:
    """The exact product, not normalised: its exponent is the sum of the exponents."""
    nan = w.let(x.nan | y.nan | (x.infinite & ~y.nonzero & ~y.infinite) | (y.infinite & ~x.nonzero & ~x.infinite))
    magnitude = w.let(x.magnitude * y.magnitude)
    return Exact(
        sign=w.let(x.sign ^ y.sign),
        magnitude=magnitude,
        offset=w.let(x.offset + y.offset),
        low=x.low + y.low,
        span=x.span + y.span,
        leading=len(magnitude) - 1,
        nan=nan,
        infinite=w.let((x.infinite | y.infinite) & ~nan),
    )


def as_special(x: Exact, w: Wires) -> Exact:
    """The same with magnitude 0 where it is NaN or infinite."""
    return replace(x, magnitude=w.let(Mux(x.nan | x.infinite, 0, x.magnitude)[: len(x.magnitude)]))


def joined_specials(w: Wires, terms: list[Exact]) -> tuple[Value, Value, Value]:
    """(NaN, infinite, the sign of the infinity) of a sum: infinities of both signs give NaN."""
    plus = w.let(any_of([t.infinite & ~t.sign for t in terms]))
    minus = w.let(any_of([t.infinite & t.sign for t in terms]))
    nan = w.let(any_of([t.nan for t in terms]) | (plus & minus))
    return nan, w.let((plus | minus) & ~nan), minus


def added(w: Wires, x: Exact, y: Exact, to: Format, guard: int, down: bool) -> Exact:
    """x + y, exactly or with `lost` set, kept to what rounding to a format with `guard` more bits can depend on.

    The number with the higher first place stays where it is, the other is shifted right. Bits are lost only where the other one
    lies so far below that the sum's first bit stands at most one below the larger number's: the window is wide enough for that,
    so that what is lost lies under the last bit that counts.

    Args:
        to: the format that the sum is rounded to.
        guard: how many bits behind its last one the rounding looks at.
        down: whether an exact zero of two signs is -0, as when rounding toward negative.
    """
    nan, infinite, minus = joined_specials(w, [x, y])
    wx, wy = len(x.magnitude), len(y.magnitude)
    smallest, digits = to.grid.smallest_exponent, to.grid.mantissa_bits + 1
    uniform = to.grid.uniform
    settled_x, settled_y = (t.low + t.least <= smallest and (t.leading == 0 or (uniform and t.span == 0)) for t in (x, y))
    lead_x, lead_y = (0 if settled else n - 1 for settled, n in ((settled_x, wx), (settled_y, wy)))
    window = max(digits + 1 + guard + max(lead_x, lead_y), wx + guard + 1 + lead_y, wy + guard + 1 + lead_x)
    tops = x.low + wx, y.low + wy
    kept = [top for top, settled in zip(tops, (settled_x, settled_y), strict=True) if settled]
    base = max(kept) if kept else min(tops)
    tx, ty = w.let(x.offset + (tops[0] - base)), w.let(y.offset + (tops[1] - base))
    gap = w.let(Value.cast(tx) - ty)
    above = w.let(gap >= 0)
    if not settled_y:
        above = w.let(above | ~y.nonzero)
    if not settled_x:
        above = w.let(above & (x.nonzero | ~y.nonzero))
    distance = w.let(Mux(gap >= 0, gap, -gap))
    by = w.let(Mux(distance > window, window, distance)[: window.bit_length()])
    place_x, place_y = Cat(Const(0, window - wx), x.magnitude), Cat(Const(0, window - wy), y.magnitude)
    big, small = w.let(Mux(above, place_x, place_y)), w.let(Mux(above, place_y, place_x))
    shifted, lost = w.shift_right(small, by)
    opposed = w.let(x.sign ^ y.sign)
    addend = w.let(Cat(shifted, Const(0, 2)) ^ opposed.replicate(window + 2))
    total = w.let((Cat(big, Const(0, 2)) + addend + (opposed & ~lost))[: window + 2])
    negative = w.let(opposed & total[window + 1])
    magnitude = w.let(Mux(negative, -total, total)[: window + 1])
    zero = w.let(~magnitude.any() & ~lost)
    of_zero = (x.sign & y.sign) | (opposed & int(down))
    sign = w.let(Mux(infinite, minus, Mux(zero, of_zero, Mux(above, x.sign, y.sign) ^ negative)))
    span = max(x.high + wx, y.high + wy) - base
    offset = w.unsigned(Mux(above, tx, ty), max(span, 1).bit_length())
    return Exact(sign, magnitude, offset, base - window, span, len(magnitude) - 1, nan, infinite, lost)
