"""The triton backend gives the reference's bits: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mac_cases import NANS, bits, operands

from hwsim.catalogue import shipped
from hwsim.errors import FormatError
from hwsim.formats import Draw
from hwsim.formats.backends import gpu
from hwsim.formats.errors import NanError
from hwsim.macs import Mac, Scaled, mac, matmul
from hwsim.macs import gpu as gpu_matmul

pytest.importorskip("triton")
# The interpreter computes both sides of every choice, the side not taken too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRAW = Draw(seed=1 << 40, site="layer", step=3, offset=5)
FP64 = {"format": "fp64"}
FIXED = {"kind": "fixed", "bits": 12, "fraction_bits": 4}
WIDE = {"kind": "float", "exponent_bits": 8, "mantissa_bits": 30}
ROUNDINGS: tuple[Any, ...] = (
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "toward_positive", "toward_negative", "to_odd",
    "stochastic(8)", {"mode": "stochastic", "random_bits": 5, "variant": "B"},
    {"mode": "stochastic", "random_bits": 5, "variant": "C"},
)  # fmt: skip
ORDERS: tuple[Any, ...] = (
    "sequential", "pairwise", "chunked(3)", {"chunked": 4, "inner": "pairwise"}, "fused(4, 13)", "fused(4, 13, floor)",
    "fused(4, 10, nearest)", "fused(4, 5, sticky)",
)  # fmt: skip
FORMATS: tuple[Any, ...] = ("fp32", "fp16", "fp8_e5m2", "fp8_e4m3fnuz", FIXED)
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"promote": {"every": 5, "into": "fp32"}}, {"c": "last", "split_k": 2}, {"flush_results": True, "flush_inputs": "signed"},
)  # fmt: skip
UNITS = {
    "int4_int16_saturate": 5, "deepseek_fp8": 18, "nvidia_blackwell_nvfp4": 18, "nvidia_blackwell_mxfp8": 18,
    "nvidia_hopper_mma_sync_fp8": 18, "fp8_fp12_stochastic": 5, "amd_cdna2_fp16": 6, "amd_cdna1_bf16": 3, "amd_cdna3_fp16": 9,
    "amd_cdna3_fp8": 18, "nvidia_hopper_fp64": 2,
}  # fmt: skip
"""With numbers of terms."""


def on_gpu(value: Any) -> Any:
    if isinstance(value, Scaled):
        return Scaled(value.values.to(DEVICE), value.scales.to(DEVICE))
    return value if value is None else value.to(DEVICE)


def assert_equal_to_reference(a: Any, b: Any, unit: Mac, c: torch.Tensor | None = None) -> None:
    expected = matmul(a, b, unit, c, DRAW, backend="reference")
    found = matmul(on_gpu(a), on_gpu(b), unit, on_gpu(c), DRAW, backend="triton").cpu()
    assert found.dtype == expected.dtype
    assert torch.equal(bits(found), bits(expected)), unit


def some(order: Any, fmt: Any, rounding: Any, options: dict[str, Any], seed: int) -> None:
    """One unit on special values."""
    if isinstance(fmt, dict) and (str(order).startswith("fused") or options.get("flush_results")):
        return
    if "promote" in options and fmt == FIXED:
        return
    unit = mac({"order": order, "accumulator": {"format": fmt, "rounding": rounding, "nan": "zero"}, **options})
    a, b, c = operands(seed, (2, 7)), operands(seed + 100, (7, 3)), operands(seed + 200, (2, 3)) if seed % 3 else None
    assert_equal_to_reference(a, b, unit, c)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_orders(order: Any) -> None:
    place = ORDERS.index(order)
    for seed in (place, place + 1):
        some(order, FORMATS[seed % 4], ROUNDINGS[(seed + place) % 8], OPTIONS[seed % 4], seed)


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
def test_roundings_of_products_and_sums(rounding: Any) -> None:
    place = {"format": "fp16", "rounding": rounding}
    assert_equal_to_reference(
        operands(2, (3, 3)), operands(4, (3, 3)), mac({"order": "sequential", "product": place, "accumulator": place})
    )


@pytest.mark.large
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order_format_rounding_and_option(order: Any, fmt: Any) -> None:
    for seed, rounding in enumerate(ROUNDINGS):
        for n, options in enumerate(OPTIONS):
            some(order, fmt, rounding, options, seed + 4 * n)


def random_codes(bits: int, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Any codes of so many bits."""
    low = torch.randint(0, 1 << min(bits, 32), shape, generator=rng)
    return low if bits <= 32 else low | torch.randint(0, 1 << (bits - 32), shape, generator=rng) << 32


def shipped_operands(unit: Mac, terms: int) -> tuple[Any, Any, torch.Tensor]:
    """Random codes of a shipped unit's formats, with scales where it takes them."""
    assert unit.operands is not None
    rng = torch.Generator().manual_seed(terms)
    shapes = ((2, terms), (terms, 3))
    ports = unit.operands.input[0], unit.operands.weight[0]
    a, b = (f.decode(random_codes(f.bits, shape, rng)) for f, shape in zip(ports, shapes, strict=True))
    c = torch.randn(2, 3, generator=rng)
    if unit.scales is None:
        return a, b, c
    blocks, fmt = -(-terms // unit.scales.block), unit.scales.format
    scales = [fmt.decode(torch.randint(110, 120, shape, generator=rng)) if fmt.bits == 8 else torch.rand(shape, generator=rng)
              for shape in ((2, blocks), (blocks, 3))]  # fmt: skip
    return Scaled(a, scales[0]), Scaled(b, scales[1]), c


@pytest.mark.parametrize("order", ["sequential", "pairwise"])
def test_fixed_point_that_wraps_keeps_its_last_places(order: str) -> None:
    unit = mac({"order": order, "accumulator": {"format": FIXED, "overflow": "wrap"}})
    a, b = torch.arange(-10.0, 11.0).reshape(3, 7) / 8, torch.arange(14.0).reshape(7, 2)
    for reach in (0, 15):
        assert_equal_to_reference(a * 2.0**reach, b * 2.0**reach, unit)
    with pytest.raises(FormatError, match="overflow"):
        matmul(on_gpu(a * 2.0**60), on_gpu(b), unit, backend="triton")


@pytest.mark.parametrize("name", UNITS)
def test_shipped_units(name: str) -> None:
    a, b, c = shipped_operands(mac(name), UNITS[name])
    assert_equal_to_reference(a, b, mac(name), c)


@pytest.mark.large
@pytest.mark.parametrize("name", shipped("macs"))
def test_every_shipped_unit_over_several_groups(name: str) -> None:
    a, b, c = shipped_operands(mac(name), 9 if name.endswith("fp64") else 75)
    assert_equal_to_reference(a, b, mac(name), c)


@pytest.mark.parametrize(
    ("given", "terms"),
    [
        ({"order": "sequential", "product": FP64, "accumulator": {"format": "fp64", "rounding": "toward_negative"}}, 2),
        ({"order": "sequential", "accumulator": {"format": "fp64", "rounding": "stochastic(8)"}, "c": "last"}, 2),
        ({"order": "sequential", "accumulator": {"format": "fp16"}, "promote": {"every": 2, "into": "fp64"}}, 3),
        ({"order": {"fused": {"fraction_bits": "exact"}}, "accumulator": {"format": "fp16", "rounding": "to_odd"}}, 4),
    ],
    ids=lambda given: "",
)
def test_sums_that_float64_does_not_hold(given: dict[str, Any], terms: int) -> None:
    assert_equal_to_reference(operands(2, (2, terms)), operands(4, (terms, 2)), mac(given), operands(6, (2, 2)))


@pytest.mark.large
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("order", ["sequential", "chunked(3)", "fused(3, exact)"])
@pytest.mark.parametrize("fmt", ["fp64", "fp32", "fp8_e5m2", FIXED], ids=str)
def test_every_rounding_of_exact_sums(fmt: Any, order: str, rounding: Any) -> None:
    if isinstance(fmt, dict) and order.startswith("fused"):
        return
    for seed, product in enumerate(("exact", FP64)):
        if product == "exact" or not order.startswith("fused"):
            options = {"product": product, "accumulator": {"format": fmt, "rounding": rounding, "nan": "zero"}}
            unit = mac({"order": order, "c": ("first", "last")[seed], **options})
            a, b, c = (operands(seed + n, shape).double() for n, shape in ((2, (2, 8)), (4, (8, 3)), (6, (2, 3))))
            assert_equal_to_reference(a * (1 + 2.0**-40), b, unit, c)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"order": "pairwise", "accumulator": {"format": "fp64"}}, "accumulator.format"),
        ({"order": "fused(4, 20)", "accumulator": {"format": "fp32"}, "promote": {"every": 8, "into": "fp64"}}, "promote.format"),
        ({"order": "fused(4, 20)", "operands": "fp64", "accumulator": {"format": "fp32"}}, "operands.input"),
        (
            {
                "order": {"fused": {"terms": 8, "fraction_bits": 30, "exact_terms": 4}},
                "operands": "fp16",
                "accumulator": {"format": "fp32"},
            },
            "order.fused.exact_terms",
        ),
        (
            {
                "order": "sequential",
                "accumulator": {"format": "fp32"},
                "promote": {"every": 1, "into": "fp32"},
                "scales": {"block": 1, "format": "fp64", "applied": "promotion"},
            },
            "scales.format",
        ),
        (
            {
                "order": "fused(4, 20)",
                "accumulator": {"format": WIDE},
                "promote": {"every": 1, "into": WIDE},
                "scales": {"block": 1, "format": "fp32", "applied": "promotion"},
            },
            "promote.format",
        ),
    ],
)
def test_a_unit_it_does_not_compute_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    a, b = on_gpu(torch.ones(1, 2)), on_gpu(torch.ones(2, 1))
    with pytest.raises(FormatError, match=rf"{field} of the unit: got .* on the backend 'triton'; allowed: "):
        matmul(a, b, mac(given), backend="triton")


@pytest.mark.parametrize("options", [{}, {"e_zero": 3}], ids=str)
def test_a_product_with_a_scale_of_zero_is_a_zero_term(options: dict[str, Any]) -> None:
    given = {
        "order": {"fused": {"terms": 4, "fraction_bits": 6, **options}}, "operands": "fp8_e4m3fn",
        "accumulator": {"format": "fp32"}, "scales": {"block": 2, "format": "fp8_e4m3fn", "applied": "product"},
    }  # fmt: skip
    a = Scaled(torch.tensor([[1.25, 1.0, 256.0, 256.0]]), torch.tensor([[1.0, 0.0]]))
    b = Scaled(torch.tensor([[1.125], [1.0], [256.0], [256.0]]), torch.ones(2, 1))
    assert_equal_to_reference(a, b, mac(given))


def test_scaled_partial_sums_that_float64_does_not_hold_are_added_in_digits() -> None:
    given = {
        "order": "sequential", "accumulator": {"format": WIDE}, "promote": {"every": 2, "into": WIDE},
        "scales": {"block": 2, "format": "fp32", "applied": "promotion"},
    }  # fmt: skip
    a, b = (torch.tensor([[x] * 3], dtype=torch.float64) for x in (1 + 2.0**-23, 1 + 2.0**-22))
    scales = torch.tensor([[1 + 2.0**-23, 3.0]])
    assert_equal_to_reference(Scaled(a, scales), Scaled(b.mT, scales.mT), mac(given))


def test_scales_of_promotions_leave_exact_sums_alone() -> None:
    given = {
        "order": {"fused": {"terms": 4, "fraction_bits": 20, "exact_terms": 2}}, "operands": "fp4_e2m1fn",
        "accumulator": {"format": "fp32"}, "promote": {"every": 4, "into": "fp32"},
        "scales": {"block": 4, "format": "fp32", "applied": "promotion"},
    }  # fmt: skip
    a, b = Scaled(torch.ones(1, 8), torch.tensor([[3.0, 5.0]])), Scaled(torch.ones(8, 1), torch.tensor([[1.0], [2.0]]))
    assert_equal_to_reference(a, b, mac(given))


def test_batches_broadcast_and_are_numbered_as_one() -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "fp12_e6m5", "rounding": "stochastic(9)"}})
    a, b, c = operands(1, (2, 2, 4)), operands(3, (2, 4, 3)), operands(5, (2, 3))
    assert_equal_to_reference(a, b, unit, c)
    assert_equal_to_reference(a, b[0], unit)


def test_more_results_than_one_program_takes() -> None:
    unit = mac({"order": "fused(2, 20)", "accumulator": {"format": "fp32"}})
    a, b = operands(1, (17, 4)), operands(3, (4, 18))
    assert torch.equal(bits(matmul(on_gpu(a), on_gpu(b), unit, backend="triton").cpu()), bits(matmul(a, b, unit)))


def test_digits_are_there_for_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_matmul, "RESULTS_IN_DIGITS", 32)
    unit = mac({"order": "fused(2, exact)", "accumulator": {"format": "fp8_e5m2", "rounding": "stochastic(8)"}})
    a, b, c = operands(2, (9, 3)), operands(4, (3, 5)), operands(6, (9, 5))
    found = matmul(on_gpu(a), on_gpu(b), unit, on_gpu(c), DRAW, backend="triton").cpu()
    assert torch.equal(bits(found), bits(matmul(a, b, unit, c, DRAW)))


def test_nothing_to_sum_gives_c() -> None:
    c = torch.tensor([[1.0, -0.0]])
    found = matmul(on_gpu(torch.empty(1, 0)), on_gpu(torch.empty(0, 2)), "fp16_accumulate", on_gpu(c), backend="triton")
    assert torch.equal(bits(found.cpu()), bits(c))


def test_a_nan_in_c_follows_the_accumulator_s_rule() -> None:
    a, b, c = on_gpu(torch.ones(1, 2)), on_gpu(torch.ones(2, 1)), on_gpu(torch.tensor([[torch.nan]]))
    for rule, expected in {"max": 32767, "zero": 2}.items():
        unit = mac({"order": "sequential", "accumulator": {"format": "int16", "nan": rule}})
        assert matmul(a, b, unit, c, backend="triton").item() == expected
    with pytest.raises(NanError, match=r"^NaN given to int16, which has no NaN"):
        matmul(a, b, mac({"order": "sequential", "accumulator": {"format": "int16"}}), c, backend="triton")


@pytest.mark.parametrize("case", NANS)
def test_a_nan_is_refused_where_the_reference_refuses_it(case: str) -> None:
    declared, a, b, c, expected = NANS[case]
    given = on_gpu(a), on_gpu(b), mac(declared), on_gpu(None if c is None else torch.tensor([[c]]))
    if isinstance(expected, str):
        with pytest.raises(NanError, match=f"^NaN given to {re.escape(expected)}, which has no NaN"):
            matmul(*given, backend="triton")
    else:
        assert torch.equal(bits(matmul(*given, backend="triton").cpu()), bits(torch.tensor([[expected]])))


def test_foreign_operands_and_scales_are_named() -> None:
    a = torch.ones(2, 4)
    a[1, 2] = 0.3
    with pytest.raises(FormatError, match=r"input operand of fp16_accumulate: element \[1, 2\] is 0.3.*allowed: values of fp16"):
        matmul(on_gpu(a), on_gpu(torch.ones(4, 1)), "fp16_accumulate", backend="triton")
    scales = torch.tensor([[1.0], [0.3]])
    with pytest.raises(FormatError, match=r"input operand of nvidia_blackwell_mxfp8: scale \[1, 0\] is 0.3"):
        matmul(on_gpu(Scaled(torch.ones(2, 32), scales)), on_gpu(torch.ones(32, 1)), "nvidia_blackwell_mxfp8", backend="triton")


def test_a_machine_without_gpu_or_interpreter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.missing()
    with pytest.raises(FormatError, match="backend: got 'triton', which cannot run here: there is no CUDA device"):
        matmul(torch.ones(1, 2), torch.ones(2, 1), "fp32_sequential", backend="triton")
