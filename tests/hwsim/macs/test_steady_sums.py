"""Sums of which nothing below the normal values is cut: when they are recognised, and that they equal exact arithmetic."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from mac_cases import bits

from hwsim.formats import Draw, Float, Projection, Rounding
from hwsim.formats.reference import project
from hwsim.macs import bases, mac, matmul, shapes
from hwsim.macs.operands import NO_STREAM, port
from hwsim.macs.spans import span
from hwsim.macs.sums import Shape

LARGE = pytest.mark.large
E2M2 = Float(2, 2)
NO_SUBNORMALS = {"kind": "float", "exponent_bits": 5, "mantissa_bits": 10, "subnormals": False}
FEW = ("nearest_even", "to_odd")
ROUNDINGS = ("nearest_even", "nearest_away", "nearest_zero", "toward_zero", "toward_positive", "toward_negative", "to_odd")
MODES = (*FEW, *(pytest.param(mode, marks=LARGE) for mode in ("nearest_away", "nearest_zero", "toward_zero")))


@pytest.fixture(autouse=True)
def _short_sums_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "WORTH_COMPILING", 0)


def shape(unit: Any, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> Shape:
    """The kernel for such operands."""
    given = mac(unit)
    return shapes.shape_of(
        port(given, "input", a, None), port(given, "weight", b, None), None if c is None else c.double().numpy(), given
    )


def wide_numbers(seed: int, size: tuple[int, int], low: int, high: int) -> torch.Tensor:
    """Numbers of up to 8 bits over so many binades, a tenth of them zeros of either sign."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(-255, 256, size, generator=rng) * torch.randint(low, high + 1, size, generator=rng).double().exp2()
    zeros = torch.tensor([0.0, -0.0], dtype=torch.float64)[torch.randint(2, size, generator=rng)]
    return torch.where(torch.rand(size, generator=rng) < 0.1, zeros, x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reach", [0, 30])
def test_one_step_is_right_for_all_triples_of_a_five_bit_float(mode: str, reach: int) -> None:
    """With `reach` products and accumulator lie so far apart that float64 does not hold their sum."""
    wide = Float(8, 2)
    unit = mac({"order": "sequential", "accumulator": {"format": wide, "rounding": mode}})
    values = E2M2.values()
    c = (values * 2.0 ** (2 * reach)).repeat(len(values), 1)
    for b in values.tolist():
        row = torch.full((1, len(values)), b * 2.0**-reach)
        assert shape(unit, values[:, None], row, c).steady
        found = matmul(values[:, None], row, unit, c)
        for i, j in itertools.product(range(len(values)), repeat=2):
            exact = Fraction(values[i].item()) * Fraction(row[0, 0].item()) + Fraction(c[0, j].item())
            expected = project(exact, wide, Projection(Rounding(mode)))  # type: ignore[arg-type]
            assert found[i, j].item() == float(expected), (values[i], b, values[j])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("product", ["exact", pytest.param("rounded", marks=LARGE)])
@pytest.mark.parametrize(
    ("fmt", "overflow", "reach"),
    [
        ("fp32", "infinity", 40),
        pytest.param("bf16", "infinity", 40, marks=LARGE),
        ("fp16", "infinity", 7),
        pytest.param("fp16", "saturate", 7, marks=LARGE),
        ("fp16", "always_infinity", 7),
        pytest.param("fp16", "infinity", 3, marks=LARGE),
        ("fp8_e4m3fn", "nan", 2),
        pytest.param({"kind": "fixed", "bits": 12, "fraction_bits": 4}, "wrap", 2, marks=LARGE),
    ],
    ids=str,
)
def test_sums_with_and_without_overflow_equal_the_reference(fmt: Any, overflow: str, reach: int, product: str, mode: str) -> None:
    place = {"format": fmt, "rounding": mode, "overflow": overflow}
    unit = mac({"order": "sequential", "accumulator": place, "product": place if product == "rounded" else "exact"})
    for high in (0, reach):
        low = -3 if str(fmt) in ("fp16", "fp32", "bf16") else 0
        a, b = wide_numbers(1, (9, 12), low, high), wide_numbers(2, (12, 9), low, high)
        c = wide_numbers(3, (9, 9), low, high)
        assert torch.equal(bits(matmul(a, b, unit, c)), bits(matmul(a, b, unit, c, backend="reference"))), high


@pytest.mark.parametrize(
    ("unit", "a", "b", "c", "steady", "product_steady", "bounded"),
    [
        ({}, 1.5, 1.5, 0.0, True, False, True),
        ({}, 2.0**-12, 2.0**-12, 0.0, True, False, True),
        ({}, 2.0**-12, 2.0**-13, 0.0, False, False, False),
        ({}, 2.0**-12, 1.0, 2.0**-25, False, False, False),
        ({}, 1.0 + 2.0**-13, 2.0**-12, 0.0, False, False, False),
        ({}, math.inf, 1.0, 0.0, False, False, False),
        ({}, 1.0, math.nan, 0.0, False, False, False),
        ({}, 1.0, 1.0, math.inf, False, False, False),
        ({}, 90.0, 90.0, 0.0, True, False, True),
        ({}, 96.0, 96.0, 0.0, True, False, False),
        ({}, 1.0, 1.0, 8192.0, True, False, False),
        ({"flush_results": True}, 2.0**-7, 2.0**-7, 0.0, True, False, True),
        ({"flush_results": True}, 2.0**-7, 2.0**-8, 0.0, False, False, False),
        ({"product": {"format": "fp16"}}, 90.0, 90.0, 0.0, True, True, True),
        ({"product": {"format": "fp16"}}, 96.0, 96.0, 0.0, True, True, False),
        ({"product": {"format": "fp16"}}, 200.0, 200.0, 0.0, False, False, False),
        ({"product": {"format": "fp16"}}, 2.0**-13, 2.0**-12, 0.0, True, False, True),
        ({"product": {"format": "bf16"}}, 2.0**-13, 2.0**-12, 0.0, False, False, False),
        ({"product": {"format": "fp16", "rounding": "toward_positive"}}, 1.0, 1.0, 0.0, True, False, False),
        ({"product": {"format": "fp16", "rounding": "to_odd"}}, 1.0, 1.0, 0.0, True, True, True),
        ({"product": {"format": "fp16", "rounding": "to_odd"}}, 2.0**-20, 2.0**-20, 0.0, True, False, False),
        ({"product": {"format": NO_SUBNORMALS}}, 2.0**-7, 2.0**-7, 0.0, True, True, True),
        ({"product": {"format": NO_SUBNORMALS}}, 1.5 * 2.0**-8, 2.0**-7, 0.0, True, False, True),
        (
            {"accumulator": {"format": NO_SUBNORMALS}, "product": {"format": NO_SUBNORMALS}},
            1.5 * 2.0**-8,
            2.0**-7,
            0.0,
            False,
            False,
            False,
        ),
    ],
)
def test_what_is_steady_is_found_from_the_operands(
    unit: dict[str, Any], a: float, b: float, c: float, steady: bool, product_steady: bool, bounded: bool
) -> None:
    values = [torch.tensor([[0.0, x]], dtype=torch.float64) for x in (a, b, c)]
    found = shape({"order": "sequential", "accumulator": {"format": "fp16"}} | unit, values[0], values[1].T, values[2][:, 1:])
    assert (found.steady, found.product_steady, found.bounded) == (steady, product_steady, bounded)


@pytest.mark.parametrize("rounding", ["toward_positive", "toward_negative", "stochastic(8)"])
def test_modes_that_depend_on_the_sign_or_on_chance_are_not_steady(rounding: str) -> None:
    unit = {"order": "sequential", "accumulator": {"format": "fp32", "rounding": rounding}}
    assert not shape(unit, torch.ones(2, 2), torch.ones(2, 2)).steady


def test_a_span_is_the_last_place_and_the_largest_magnitude() -> None:
    x = np.random.default_rng(1).integers(-(1 << 20), 1 << 20, 40) * 2.0**-11
    last = min(Fraction(1, Fraction(v).denominator) if v % 1 else Fraction(int(v) & -int(v)) for v in x if v)
    assert span(x) == (float(last), abs(x).max())
    assert span(np.array([0.0, -0.0, 3.0, -1.5])) == (0.5, 3.0)
    assert span(np.array([-4.0, 12.0])) == (4.0, 12.0)
    assert span(np.zeros(3)) == span(np.zeros(0)) == (math.inf, 0.0)
    assert span(np.array([1.0 + 2.0**-52])).step == 2.0**-52
    assert not span(np.array([1.0, math.nan])).finite
    assert not span(np.array([1.0, -math.inf])).finite


def test_products_that_are_rounded_up_from_nothing_may_overflow_their_sum() -> None:
    product = {"format": {"kind": "float", "exponent_bits": 4, "mantissa_bits": 3, "bias": -8}, "rounding": "to_odd"}
    unit = mac(
        {
            "order": "sequential",
            "product": product,
            "accumulator": {"format": {"kind": "float", "exponent_bits": 4, "mantissa_bits": 3}},
        }
    )
    a = torch.full((1, 8), 2.0**-10, dtype=torch.float64)
    assert matmul(a, a.mT, unit).item() == matmul(a, a.mT, unit, backend="reference").item() == math.inf


def exact_groups(rounding: str, order: dict[str, Any]) -> Any:
    return mac({"order": {"fused": {"fraction_bits": "exact", **order}}, "accumulator": {"format": "fp16", "rounding": rounding}})


def is_held(unit: Any, a: torch.Tensor, b: torch.Tensor) -> bool:
    return bases._Held.of(port(unit, "input", a, None), port(unit, "weight", b, None), unit, NO_STREAM) is not None


@pytest.mark.parametrize("rounding", [*ROUNDINGS, "stochastic(8)"])
@pytest.mark.parametrize("order", [{}, {"terms": 3}, {"terms": 4, "grouping": "alternate_pairs"}])
@pytest.mark.parametrize(("reach", "held"), [(8, True), (24, False)])
def test_exact_groups_equal_the_reference_whether_float64_holds_them_or_not(
    rounding: str, order: dict[str, Any], reach: int, held: bool
) -> None:
    unit = exact_groups(rounding, order)
    a, b = wide_numbers(1, (6, 7), -reach, 0), wide_numbers(2, (7, 5), 0, reach)
    b[:, 4] = 0.0
    c = wide_numbers(3, (6, 5), -30, 4).half().float()
    c[0] = torch.tensor([-0.0, math.inf, -math.inf, math.nan, -0.0])
    assert is_held(unit, a, b) is held
    for addend in (None, c):
        given = a, b, unit, addend, Draw(7)
        assert torch.equal(bits(matmul(*given)), bits(matmul(*given, backend="reference")))


def test_infinite_operands_and_units_that_keep_minus_zero_are_summed_in_digits() -> None:
    a, unit = torch.ones(2, 3, dtype=torch.float64), exact_groups("nearest_even", {})
    assert is_held(unit, a, a.T)
    assert not is_held(unit, a * math.inf, a.T)
    assert not is_held(exact_groups("nearest_even", {"negative_zero": True}), a, a.T)
