"""Terms with scales, and exact sums of several: what float64 holds of them, and where the scales act."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mac_cases import bits

from hwsim.errors import FormatError
from hwsim.macs import Mac, Scaled, mac, matmul
from hwsim.macs.operands import holds_groups

FP32 = {"format": "fp32"}


def assert_equal_to_reference(a: Any, b: Any, unit: Any, c: torch.Tensor | None = None) -> torch.Tensor:
    found = matmul(a, b, unit, c)
    assert torch.equal(bits(found), bits(matmul(a, b, unit, c, backend="reference")))
    return found


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_a_sum_of_several_products_keeps_what_float64_would_lose() -> None:
    order = {"fused": {"terms": 8, "fraction_bits": 30, "exact_terms": 4}}
    near_one = 1 + 2.0**-10
    a = torch.tensor([[60000.0, near_one, -60000.0, 2.0**-20, 0, 0, 0, 0]])
    b = column(60000.0, 2.0**-14 * near_one, 60000.0, 2.0**-20, 1, 1, 1, 1)
    for operands in ({"operands": "fp16"}, {}):
        found = assert_equal_to_reference(a, b, mac({"order": order, "accumulator": FP32, **operands}))
        assert found.item() == (near_one**2 * 2.0**16 // 1) * 2.0**-30


@pytest.mark.parametrize(
    ("bits_kept", "operands", "scale", "held"),
    [
        (35, "fp4_e2m1fn", "fp8_e4m3fn", True),
        (35, "fp4_e2m1fn", "e8m0fnu", True),
        (40, "fp4_e2m1fn", "fp8_e4m3fn", False),
        (20, "fp8_e4m3fn", "e8m0fnu", True),
        (30, "fp8_e4m3fn", "e8m0fnu", False),
        (20, "fp4_e2m1fn", "fp32", False),
        (20, "fp16", "e8m0fnu", False),
    ],
)
def test_float64_holds_groups_of_short_operands(bits_kept: int, operands: str, scale: str, held: bool) -> None:
    order = {"fused": {"terms": 64, "fraction_bits": bits_kept, "exact_terms": 16}}
    scales = {"block": 16, "format": scale, "applied": "group"}
    unit = mac({"order": order, "accumulator": FP32, "operands": operands, "scales": scales})
    assert unit.operands is not None
    fmt = unit.operands.input[0]
    assert holds_groups(unit, fmt, fmt) is held
    assert not holds_groups(unit, None, fmt)
    rng = torch.Generator().manual_seed(bits_kept)
    a, b = (fmt.decode(torch.randint(0, 1 << fmt.bits, shape, generator=rng)).nan_to_num(0, 0, 0) for shape in ((2, 64), (64, 2)))
    sa, sb = (2.0 ** torch.randint(-4, 4, shape, generator=rng) for shape in ((2, 4), (4, 2)))
    assert_equal_to_reference(Scaled(a, sa), Scaled(b, sb), unit)


def test_scales_of_promotions_leave_exact_sums_alone() -> None:
    given = {
        "order": {"fused": {"terms": 8, "fraction_bits": 20, "exact_terms": 4}}, "operands": "fp4_e2m1fn", "accumulator": FP32,
        "scales": {"block": 8, "format": "fp32", "applied": "promotion"}, "promote": {"every": 8, "into": "fp32"},
    }  # fmt: skip
    a, b = Scaled(torch.ones(1, 16), torch.tensor([[3.0, 5.0]])), Scaled(torch.ones(16, 1), column(1.0, 2.0))
    assert assert_equal_to_reference(a, b, mac(given)).item() == 8 * 3 + 8 * 10


LATE = {"dot_bits": 20, "sum_bits": 20, "total_bits": 20}


@pytest.mark.parametrize("options", [{}, {"e_zero": -20}, {"e_zero": 3}, {"late": LATE}], ids=str)
def test_a_product_with_a_scale_of_zero_is_a_zero_term(options: dict[str, Any]) -> None:
    unit = mac(
        {
            "order": {"fused": {"terms": 4, "fraction_bits": 6, **options}}, "operands": "fp8_e4m3fn", "accumulator": FP32,
            "scales": {"block": 2, "format": "fp8_e4m3fn", "applied": "product"},
        }
    )  # fmt: skip
    # The last two products have large elements, and would cut the first two away.
    a = Scaled(torch.tensor([[1.25, 1.0, 256.0, 256.0]]), torch.tensor([[1.0, 0.0]]))
    b = Scaled(column(1.125, 1.0, 256.0, 256.0), column(1.0, 1.0))
    expected = {3: 2.375}.get(options.get("e_zero", 0), 1 + 1.25 * 1.125 // 2.0**-6 * 2.0**-6)
    assert assert_equal_to_reference(a, b, unit).item() == expected


@pytest.mark.parametrize(
    ("name", "split", "terms", "run"),
    [("deepseek_fp8", 3, 256, "runs of 86; .* runs of a multiple of 128"),
     ("nvidia_blackwell_nvfp4", 5, 64, "runs of 13; .* runs of a multiple of 16")],
)  # fmt: skip
def test_a_split_that_cuts_through_terms_of_one_scale_is_refused(name: str, split: int, terms: int, run: str) -> None:
    unit = mac(name).model_copy(update={"split_k": split})
    a, b = torch.ones(1, terms), torch.ones(terms, 1)
    blocks = terms // (unit.scales or pytest.fail("no scales")).block
    x, y = Scaled(a, torch.ones(1, blocks)), Scaled(b, torch.ones(blocks, 1))
    with pytest.raises(FormatError, match=run):
        matmul(x, y, unit)
    assert matmul(a, b, unit).item() == terms
    assert matmul(x, y, unit.model_copy(update={"split_k": 2})).item() == terms


@pytest.mark.parametrize("block", [4, 8])
def test_promotions_that_share_a_scale_are_each_multiplied_by_it(block: int) -> None:
    given = {
        "order": "sequential", "accumulator": FP32, "promote": {"every": 4, "into": "fp32"},
        "scales": {"block": block, "format": "fp32", "applied": "promotion"}, "split_k": 2,
    }  # fmt: skip
    scales = torch.arange(1.0, 16 // block + 1)
    expected = float(scales.sum()) * block
    x, y = Scaled(torch.ones(1, 16), scales[None]), Scaled(torch.ones(16, 1), torch.ones(16 // block, 1))
    assert assert_equal_to_reference(x, y, mac(given)).item() == expected


WIDE = {"kind": "float", "exponent_bits": 8, "mantissa_bits": 30}


def promoted(accumulator: Any, scale: str, into: Any) -> Mac:
    return mac(
        {
            "order": "sequential", "accumulator": {"format": accumulator}, "promote": {"every": 1, "into": into},
            "scales": {"block": 1, "format": scale, "applied": "promotion"},
        }
    )  # fmt: skip


def test_a_scaled_partial_sum_is_rounded_once() -> None:
    # Their product lies 2^-62 above a tie of 31 bits, at which float64 puts it.
    partial, scale = 1660781073.0, 1893838577.0
    one, a = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), partial, dtype=torch.float64)
    unit = promoted(WIDE, "fp64", WIDE)
    found = assert_equal_to_reference(Scaled(a, one * scale), Scaled(one, one), unit)
    assert found.item() == (1464621752 + 1) * 2.0**31


def test_the_product_of_two_scales_is_rounded_once() -> None:
    # 2^-64 above a tie of 24 bits.
    a, b = (torch.tensor([[s]], dtype=torch.float64) for s in (1 + 2.0**-40, 1 + 2.0**-24 - 2.0**-40))
    one = torch.ones(1, 1)
    found = assert_equal_to_reference(Scaled(one, a), Scaled(one, b), promoted("fp32", "fp64", "fp32"))
    assert found.item() == 1 + 2.0**-23
