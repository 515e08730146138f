"""The vector unit's steps written out one number at a time in exact rational arithmetic, apart from the code that they test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from hwsim.fields import format_record
from hwsim.formats import Projection
from hwsim.formats.reference import project

Row = list[Fraction]
ROUND = Projection(overflow="infinity")


def rows_of(x: Tensor) -> list[Row]:
    """The rows of a matrix."""
    return [[Fraction(v) for v in row] for row in x.detach().double().tolist()]


def transposed(rows: list[Row]) -> list[Row]:
    """The columns of a matrix."""
    return [list(column) for column in zip(*rows, strict=True)]


class Unit:
    """A vector unit: the format of each step by name, float32 unless given, `out` for results; and how it adds.

    `order` is `sequential`, `pairwise` or the size of a chunk.
    """

    def __init__(self, formats: dict[str, str], order: str | int) -> None:
        self.formats = {name: format_record(fmt) for name, fmt in formats.items()}
        self.order = order

    def r(self, x: Fraction, step: str = "") -> Fraction:
        """The exact number rounded to a step's format."""
        return Fraction(project(x, self.formats.get(step, format_record("fp32")), ROUND))

    def exp(self, x: Fraction) -> Fraction:
        return self.r(Fraction(math.exp(float(x))), "exp")

    def log(self, x: Fraction) -> Fraction:
        return self.r(Fraction(math.log(float(x))), "log")

    def rsqrt(self, x: Fraction, eps: float) -> Fraction:
        return self.r(Fraction(1 / math.sqrt(float(x) + eps)), "rsqrt")

    def mean(self, row: Row) -> Fraction:
        return self.r(self.sum(row) / len(row), "mean")

    def sum(self, row: Row) -> Fraction:
        """The elements in the declared order, each partial sum rounded; in a tree neighbours are added, an odd one moves up."""
        if self.order == "pairwise":
            level = row
            while len(level) > 1:
                pairs = [self.r(a + b, "sum") for a, b in zip(level[::2], level[1::2], strict=False)]
                level = pairs + level[len(pairs) * 2 :]
            return self.r(level[0], "sum")
        size = len(row) if self.order == "sequential" else int(self.order)
        return self._running([self._running(row[i : i + size]) for i in range(0, len(row), size)])

    def _running(self, row: Row) -> Fraction:
        total = Fraction(0)
        for x in row:
            total = self.r(total + x, "sum")
        return total

    def out(self, row: Sequence[Fraction]) -> list[float]:
        return [float(self.r(x, "out")) for x in row]

    def shifted(self, row: Row) -> Row:
        return [self.r(x - max(row)) for x in row]

    def softmax(self, row: Row) -> list[float]:
        e = [self.exp(d) for d in self.shifted(row)]
        s = self.sum(e)
        return self.out([self.r(x / s) for x in e])

    def softmax_backward(self, g: Row, y: Row) -> list[float]:
        s = self.sum([self.r(a * b) for a, b in zip(g, y, strict=True)])
        return self.out([self.r(self.r(a - s) * b) for a, b in zip(g, y, strict=True)])

    def log_softmax(self, row: Row) -> list[float]:
        d = self.shifted(row)
        log = self.log(self.sum([self.exp(x) for x in d]))
        return self.out([self.r(x - log) for x in d])

    def log_softmax_backward(self, g: Row, y: Row) -> list[float]:
        s = self.sum(g)
        return self.out([self.r(a - self.r(self.exp(b) * s)) for a, b in zip(g, y, strict=True)])

    def moments(self, row: Row, eps: float) -> tuple[Fraction, Fraction]:
        """Mean and inverse deviation."""
        mean = self.mean(row)
        squares = [self.r(d * d) for d in (self.r(x - mean) for x in row)]
        return mean, self.rsqrt(self.r(self.sum(squares) / len(row), "variance"), eps)

    def normal(self, row: Row, moments: tuple[Fraction, Fraction]) -> Row:
        return [self.r(self.r(x - moments[0]) * moments[1]) for x in row]

    def affine(self, row: Row, weight: Row, bias: Row) -> list[float]:
        return self.out([self.r(self.r(n * w) + b) for n, w, b in zip(row, weight, bias, strict=True)])

    def norm_backward(self, g: Row, normal: Row, weight: Row, inverse: Fraction) -> list[float]:
        """The gradient of a norm's input."""
        scaled = [self.r(a * w) for a, w in zip(g, weight, strict=True)]
        mean, slope = self.mean(scaled), self.mean(self.products(scaled, normal))
        terms = zip(scaled, normal, strict=True)
        return self.out([self.r(self.r(self.r(a - mean) - self.r(n * slope)) * inverse) for a, n in terms])

    def products(self, a: Row, b: Row) -> Row:
        return [self.r(x * y) for x, y in zip(a, b, strict=True)]
