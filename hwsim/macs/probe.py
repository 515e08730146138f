"""What a dot product given as a function does: its order, group length, fraction bits and rounding, as a unit's YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from hwsim.errors import FormatError
from hwsim.fields import format_record
from hwsim.formats import Float, Integer
from hwsim.formats.base import round_log2
from hwsim.formats.operators import quantize_tensor

from .probe_cases import Case, Cases, Dot, Found, check_repeats, guarded
from .probe_integers import accumulator, integer_candidates, integer_cases
from .record import Mac
from .summation import C, Node, Tree, declared_tree, found_tree, label
from .units import mac as unit

ROUNDINGS = ("nearest_even", "toward_zero", "nearest_away", "toward_negative", "toward_positive", "to_odd", "nearest_zero")
ALIGNMENTS = ("truncate", "floor", "nearest", "sticky")
OVERFLOWS = (None, "always_infinity", "saturate")
LATE: tuple[dict[str, Any], ...] = (
    {"late": {"dot_bits": 32, "sum_bits": 24, "total_bits": 31}, "negative_zero": True},
    {"late": {"dot_bits": 32, "sum_bits": 24, "total_bits": 31, "drop_below": 25}, "negative_zero": True, "grouping": "even_odd"},
)
"""How running sums are known to join late: on AMD CDNA3."""
SEEN, INTEGERS_SEEN, CHECKED = 24, 400, 100
DOUBLE_BITS = 52
"""Of a result's fraction, as it is a float64."""
SPREAD = 7
"""Of operands' exponents about zero: products reach over 28 binades and no further, so that half precision holds each."""
LIMIT = 1000
"""Of exponents, so that sums stay within float64."""


def probe(dot: Dot, operands: Float | Integer | str = "fp16", terms: int = 64, seed: int = 0) -> Found:
    """The unit that a function computes, and how many random dot products confirm it.

    Found are the order of the sums (any of the language's; late sums by AMD CDNA3's rules), the length of groups and chunks,
    fraction bits, alignment, the accumulator's format, rounding and overflow, the rounding of products, where C enters; of
    integers the width, whether sums wrap or saturate, and the order of sums that saturate. Not looked for: exponents
    of zeros and what becomes of subnormals, which the operands that are tried do not show; scales of blocks, which `dot` is not
    given.

    Args:
        dot: called with two float64 vectors of `terms` values of the operands' format, and C.
        operands: the format of A and B, a float or an integer.
        terms: K: at least two of the chunks or groups to be found.

    Raises:
        FormatError: two equal calls differ, as with stochastic rounding; the format's range is too narrow to tell terms apart.
        ConfigError: the function fails.
    """
    call, fmt, rng = guarded(dot), format_record(operands), torch.Generator().manual_seed(seed)
    if isinstance(fmt, Integer):
        return _of_integers(call, fmt, terms, rng)
    if not isinstance(fmt, Float):
        raise FormatError(f"operands: got {fmt}; allowed: a float or integer format")
    check_repeats(call, next(_random(fmt, terms, torch.Generator().manual_seed(1), 1)))
    given = _Given(call, fmt, terms)
    tree = found_tree([C, *range(terms)], given.below)
    order = next((order for order in _orders(terms, tree) if declared_tree(_sample(order), terms) == tree), None)
    if order is None:
        return Found(None, label(tree), 0, 0)
    seen = Cases.of(call, [*given.battery(tree), *_random(fmt, terms, rng, SEEN), *_spread(fmt, terms, rng, SEEN)])
    fewest, best = seen.best(given.candidates(order, tree))
    if best is None:
        return Found(None, label(tree), 0, 0)
    confirming, apart = Cases.of(call, list(_random(fmt, terms, rng, CHECKED))), given.large - given.small
    close = isinstance(tree, Node) and _any_exact(tree) and apart <= DOUBLE_BITS
    note = f"Products of {fmt} lie at most {apart} binades apart: a cut further down would not show." if close else ""
    return Found(best, label(tree), CHECKED, max(fewest, confirming.differing(unit(best))), note)


def _of_integers(dot: Dot, fmt: Integer, terms: int, rng: torch.Generator) -> Found:
    place = accumulator(dot, terms)
    if place is None:
        return Found(None, "no integer accumulator of up to 32 bits", 0, 0)
    bits, overflow = place
    seen, confirming = (Cases.of(dot, list(integer_cases(fmt, bits, terms, count, rng))) for count in (INTEGERS_SEEN, CHECKED))
    fewest, best = seen.best(integer_candidates(fmt, bits, overflow, terms))
    if best is None:
        raise ValueError("no candidates")
    note = "Sums that wrap are the same in every order, which their results therefore do not show." if overflow == "wrap" else ""
    found = unit(best)
    return Found(best, label(declared_tree(found, terms) or 0), CHECKED, max(fewest, confirming.differing(found)), note)


def _random(fmt: Float, terms: int, rng: torch.Generator, count: int) -> Iterator[Case]:
    """Normally distributed operands, and C."""
    for _ in range(count):
        spread = torch.randint(-2, 3, (2, terms), generator=rng).double().exp2()
        a, b = quantize_tensor(torch.randn(2, terms, generator=rng, dtype=torch.float64) * spread, fmt)
        yield a, b, torch.randn((), generator=rng).half().item()


def _spread(fmt: Float, terms: int, rng: torch.Generator, count: int) -> Iterator[Case]:
    """Full significands at exponents far enough apart that products are cut in alignment where normal operands' are not.

    None, where the format has not two binades of normal values around one.
    """
    low, high = max(round_log2(fmt.smallest_normal), -SPREAD), min(round_log2(fmt.max), SPREAD)
    for _ in range(count if low < high else 0):
        signs, exponents = (torch.randint(*ends, (2, terms), generator=rng).double() for ends in ((0, 2), (low, high)))
        a, b = (2 - 2.0**-fmt.mantissa_bits) * (2 * signs - 1) * exponents.exp2()
        yield a, b, 0.0


class _Given:
    """The function, and the values that tell its terms apart."""

    def __init__(self, dot: Dot, fmt: Float, terms: int) -> None:
        self.fmt, self.terms, self.dot = fmt, terms, dot
        self.low, self.high = round_log2(fmt.smallest_normal), round_log2(fmt.max)
        self.lowest = round_log2(fmt.smallest_subnormal)
        self.large, self.small = self.magnitudes()

    def of(self, products: Mapping[int, tuple[float, int]]) -> tuple[Tensor, Tensor, float]:
        """Operands whose k-th product is m 2^e for (m, e), m a value of the format from 1 to 2; others are zero."""
        a, b = torch.zeros(self.terms, dtype=torch.float64), torch.zeros(self.terms, dtype=torch.float64)
        c = 0.0
        for k, (m, e) in products.items():
            if k == C:
                c = m * 2.0**e
                continue
            half = min(max(e - e // 2, self.lowest if abs(m) == 1.0 else self.low), self.high)
            a[k], b[k] = m * 2.0**half, 2.0 ** (e - half)
        return a, b, c

    def value(self, products: Mapping[int, tuple[float, int]]) -> float:
        return self.dot(*self.of(products))

    def magnitudes(self) -> tuple[int, int]:
        """The exponents of M and u: the furthest apart that are represented, M swallowing u."""
        leaves = (C, *range(self.terms))
        smalls = (2 * self.lowest, 2 * self.low, self.lowest, self.low, self.low // 2)
        larges = (2 * self.high, 2 * self.high - 1, self.high, self.high // 2)
        for large, small in product((e for e in larges if e <= LIMIT), (e for e in smalls if e >= -LIMIT)):
            everywhere = self.value(dict.fromkeys(leaves, (1.0, small))) == len(leaves) * 2.0**small
            alone = all(self.value({k: (1.0, large)}) == 2.0**large for k in (C, 0))
            if everywhere and alone and self.value({0: (1.0, large), 1: (1.0, small)}) == 2.0**large:
                return large, small
        raise FormatError(f"probe: the range of {self.fmt} is too narrow to tell terms apart; allowed: wider operands")

    def below(self, i: int, j: int) -> int:
        """Terms under the lowest common node of two (see summation)."""
        products = dict.fromkeys((C, *range(self.terms)), (1.0, self.small))
        products |= {i: (1.0, self.large), j: (-1.0, self.large)}
        return self.terms + 1 - round(self.value(products) / 2.0**self.small)

    def kept(self, places: Sequence[int], cancel: bool) -> int:
        """The most t up to which 2^e + 2^(e-t), or with `cancel` 2^e + 2^(e-t) - 2^e, is exact in these places."""
        e = self.large
        most = e - self.small if cancel else min(e - self.small, DOUBLE_BITS)
        for t in range(1, most + 1):
            products = {places[0]: (1.0, e), places[1]: (1.0, e - t)}
            if cancel:
                products[places[2]] = (-1.0, e)
            if self.value(products) != (0.0 if cancel else 2.0**e) + 2.0 ** (e - t):
                return t - 1
        return most

    def exponent_bits(self) -> int:
        """Of the result, by the largest power of two that C passes as."""
        largest = next((e for e in (1023, 511, 255, 127, 63, 31, 15, 7) if self.dot(*self.of({C: (1.0, e)})) == 2.0**e), 7)
        return largest.bit_length() + 1

    def candidates(self, order: Mapping[str, Any], tree: Tree) -> Iterator[dict[str, Any]]:
        """Units with this order, likely ones first."""
        together = _together(tree)
        bits = self.exponent_bits()
        mantissa = self.kept(together, cancel=False)
        acc = _named(bits, mantissa)
        outer = order.get("promote", {}).get("every")
        wide = _named(bits, self.kept((0, outer), cancel=False)) if outer else None
        fused = isinstance(order["order"], dict) and "fused" in order["order"]
        exact = fused and order["order"]["fused"]["fraction_bits"] == "exact"
        fraction = self.kept(together, cancel=True) if fused and not exact else None
        products: list[Any] = ["exact"] if fused else ["exact", None, self.fmt.name, "fp32"]
        alignments = ALIGNMENTS if fraction is not None else ("",)
        inputs = [None, "fp32"] if mantissa < 23 else [None]
        late = [{}] if fraction is None or "grouping" in order["order"]["fused"] else [{}, *LATE]
        for joins, p, cut, rounding, overflow, c in product(late, products, alignments, ROUNDINGS, OVERFLOWS, inputs):
            place = {"format": acc, "rounding": rounding, **({"overflow": overflow} if overflow else {})}
            given: dict[str, Any] = {**order, "operands": self.fmt.name, "accumulator": place}
            if p != "exact":
                given["product"] = place if p is None else {"format": p}
            if fraction is not None:
                how = {**order["order"]["fused"], "fraction_bits": fraction, "alignment": cut}
                given["order"] = {"fused": how | joins}
            if wide is not None:
                given["promote"] = {"every": outer, "into": wide}
            if c is not None:
                given["c"] = {**order.get("c", {"enters": "first"}), "format": c}
            yield given

    def battery(self, tree: Tree) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Sums at and between the accumulator's values, of either sign; full significands; overflow."""
        x, y, z = (*_together(tree), 0)[:3]
        m, e = self.kept((x, y), cancel=False), self.large
        for s, odd, (v, down) in product((1.0, -1.0), (False, True), ((1.0, 2), (1.0, 1), (1.5, 1), (1.5, 2))):
            if e - m - down < self.small:
                continue
            products = {x: (s, e), y: (s * v, e - m - down)} | ({z: (s, e - m)} if odd and z not in (x, y) else {})
            yield self.of(products)
            yield self.of(products | {y: (-s * v, e - m - down)})
        full = 2.0 - 2.0**-self.fmt.mantissa_bits
        for k in (x, y):
            a, b, _ = self.of({k: (1.0, 0)})
            yield a * full, b * full, 0.0
        if self.large == 2 * self.high:
            for s in (1.0, -1.0):
                yield self.of(dict.fromkeys(range(self.terms), (s, self.large)))


def _orders(terms: int, tree: Tree) -> Iterator[dict[str, Any]]:
    """The orders that a tree may be of, each once."""
    exact = "exact" if isinstance(tree, Node) and _any_exact(tree) else 1
    fused = [{"fused": {"terms": n, "fraction_bits": exact, **extra}} for n in range(2, terms + 1)
             for extra in ({}, {"grouping": "alternate_pairs"})]  # fmt: skip
    inner: list[Any] = ["sequential", *fused, "pairwise"]
    sizes = range(2, terms)
    for c in ("first", "last"):
        yield from ({"order": order, "c": {"enters": c}} for order in inner)
        for n in sizes:
            yield from ({"order": {"chunked": n, "inner": kind}, "c": {"enters": c}} for kind in ("sequential", "pairwise"))
    for n in (2**i for i in range(1, terms.bit_length())):
        for order in fused:
            if order["fused"]["terms"] <= n < terms:
                yield {"order": order, "c": {"enters": "first"}, "promote": {"every": n}}


def _sample(order: Mapping[str, Any]) -> Mac:
    """A unit of this order, with some formats."""
    promote = {"promote": {**order["promote"], "into": "fp32"}} if "promote" in order else {}
    return unit({**order, **promote, "accumulator": {"format": "fp32"}})


def _any_exact(tree: Tree) -> bool:
    return isinstance(tree, Node) and (tree.exact or any(_any_exact(child) for child in tree.children))


def _together(tree: Tree) -> tuple[int, ...]:
    """Products that meet first: the leaves of the lowest node that has two of them, in order."""
    found: list[tuple[int, ...]] = []

    def visit(node: Tree) -> None:
        if isinstance(node, Node):
            leaves = tuple(sorted(child for child in node.children if isinstance(child, int) and child != C))
            found.extend([leaves] if len(leaves) > 1 else [])
            for child in node.children:
                visit(child)

    visit(tree)
    return min(found, default=(0, 1, 2))


def _named(exponent_bits: int, mantissa_bits: int) -> Any:
    """A shipped name of an IEEE-like float, or its mapping."""
    names = {(11, 52): "fp64", (8, 23): "fp32", (5, 10): "fp16", (8, 7): "bf16", (6, 5): "fp12_e6m5"}
    mapping = {"kind": "float", "exponent_bits": exponent_bits, "mantissa_bits": mantissa_bits}
    return names.get((exponent_bits, mantissa_bits), mapping)
