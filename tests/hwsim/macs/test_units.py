"""The MAC language: what a unit may be, what is refused and how, and the shipped units."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hwsim.catalogue import shipped
from hwsim.config import canonical
from hwsim.errors import ConfigError
from hwsim.macs import Chunked, Fused, Mac, Rounded, mac, matmul

LATE = {"dot_bits": 32, "sum_bits": 24, "total_bits": 31}
FP16 = {"format": "fp16"}


def late_sum(**options: Any) -> dict[str, Any]:
    return {"terms": 8, "fraction_bits": 9, "late": LATE, **options}


def late(**options: Any) -> dict[str, Any]:
    return {"order": {"fused": late_sum(late={**LATE, **options})}, "accumulator": FP16}


@pytest.mark.parametrize("name", sorted(shipped("macs")))
def test_shipped_unit_names_itself_and_its_source_and_multiplies(name: str) -> None:
    unit = mac(name)
    assert unit.name == name
    assert unit.source
    a, b = torch.eye(3), torch.tensor([[1.0, 0.0, 1.0]] * 3)
    assert torch.equal(matmul(a, b, unit).float(), b)


@pytest.mark.parametrize("name", sorted(shipped("macs")))
def test_unit_survives_its_canonical_text(name: str) -> None:
    assert mac(json.loads(canonical(mac(name)))) == mac(name)


def test_defaults() -> None:
    unit = mac({"order": "sequential", "accumulator": FP16})
    assert (unit.product, unit.c.enters, unit.split_k, unit.promote) == ("exact", "first", 1, None)
    assert unit.accumulator.rounding.mode == "nearest_even"
    assert unit.accumulator.projection.overflow == "infinity"
    assert mac({"order": "fma", "accumulator": {"format": "fp8_e4m3fn"}}).accumulator.projection.overflow == "saturate"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("chunked(16)", Chunked(chunked=16)),
        ({"chunked": 16}, Chunked(chunked=16)),
        ("fused(16, 25)", Fused.model_validate({"fused": {"terms": 16, "fraction_bits": 25}})),
        ("fused(4, exact)", Fused.model_validate({"fused": {"terms": 4, "fraction_bits": "exact"}})),
    ],
)
def test_orders_may_be_written_short(given: Any, expected: Any) -> None:
    assert mac({"order": given, "accumulator": {"format": "fp32"}}).order == expected


def test_native_needs_nothing() -> None:
    assert mac("native") == Mac(name="native", order="native")
    assert mac("native").is_native


@pytest.mark.parametrize("fmt", ["posit8_2", "nf4", "lns8", "ternary", "binary", "mxfp4"])
@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("operands.input", lambda fmt: {"operands": fmt}),
        ("operands.weight", lambda fmt: {"operands": {"input": "fp16", "weight": ["fp16", fmt]}}),
        ("scales.format", lambda fmt: {"scales": {"block": 4, "format": fmt}}),
        ("c.format", lambda fmt: {"c": {"enters": "first", "format": fmt}}),
    ],
)
def test_a_format_whose_values_lie_on_no_grid_is_refused_by_its_field(
    where: str, given: Callable[[str], dict[str, Any]], fmt: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{where}: got .*; allowed: "):
        mac({"order": "fused(4, 9)", "accumulator": FP16, **given(fmt)})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"order": "sequental", "accumulator": FP16}, "did you mean 'sequential'?"),
        ({"order": "sequential"}, "accumulator: missing"),
        ({"order": {"chunked": 0}, "accumulator": FP16}, "allowed: a whole number >= 1"),
        ({"order": "fused(32, 60)", "accumulator": FP16}, "fraction_bits: got 60; allowed: 1 to 43 for 32 terms, or exact"),
        ({"order": {"fused": {"fraction_bits": 9}}, "accumulator": FP16}, "terms: missing"),
        ({"order": "fused(4, 9, round)", "accumulator": FP16}, "got 'round'"),
        (
            {"order": {"fused": {"terms": 4, "fraction_bits": 9, "product_limit": 128}}, "accumulator": FP16},
            "product_limit: got 128; allowed only where `late` says",
        ),
        (
            {"order": {"fused": {"terms": 4, "fraction_bits": 9, "e_zero": -99, "late": LATE}}, "accumulator": FP16},
            "e_zero: got -99; allowed only without `late`",
        ),
        (late(dot_bits=47), "dot_bits: got 47; allowed: 1 to 46 for 8 terms"),
        (late(sum_bits=51), "sum_bits: got 51"),
        (late(total_bits=51), "total_bits: got 51"),
        (late(drop_below=1001), "drop_below: got 1001"),
        ({"order": {"fused": late_sum(product_limit=5000)}, "accumulator": FP16}, "product_limit: got 5000"),
        ({"order": {"fused": late_sum(product_limit=-5000)}, "accumulator": FP16}, "product_limit: got -5000"),
        ({"order": "chunked(0)", "accumulator": FP16}, "got 'chunked(0)', with 0; allowed: whole numbers >= 1"),
        ({"order": "fused(4, 0)", "accumulator": FP16}, "got 'fused(4, 0)', with 0; allowed: whole numbers >= 1"),
        ({"order": "fused(0, exact)", "accumulator": FP16}, "got 'fused(0, exact)', with 0; allowed: whole numbers >= 1"),
        ({"order": "fma", "product": FP16, "accumulator": FP16}, "product: rounded to fp16; allowed: exact"),
        (
            {"order": "sequential", "accumulator": {"format": "fp32"}, "promote": {"every": 4, "into": "fp16"}},
            "does not hold every value",
        ),
        ({"order": "sequential", "accumulator": FP16, "promote": {"every": 0, "into": "fp32"}}, "allowed: a whole number >= 1"),
        (
            {"order": "sequential", "accumulator": {"format": "int8"}, "operands": "int8"},
            "int8 does not hold the product of int8 and int8",
        ),
        ({"order": "sequential", "accumulator": {"format": "fp16", "overflow": "wrap"}}, "got 'wrap' for fp16"),
        ({"order": "sequential", "accumulator": {"format": "uint8"}}, "allowed: a signed float"),
        ({"order": "fused(4, 9)", "accumulator": {"format": "int32"}}, "allowed: a float, where the order is fused"),
        (
            {
                "order": {"fused": {"terms": 4, "fraction_bits": 9, "exact_terms": 2, "grouping": "alternate_pairs"}},
                "accumulator": FP16,
            },
            "allowed only without `late` and exact_terms",
        ),
        (
            {"order": "fused(4, 9)", "accumulator": FP16, "scales": {"block": 32, "format": "fp32", "applied": "group"}},
            "exact_terms > 1, a divisor of the block",
        ),
        ({"order": "native", "split_k": 2}, "promises no rounding or order"),
        ({"order": "sequential", "accumulator": FP16, "c": "group"}, "allowed: first, last"),
        (
            {"order": "sequential", "accumulator": FP16, "scales": {"block": 32, "format": "fp32", "applied": "promotion"}},
            "`promote`",
        ),
        (
            {
                "order": "sequential",
                "accumulator": FP16,
                "promote": {"every": 128, "into": "fp32"},
                "scales": {"block": 64, "format": "fp32", "applied": "promotion"},
            },
            "every: got 128, whose partial sums have terms of several scales; allowed: a divisor of the block of 64 terms",
        ),
        (
            {
                "order": {"fused": {"terms": 8, "fraction_bits": 9, "exact_terms": 4}},
                "accumulator": FP16,
                "promote": {"every": 6, "into": "fp32"},
                "scales": {"block": 4, "format": "fp32", "applied": "group"},
            },
            "every: got 6, which cuts through exact sums of scaled terms; allowed: a multiple of the 4 exact_terms",
        ),
        ({"order": "sequential", "acumulator": FP16, "accumulator": FP16}, "did you mean 'accumulator'?"),
    ],
    ids=lambda given: json.dumps(given, default=str)[:60] if isinstance(given, dict) else "",
)
def test_a_unit_that_cannot_exist_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mac(given)
    assert text in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nvidia_hopper_fp8'"):
        mac("nvidia_hoper_fp8")


def test_hopper_cuts_what_blackwell_keeps() -> None:
    a = torch.tensor([[1.0, *[2.0**-7] * 31]])
    b = torch.tensor([[1.0], *[[2.0**-7]] * 31])
    assert matmul(a, b, "nvidia_hopper_fp8").item() == 1.0
    assert matmul(a, b, "nvidia_blackwell_fp8").item() == 1 + 31 * 2.0**-14


def test_mma_sync_fp8_overflows_inside_a_finite_sum() -> None:
    a, b = torch.zeros(1, 32), torch.zeros(32, 1)
    a[0, 0], b[0, 0], a[0, 2], b[2, 0] = 448.0, 448.0, -448.0, 448.0
    c = torch.ones(1, 1)
    assert matmul(a, b, "nvidia_hopper_mma_sync_fp8_to_fp16", c).item() == torch.inf
    assert matmul(a, b, "nvidia_hopper_mma_sync_fp8", c).item() == 1.0


def test_a_place_of_rounding_may_be_made_in_python() -> None:
    from hwsim.formats import Float

    unit = Mac(order="sequential", accumulator=Rounded(format=Float(5, 10)))
    assert matmul(torch.ones(1, 2), torch.ones(2, 1), unit).item() == 2.0
