"""What every generator is written in: named wires, shifters that keep track of what they lose, a leading-zero count."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value


class Wires:
    """A combinational module being written; every value used more than once gets a wire, so that logic is not written twice."""

    def __init__(self) -> None:
        self.module = Module()

    def let(self, value: Value | int) -> Value:
        """A wire that carries a value."""
        value = Value.cast(value)
        if isinstance(value, Signal | Const):
            return value
        wire = Signal(value.shape())
        self.module.d.comb += wire.eq(value)
        return wire

    def unsigned(self, value: Value, bits: int) -> Value:
        """The low bits of a value, on a wire."""
        return self.let(Cat(value, Const(0, max(bits - len(value), 0)))[:bits]) if bits else Const(0, 0)

    def shift_left(self, value: Value, amount: Value, bits: int) -> Value:
        """value 2^amount modulo 2^bits."""
        out = self.unsigned(value, bits)
        for stage in range(len(amount)):
            by = 1 << stage
            moved = Cat(Const(0, min(by, bits)), out[: max(bits - by, 0)])
            out = self.let(Mux(amount[stage], moved, out))
        return out

    def shift_right(self, value: Value, amount: Value) -> tuple[Value, Value]:
        """(floor(value / 2^amount), whether that lost a set bit)."""
        out, lost, bits = self.let(value), Value.cast(Const(0, 1)), len(value)
        for stage in range(len(amount)):
            by = min(1 << stage, bits)
            lost = self.let(lost | (amount[stage] & out[:by].any()))
            out = self.let(Mux(amount[stage], Cat(out[by:], Const(0, by)), out))
        return out, lost

    def leading_zeros(self, value: Value) -> Value:
        """How many zeros stand before the first set bit; of zero, at least as many as there are bits but one."""
        bits = max(len(value) - 1, 1).bit_length()
        out = self.let(Cat(Const(1, (1 << bits) - len(value)), value)) if len(value) < 1 << bits else self.let(value)
        count: list[Value] = []
        for stage in reversed(range(bits)):
            half = 1 << stage
            empty = self.let(~out[half:].any())
            count.append(empty)
            out = self.let(Mux(empty, out[:half], out[half:]))
        return self.let(Cat(*reversed(count)))

    def smaller(self, x: Value, y: Value) -> Value:
        """The smaller of two unsigned values."""
        return self.let(Mux(x < y, x, y))

    def larger(self, x: Value, y: Value) -> Value:
        """The larger of two unsigned values."""
        return self.let(Mux(x > y, x, y))

    def largest(self, values: Sequence[Value]) -> Value:
        """The largest of unsigned values, by a tree."""
        left = list(values)
        while len(left) > 1:
            pairs = [self.larger(x, y) for x, y in zip(left[::2], left[1::2], strict=False)]
            left = pairs + (left[-1:] if len(left) % 2 else [])
        return left[0]

    def total(self, values: Sequence[Value]) -> Value:
        """The sum of values, by a tree."""
        left = list(values)
        while len(left) > 1:
            pairs = [self.let(x + y) for x, y in zip(left[::2], left[1::2], strict=False)]
            left = pairs + (left[-1:] if len(left) % 2 else [])
        return left[0]


def any_of(bits: Sequence[Value]) -> Value:
    """Whether one of the bits is set."""
    return reduce(or_, bits, Value.cast(Const(0, 1)))
