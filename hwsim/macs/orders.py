"""The orders in which a unit adds: words, chunks, and fused groups with their alignment."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from hwsim.config.record import Record
from hwsim.errors import not_allowed

Count = Annotated[int, Field(ge=1)]
WORDS = ("native", "sequential", "fma", "pairwise")
EXACT_SUM_BITS = 52
MAX_BITS, MAX_EXPONENT = 50, 1000
Bits = Annotated[int, Field(ge=1, le=MAX_BITS)]
Cut = Literal["truncate", "floor", "nearest", "sticky"]


class LateSum(Record):
    """The running sum joins after the products have been summed, as on AMD CDNA3.

    With e the larger of the two exponents, the dot product is rounded down to 2^(e - dot_bits), the running sum to
    2^(e - sum_bits) (and dropped where its exponent is below e - drop_below), and their total, normalised, to `total_bits`
    fraction bits, before the accumulator's own rounding.
    """

    dot_bits: Bits
    sum_bits: Bits
    total_bits: Bits
    drop_below: Annotated[int, Field(ge=1, le=MAX_EXPONENT)] | None = None


class Alignment(Record):
    """A fused group of products: aligned to the largest exponent, cut, summed exactly, rounded once.

    Products are not normalised: the exponent of a product is the sum of its operands' exponents (those of their formats, so that
    subnormals have the smallest), its significand the product of theirs. With e the largest exponent, each term is cut at
    2^(e - fraction_bits). The running sum is one more term, with an exponent of C's format, unless it joins late.

    Args:
        terms: L, how many products a group has; all of them when absent.
        fraction_bits: F, or `exact`: no alignment, the exact sum.
        alignment: `truncate` toward zero, `floor` toward minus infinity, `nearest` with ties to even, `sticky`: truncate,
            with one more bit that is set where anything was cut.
        e_zero: the exponent that a zero term takes part with; without it zeros have none.
        grouping: `consecutive`; `even_odd`: even and odd terms of a group are aligned and summed apart, then joined with floor at
            fraction_bits; `alternate_pairs`: in each 2 L terms, those with k mod 4 in {0, 1} are the first group.
        exact_terms: G, how many products are summed exactly before they are scaled and aligned as one term.
        product_limit: the exponent from which on a product is an infinity.
        late: how the running sum joins late.
        negative_zero: whether a negative sum that is rounded to zero gives -0; +0 otherwise, and where the sum itself is zero.
    """

    terms: Count | None = None
    fraction_bits: Annotated[int, Field(ge=1)] | Literal["exact"]
    alignment: Cut = "truncate"
    e_zero: Annotated[int, Field(ge=-600, le=600)] | None = None
    grouping: Literal["consecutive", "even_odd", "alternate_pairs"] = "consecutive"
    exact_terms: Count = 1
    product_limit: Annotated[int, Field(ge=-MAX_EXPONENT, le=MAX_EXPONENT)] | None = None
    late: LateSum | None = None
    negative_zero: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Alignment:
        if self.fraction_bits == "exact":
            aligned = [self.e_zero, self.late, self.product_limit]
            if any(given is not None for given in aligned) or self.grouping == "even_odd" or self.exact_terms > 1:
                raise ValueError(
                    "fraction_bits: got 'exact'; allowed: a number of bits where e_zero, late, product_limit, even_odd or "
                    "exact_terms are given"
                )
            return self
        if self.terms is None:
            raise ValueError(
                "terms: missing; allowed: a number of terms from 1 on (all of them only with `fraction_bits: exact`)"
            )
        limit = EXACT_SUM_BITS - 3 - self.terms.bit_length()
        if self.fraction_bits > limit:
            raise ValueError(f"fraction_bits: got {self.fraction_bits}; allowed: 1 to {limit} for {self.terms} terms, or exact")
        if self.product_limit is not None and self.late is None:
            raise ValueError(f"product_limit: got {self.product_limit}; allowed only where `late` says how the running sum joins")
        limit = EXACT_SUM_BITS - 2 - self.terms.bit_length()
        if self.late is not None and self.late.dot_bits > limit:
            raise ValueError(f"dot_bits: got {self.late.dot_bits}; allowed: 1 to {limit} for {self.terms} terms")
        if self.late is not None and self.e_zero is not None:
            raise ValueError(f"e_zero: got {self.e_zero}; allowed only without `late`, where zero products have no exponent")
        if self.grouping == "even_odd" and self.late is None:
            raise ValueError("grouping: got 'even_odd'; allowed only where `late` says how the running sum joins")
        if self.grouping == "alternate_pairs" and (self.late or self.exact_terms > 1):
            raise ValueError("grouping: got 'alternate_pairs'; allowed only without `late` and exact_terms")
        if self.exact_terms > 1 and (self.terms % self.exact_terms or self.late is not None):
            raise ValueError(f"exact_terms: got {self.exact_terms}; allowed: a divisor of the {self.terms} terms, without `late`")
        return self


ALONE = Alignment(terms=1, fraction_bits="exact")
"""Products that are added one by one."""


class Fused(Record):
    """Groups of products, each aligned and summed with the running sum and rounded once; chained over K."""

    fused: Alignment


class Chunked(Record):
    """Each `chunked` terms are summed from +0 in an inner accumulator (or by a tree), then added to the outer one."""

    chunked: Count
    inner: Literal["sequential", "pairwise"] = "sequential"


Order = Literal["native", "sequential", "fma", "pairwise"] | Chunked | Fused


def _order(given: Any) -> Any:
    if not isinstance(given, str) or given in WORDS:
        return given
    if call := re.fullmatch(r"chunked\((\d+)\)", given):
        _check_counts(given, call[1])
        return {"chunked": int(call[1])}
    if call := re.fullmatch(r"fused\((\d+), ?(\d+|exact)(?:, ?(\w+))?\)", given):
        if call[3] and call[3] not in get_args(Cut):
            raise ValueError(not_allowed("alignment", call[3], get_args(Cut)))
        _check_counts(given, call[1], call[2])
        bits: int | str = call[2] if call[2] == "exact" else int(call[2])
        return {"fused": {"terms": int(call[1]), "fraction_bits": bits, "alignment": call[3] or "truncate"}}
    raise ValueError(not_allowed("order", given, (*WORDS, "chunked(n)", "fused(terms, fraction_bits)")))


def _check_counts(order: str, *counts: str) -> None:
    for count in counts:
        if count != "exact" and not int(count):
            raise ValueError(f"order: got {order!r}, with {count}; allowed: whole numbers >= 1")


OrderField = Annotated[Order, BeforeValidator(_order)]
