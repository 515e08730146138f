"""The compiled kernels equal the scalar reference: every order, rounding, overflow rule and option, special values included."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from mac_cases import NANS, bits, operands

from hwsim.catalogue import shipped
from hwsim.fields import format_record
from hwsim.formats import Draw, FormatError
from hwsim.formats.errors import NanError
from hwsim.macs import Scaled, mac, matmul, shapes

LARGE = pytest.mark.large
ORDERS: tuple[Any, ...] = (
    "sequential", "pairwise", "chunked(3)", {"chunked": 4, "inner": "pairwise"}, "fused(4, 13)", "fused(4, 13, floor)",
    "fused(4, 10, nearest)", "fused(4, 5, sticky)", "fused(3, exact)",
    {"fused": {"terms": 4, "fraction_bits": "exact", "grouping": "alternate_pairs"}},
)  # fmt: skip
FORMATS: tuple[Any, ...] = (
    "fp32", "fp16", "bf16", "fp8_e5m2", "fp8_e4m3fn", "fp12_e6m5", "fp64", {"kind": "fixed", "bits": 12, "fraction_bits": 4},
)  # fmt: skip
ROUNDINGS: tuple[Any, ...] = (
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "toward_positive", "toward_negative", "to_odd",
    "stochastic(8)", {"mode": "stochastic", "random_bits": 5, "variant": "B"},
    {"mode": "stochastic", "random_bits": 5, "variant": "C"},
)  # fmt: skip
COMMON = ("nearest_even", "to_odd", "stochastic(8)")
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"promote": {"every": 5, "into": "fp64"}}, {"c": "last", "split_k": 2}, {"flush_results": True, "flush_inputs": "signed"},
)  # fmt: skip


def cases(*axes: tuple[Any, ...]) -> list[Any]:
    """A grid whose last axis is the rounding; as large tests, what is the first on neither that nor all the other axes."""
    *first, usual = (axis[0] for axis in axes)
    every = itertools.product(*axes)
    return [pytest.param(*case, marks=[] if [*case[:-1]] == first or case[-1] == usual else LARGE) for case in every]


def possible(order: Any, fmt: Any, options: dict[str, Any]) -> bool:
    return not (isinstance(fmt, dict) and ("fused" in str(order) or options.get("flush_results")))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_kernels_equal_the_reference(order: Any, fmt: Any) -> None:
    for seed, (rounding, options) in enumerate(itertools.product(ROUNDINGS, OPTIONS)):
        if not possible(order, fmt, options):
            continue
        unit = mac({"order": order, "accumulator": {"format": fmt, "rounding": rounding, "nan": "zero"}, **options})
        a, b, c = operands(seed), operands(seed + 100, (7, 2)), operands(seed + 200, (2, 2)) if seed % 3 else None
        draw = Draw(seed, "layer", seed)
        assert torch.equal(bits(matmul(a, b, unit, c, draw)), bits(matmul(a, b, unit, c, draw, backend="reference"))), unit


@pytest.mark.parametrize(
    ("fmt", "order", "rounding"), cases(("fp32", "bf16", "fp8_e5m2", "fp64"), ("sequential", "pairwise"), ROUNDINGS), ids=str
)
def test_rounded_products_equal_the_reference(order: str, fmt: str, rounding: Any) -> None:
    place = {"format": fmt, "rounding": rounding}
    unit = mac({"order": order, "product": place, "accumulator": place})
    for seed in (1, 2):
        a, b, c = operands(seed), operands(seed + 10, (7, 2)), operands(seed + 20, (2, 2))
        assert torch.equal(bits(matmul(a, b, unit, c)), bits(matmul(a, b, unit, c, backend="reference")))


@pytest.mark.parametrize(
    ("operand", "accumulator", "rounding"),
    [("bf16", "fp32", "nearest_even"), ("fp16", "fp32", "nearest_even"), ("tf32", "fp32", "nearest_even"),
     ("fp32", "fp32", "nearest_even"), ("fp16", "fp16", "nearest_even"), ("bf16", "bf16", "nearest_even"),
     ("fp8_e5m2", "fp16", "nearest_even"), ("tf32", "bf16", "nearest_even"), ("fp32", "fp32", "nearest_zero"),
     ("bf16", "bf16", "nearest_zero"), ("fp32", "fp32", "to_odd"), ("bf16", "bf16", "to_odd")],
)  # fmt: skip
def test_sums_next_to_ties_equal_the_reference(
    operand: str, accumulator: str, rounding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0)
    place = {"format": accumulator, "rounding": rounding}
    unit = mac({"order": "sequential", "operands": operand, "accumulator": place})
    fmt = format_record(operand)
    rng = torch.Generator().manual_seed(1)
    low, digits = round(math.log2(fmt.smallest_normal)), fmt.grid.mantissa_bits
    ulp = 2.0**-digits
    significands = torch.tensor([1.0, -1.0, 1.5, 2.0 - ulp, 1.0 + ulp, -1.0 - ulp], dtype=torch.float64)
    exponents = torch.tensor([max(e, low) for e in (0, 0, -4, -8, -12, -13, -20, -36)], dtype=torch.float64)
    a, b = (
        significands[torch.randint(6, shape, generator=rng)] * exponents[torch.randint(8, shape, generator=rng)].exp2()
        for shape in ((16, 4), (4, 16))
    )
    c = torch.where(torch.rand(16, 16, generator=rng) < 0.5, 1.0, 2.0 ** torch.randint(low, 1, (16, 16), generator=rng).double())
    assert torch.equal(bits(matmul(a, b, unit, c)), bits(matmul(a, b, unit, c, backend="reference")))


@pytest.mark.parametrize("overflow", ["saturate", "propagate", "infinity", "always_infinity", "nan"])
@pytest.mark.parametrize("rounding", ["nearest_even", "toward_zero", "toward_positive"])
def test_overflow_rules_equal_the_reference(overflow: str, rounding: str) -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "fp16", "rounding": rounding, "overflow": overflow}})
    a, b = operands(4, (12, 5)), operands(6, (5, 8))
    assert torch.equal(bits(matmul(a, b, unit)), bits(matmul(a, b, unit, backend="reference")))


@pytest.mark.parametrize(("order", "rounding"), cases(("sequential", "pairwise", "chunked(3)"), ROUNDINGS), ids=str)
def test_wrapping_fixed_point_equals_the_reference(order: str, rounding: Any) -> None:
    fmt = {"kind": "fixed", "bits": 12, "fraction_bits": 4}
    unit = mac({"order": order, "accumulator": {"format": fmt, "rounding": rounding, "overflow": "wrap"}})
    rng = torch.Generator().manual_seed(1)
    for reach in (0, 20, 27, 60):
        a, b = (torch.randn(shape, generator=rng).bfloat16().double() for shape in ((3, 7), (7, 2)))
        a[:, ::2], b[::2] = a[:, ::2] * 2.0**reach, b[::2] * 2.0**reach
        assert torch.equal(bits(matmul(a, b, unit)), bits(matmul(a, b, unit, backend="reference"))), reach


@pytest.mark.parametrize(
    ("rounding", "long"),
    [
        *((mode, False) for mode in COMMON),
        *(pytest.param(mode, False, marks=LARGE) for mode in ROUNDINGS if mode not in COMMON),
        *(("nearest_even", True), ("toward_zero", True)),
    ],
    ids=str,
)
def test_formats_without_subnormals_or_with_one_fraction_bit_equal_the_reference(
    rounding: Any, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0 if long else shapes.WORTH_COMPILING)
    bare = {"kind": "float", "exponent_bits": 5, "mantissa_bits": 10, "subnormals": False}
    for fmt in (bare, {"kind": "float", "exponent_bits": 5, "mantissa_bits": 1}):
        place = {"format": fmt, "rounding": rounding}
        for product in ("exact", place):
            unit = mac({"order": "sequential", "product": product, "accumulator": place})
            a = torch.tensor([[1.5 * 2.0**-7, -(2.0**-7), (1 + 2.0**-20) * 2.0**-9], [300.0, 2.0**-20, 1.0]], dtype=torch.float64)
            b = torch.tensor([[2.0**-7, 400.0], [2.0**-7, 2.0**-7], [(1 + 2.0**-20) * 2.0**-9, -1.5]], dtype=torch.float64)
            assert torch.equal(bits(matmul(a, b, unit)), bits(matmul(a, b, unit, backend="reference"))), (fmt, product)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("fmt", "c"), [("fp16", 2.0**-11 + 2.0**-56), ("fp32", 2.0**-24 + 2.0**-76)])
def test_a_start_that_is_wider_than_the_sum_is_rounded_once_with_the_first_product(
    fmt: str, c: float, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0 if long else shapes.WORTH_COMPILING)
    unit = mac(
        {
            "order": "sequential",
            "operands": "fp8_e4m3fn",
            "accumulator": {"format": fmt},
            "c": {"enters": "first", "format": "fp64"},
        }
    )
    one, start = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), c, dtype=torch.float64)
    assert torch.equal(bits(matmul(one, one, unit, start)), bits(matmul(one, one, unit, start, backend="reference")))


@pytest.mark.parametrize(
    "unit", ["amd_cdna2_fp16", "amd_cdna3_fp16", "amd_cdna3_fp8", "nvidia_hopper_mma_sync_fp8", "deepseek_fp8"]
)
def test_shipped_units_equal_the_reference(unit: str) -> None:
    fmt = (mac(unit).operands or pytest.fail("no operands")).input[0]
    rng = torch.Generator().manual_seed(1)
    codes = [torch.randint(0, 1 << fmt.bits, shape, generator=rng) for shape in ((3, 45), (45, 2))]
    a, b = (fmt.decode(code) for code in codes)
    a, b = torch.where(a.isfinite(), a, 0), torch.where(b.isfinite(), b, 0)
    c = torch.randn(3, 2, generator=rng)
    assert torch.equal(bits(matmul(a, b, unit, c)), bits(matmul(a, b, unit, c, backend="reference")))


@pytest.mark.usefixtures("two_threads")
def test_result_does_not_depend_on_threads_or_how_a_batch_is_split() -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "fp12_e6m5", "rounding": "stochastic(9)"}})
    a, b = operands(1, (4, 40, 70)), operands(3, (4, 70, 600))
    whole = matmul(a, b, unit)
    torch.set_num_threads(1)
    assert torch.equal(matmul(a, b, unit), whole)
    later = matmul(a[2:], b[2:], unit, draw=Draw(offset=0))
    assert not torch.equal(later, whole[2:])
    folded = matmul(a, b[:1].expand(4, 70, 600), unit)
    assert torch.equal(matmul(a, b[0], unit), folded)


@pytest.mark.parametrize("terms", [64, 70, 130])
def test_words_drawn_ahead_are_those_of_the_additions(terms: int) -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "fp12_e6m5", "rounding": "stochastic(9)"}})
    a, b = operands(1, (2, terms)), operands(3, (terms, 5))
    for offset in (0, 37):
        draw = Draw(seed=7, offset=offset)
        assert torch.equal(bits(matmul(a, b, unit, draw=draw)), bits(matmul(a, b, unit, draw=draw, backend="reference")))


def test_a_group_s_word_is_that_of_its_first_term_where_groups_interleave() -> None:
    order = {"fused": {"terms": 4, "fraction_bits": 20, "grouping": "alternate_pairs"}}
    unit = mac({"order": order, "accumulator": {"format": "fp8_e5m2", "rounding": "stochastic(8)"}})
    a, b = torch.randn(4, 20), torch.randn(20, 4)
    assert torch.equal(matmul(a, b, unit, draw=Draw(3)), matmul(a, b, unit, draw=Draw(3), backend="reference"))


@pytest.mark.parametrize("finite", [True, pytest.param(False, marks=LARGE)])
@pytest.mark.parametrize("product", ["exact", pytest.param("rounded", marks=LARGE)])
@pytest.mark.parametrize(
    "rounding",
    [
        "nearest_zero",
        "toward_negative",
        "to_odd",
        *(pytest.param(mode, marks=LARGE) for mode in ("nearest_away", "toward_positive")),
    ],
)
def test_kernels_that_round_in_the_processor_s_direction_equal_the_reference(
    rounding: str, product: str, finite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0)
    for n, fmt in enumerate(["fp32", "fp16", "bf16", "fp8_e5m2", "fp8_e4m3fn"]):
        place = {"format": fmt, "rounding": rounding}
        unit = mac({"order": "sequential", "accumulator": place, "product": place if product == "rounded" else "exact"})
        a, b, c = operands(2 * n, (4, 9)), operands(2 * n + 20, (9, 5)), operands(2 * n + 40, (4, 5))
        if finite:
            a, b, c = (x.nan_to_num(1.0, 2.0**60, -(2.0**60)) for x in (a, b, c))
        assert torch.equal(bits(matmul(a, b, unit, c)), bits(matmul(a, b, unit, c, backend="reference"))), fmt


@pytest.mark.parametrize("order", ["sequential", "fused(4, 20)"])
@pytest.mark.parametrize(
    ("fmt", "scale", "a", "b"),
    [
        ("fp32", "fp32", (1 + 2.0**-15, 1 - 2.0**-15), (812825 * 2.0**-20, 1321 * 2.0**-10)),
        ({"kind": "float", "exponent_bits": 8, "mantissa_bits": 30}, "e8m0fnu", (1 - 2.0**-30, 2.0), (1 + 2.0**-30, 0.5)),
    ],
    ids=["scales", "elements"],
)
def test_a_product_that_float64_does_not_hold_is_cut_once(fmt: Any, scale: str, a: Any, b: Any, order: str) -> None:
    place = {"format": "fp32", "rounding": "toward_zero"}
    unit = mac({"order": order, "operands": fmt, "accumulator": place, "scales": {"block": 2, "format": scale}})
    x, y = (Scaled(*(torch.tensor([[v]], dtype=torch.float64) for v in side)) for side in (a, b))
    # 1 - 2^-60, which float64 rounds to 1.
    assert matmul(x, y, unit).item() == matmul(x, y, unit, backend="reference").item() < 1


def test_stochastic_sums_are_unbiased() -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "fp8_e5m2", "rounding": "stochastic"}})
    mean = matmul(torch.tensor([[1.0, 0.0625]]).expand(4000, 2), torch.ones(2, 1), unit).mean()
    assert abs(mean - 1.0625) < 4 * 0.25 * (0.25 * 0.75 / 4000) ** 0.5


def test_nothing_to_sum_gives_c() -> None:
    unit = mac({"order": "pairwise", "accumulator": {"format": "fp16"}})
    c = torch.tensor([[1.0, -0.0]])
    assert torch.equal(bits(matmul(torch.empty(1, 0), torch.empty(0, 2), unit, c)), bits(c))
    assert torch.equal(matmul(torch.empty(1, 0), torch.empty(0, 2), unit), torch.zeros(1, 2))


@pytest.mark.parametrize("name", sorted(shipped("macs")))
def test_nothing_to_sum_by_a_shipped_unit_gives_c(name: str) -> None:
    unit, c = mac(name), torch.tensor([[1.0, -2.0], [0.5, 0.0]]) if "int" not in name else torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    a, b = torch.empty(2, 0), torch.empty(0, 2)
    assert torch.equal(matmul(a, b, unit, c).double(), c.double())
    if unit.scales:
        assert torch.equal(matmul(Scaled(a, a), Scaled(b, b), unit, c).double(), c.double())
        batch = torch.empty(3, 2, 0)
        assert torch.equal(matmul(Scaled(batch, batch), Scaled(b, b), unit), torch.zeros(3, 2, 2))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (0, 0, 3)])
@pytest.mark.parametrize("name", ["fp32_sequential", "nvidia_blackwell_nvfp4", "amd_cdna3_fp8", "int8_int32"])
def test_no_results_are_empty(name: str, shape: tuple[int, int, int]) -> None:
    rows, terms, columns = shape
    a, b, c = torch.ones(rows, terms), torch.ones(terms, columns), torch.ones(rows, columns)
    assert matmul(a, b, name, c).shape == (rows, columns)
    assert matmul(a.expand(0, rows, terms), b.expand(0, terms, columns), name).shape == (0, rows, columns)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("order", ["sequential", "pairwise", "chunked(2)", "fused(4, 10)"])
def test_nothing_to_sum_rounds_c_once_to_the_result_s_format(order: str, backend: str) -> None:
    given: dict[str, Any] = {"order": order, "accumulator": {"format": "fp16", "rounding": "toward_negative"}}
    if order != "pairwise":
        given["c"] = {"enters": "first", "format": "fp32"}
    nothing = torch.empty(1, 0), torch.empty(0, 3)
    found = matmul(*nothing, mac(given), torch.tensor([[-1 / 3, 1 + 2.0**-20, -0.0]]), backend=backend)
    third = -1 / 3 if order == "pairwise" else -(1 / 3 // 2.0**-12 + 1) * 2.0**-12
    expected = torch.tensor([[third, 1.0, -0.0]])
    assert torch.equal(bits(found), bits(expected.half().float() if order == "pairwise" else expected))


@pytest.mark.parametrize(
    ("a", "b", "c", "text"),
    [
        ((2, 3), (4, 2), None, "got shapes (2, 3) and (4, 2)"),
        ((3,), (3, 2), None, "allowed: (..., M, K) and (..., K, N)"),
        ((2, 2, 3), (5, 3, 2), None, "batches that broadcast"),
        ((2, 3), (3, 2), (3, 3), "got c of shape (3, 3)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(a: Any, b: Any, c: Any, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        matmul(torch.ones(a), torch.ones(b), "fp32_sequential", None if c is None else torch.ones(c))
    assert text in str(caught.value)


@pytest.mark.parametrize("unit", ["fp32_sequential", "native"])
@pytest.mark.parametrize(
    ("a", "c", "text"),
    [
        ([[1.0]], None, "input operand: got list; allowed: a tensor, Scaled or Quantized"),
        (None, None, "input operand: got NoneType"),
        (torch.ones(1, 1), 1.0, "c: got float; allowed: a tensor$"),
        (torch.ones(1, 1, dtype=torch.complex64), None, "input operand: got torch.complex64"),
        (torch.ones(1, 1), torch.ones(1, 1, dtype=torch.complex64), "c: got torch.complex64"),
        (torch.ones(1, 1).to_sparse(), None, "torch.sparse_coo; allowed: real numbers, torch.strided"),
        (Scaled(torch.ones(1, 1), [1.0]), None, "input scales: got list|takes none"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(a: Any, c: Any, text: str, unit: str) -> None:
    with pytest.raises(FormatError, match=text):
        matmul(a, torch.ones(1, 1), unit, c)


def test_a_foreign_operand_is_named() -> None:
    a = torch.ones(2, 4)
    a[1, 2] = 0.3
    with pytest.raises(FormatError, match=r"input operand of fp16_accumulate: element \[1, 2\] is 0.3.*allowed: values of fp16"):
        matmul(a, torch.ones(4, 1), "fp16_accumulate")


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("where", ["operand", "c"])
def test_nan_in_a_unit_without_nan_is_refused_unless_declared(where: str, backend: str) -> None:
    a, c = torch.tensor([[1.0, torch.nan]]), torch.tensor([[1.0]])
    if where == "c":
        a, c = torch.ones(1, 2), torch.tensor([[torch.nan]])
    for fmt, largest in (("int16", 32767), ("fp6_e2m3fn", 7.5)):
        for rule, expected in {"max": largest, "zero": {"operand": 0.0, "c": 2.0}[where]}.items():
            unit = mac({"order": "sequential", "accumulator": {"format": fmt, "nan": rule}})
            assert matmul(a, torch.ones(2, 1), unit, c, backend=backend).item() == expected
        with pytest.raises(NanError, match=r"^NaN given to .*, which has no NaN; allowed: `nan: max`"):
            matmul(a, torch.ones(2, 1), mac({"order": "sequential", "accumulator": {"format": fmt}}), c, backend=backend)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("case", NANS)
def test_a_nan_is_refused_where_it_meets_a_format_without_nan_and_nowhere_else(case: str, backend: str) -> None:
    declared, a, b, c, expected = NANS[case]
    start = None if c is None else torch.tensor([[c]])
    if isinstance(expected, str):
        with pytest.raises(NanError, match=f"^NaN given to {re.escape(expected)}, which has no NaN"):
            matmul(a, b, mac(declared), start, backend=backend)
    else:
        found = matmul(a, b, mac(declared), start, backend=backend)
        assert torch.equal(bits(found), bits(torch.tensor([[expected]])))


def test_large_operands_without_a_declared_format_warn_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    unit = mac({"order": "fma", "accumulator": {"format": "fp64"}})
    assert matmul(torch.full((1, 2), 1e300, dtype=torch.float64), torch.ones(2, 1), unit).item() == 2e300
    assert not recwarn.list


def test_native_is_torch_matmul() -> None:
    a, b, c = torch.randn(5, 6), torch.randn(6, 7), torch.randn(5, 7)
    assert torch.equal(matmul(a, b, "native", c), a @ b + c)


def test_the_operator_has_a_shape_function() -> None:
    a = torch.empty(5, 2, 3, device="meta")
    found = matmul(a, torch.empty(3, 4, device="meta"), "fp32_sequential")
    assert found.shape == (5, 2, 4)
    assert found.dtype == torch.float32
