"""What a dot product does is found from outside: the shipped units are found again, and numpy's and torch's own order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hwsim.catalogue import shipped
from hwsim.errors import ConfigError, FormatError
from hwsim.fields import format_record
from hwsim.formats import Draw
from hwsim.formats.operators import quantize_tensor
from hwsim.macs import Mac, mac, matmul
from hwsim.macs.probe import probe
from hwsim.macs.probe_cases import Dot, Found
from hwsim.macs.summation import C, Node, Tree, declared_tree, found_tree


def of(name: str) -> Dot:
    unit = mac(name)
    return lambda a, b, c: matmul(a[None], b[:, None], unit, torch.tensor([[c]], dtype=torch.float64)).item()


def by_torch(a: Tensor, b: Tensor, c: float) -> float:
    return float((a.float() @ b.float()).float() + c)


def by_numpy(a: Tensor, b: Tensor, c: float) -> float:
    return float(np.float32(np.dot(a.numpy().astype(np.float32), b.numpy().astype(np.float32))) + np.float32(c))


def by_numpy_half(a: Tensor, b: Tensor, c: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.float32(np.dot(a.numpy().astype(np.float16), b.numpy().astype(np.float16))) + np.float32(c))


def terms_for(unit: Mac) -> int:
    """K with two groups or promotions, and a term more where that takes no long time."""
    size = (unit.fused.terms or 4) * (1 + (unit.fused.grouping == "alternate_pairs")) if unit.fused else 4
    size = max(size, unit.promote.every if unit.promote else 0)
    return 2 * size + (size < 32)


NARROW = "too narrow to tell terms apart"
UNSEEN = {
    **dict.fromkeys(
        ("nvidia_blackwell_fp6", "nvidia_blackwell_mxfp6", "nvidia_blackwell_mxfp4", "nvidia_blackwell_nvfp4"), NARROW
    ),
    "fp8_fp12_stochastic": "equal calls gave different results, as with stochastic rounding",
}
"""What the probe says of units whose rule their outputs do not show."""
UNCUT = "nvidia_blackwell_fp6_to_fp16"
"""Its products lie too close together for any to be cut, as those of the unit that a test below declares."""
FEW = ("nvidia_volta_fp16", "nvidia_ampere_fp16_to_fp16", "fp16_accumulate", "bf16_fma", "amd_cdna1_fp16", "amd_cdna2_fp16",
       "amd_cdna3_fp16", "int8_int32", "int4_int16_saturate")  # fmt: skip


def holds_products(unit: Mac) -> bool:
    """Whether products are exact although they are rounded, as normally distributed operands show them."""
    if unit.product == "exact" or unit.operands is None:
        return False
    return 2 * (unit.operands.input[0].grid.mantissa_bits + 1) <= unit.product.format.grid.mantissa_bits + 1


@pytest.mark.parametrize(
    "name",
    [*FEW, *(pytest.param(n, marks=pytest.mark.large) for n in sorted({*shipped("macs")} - {*FEW, *UNSEEN, UNCUT, "native"}))],
)
def test_a_shipped_unit_is_found_again(name: str) -> None:
    unit = mac(name)
    assert unit.operands is not None
    terms = terms_for(unit)
    found = probe(of(name), unit.operands.input[0].name, terms)
    assert found.declared is not None
    again = mac(found.declared)
    assert found.differing == 0
    assert declared_tree(again, terms) == declared_tree(unit, terms)
    assert (again.accumulator.format, again.accumulator.rounding) == (unit.accumulator.format, unit.accumulator.rounding)
    assert again.accumulator.projection.overflow == unit.accumulator.projection.overflow
    assert (again.product == "exact") == (unit.product == "exact" or holds_products(unit))
    assert (again.promote and again.promote.format) == (unit.promote and unit.promote.format)
    if unit.fused and again.fused:
        for rule in ("terms", "fraction_bits", "grouping", "late"):
            assert getattr(again.fused, rule) == getattr(unit.fused, rule)


@pytest.mark.parametrize("name", UNSEEN)
def test_a_unit_whose_outputs_do_not_show_its_rule_is_refused_with_the_reason(name: str) -> None:
    unit, calls = mac(name), count()
    assert unit.operands is not None

    def dot(a: Tensor, b: Tensor, c: float) -> float:
        start = torch.tensor([[c]], dtype=torch.float64)
        return matmul(a[None], b[:, None], unit, start, Draw(step=next(calls))).item()

    with pytest.raises(FormatError, match=UNSEEN[name]):
        probe(dot, unit.operands.input[0].name, terms_for(unit))


def test_sums_that_cut_nothing_are_exact_with_a_note_that_a_cut_would_not_show() -> None:
    unit = mac({"order": "fused(4, 25)", "operands": "fp6_e3m2fn", "accumulator": {"format": "fp16"}})
    dot: Dot = lambda a, b, c: matmul(a[None], b[:, None], unit, torch.tensor([[c]], dtype=torch.float64)).item()  # noqa: E731
    found = probe(dot, "fp6_e3m2fn", 9)
    again = mac(found.declared or pytest.fail("nothing found"))
    assert (found.differing, again.accumulator) == (0, unit.accumulator)
    assert again.fused is not None
    assert (again.fused.terms, again.fused.fraction_bits) == (4, "exact")
    assert "# Products of fp6_e3m2fn lie at most 16 binades apart: a cut further down would not show.\n" in found.as_yaml()


def test_the_order_of_sums_that_wrap_is_said_not_to_show() -> None:
    text = probe(of("int8_int32"), "int8", 6).as_yaml()
    assert "# Sums that wrap are the same in every order, which their results therefore do not show.\n" in text
    assert "#" not in probe(of("int4_int16_saturate"), "int4", 6).as_yaml().partition("\n")[2]


@pytest.mark.parametrize(("order", "enters"), [("pairwise", "first"), ("chunked(2)", "first"), ("sequential", "last")])
def test_the_order_of_integer_sums_that_saturate_is_found(order: str, enters: str) -> None:
    place = {"format": "int8", "overflow": "saturate"}
    unit = mac({"order": order, "operands": "int4", "accumulator": place, "c": enters})
    dot: Dot = lambda a, b, c: matmul(a[None], b[:, None], unit, torch.tensor([[c]], dtype=torch.float64)).item()  # noqa: E731
    found = probe(dot, "int4", 5)
    assert found.declared is not None
    assert found.differing == 0
    assert declared_tree(mac(found.declared), 5) == declared_tree(unit, 5)


def test_what_is_no_integer_sum_is_reported() -> None:
    found = probe(lambda a, b, c: float(a @ b) / 2 + c, "int8", 4)
    assert (found.declared, found.tree) == (None, "no integer accumulator of up to 32 bits")


@pytest.mark.parametrize("dot", [by_torch, by_numpy])
def test_the_order_found_in_a_library_explains_its_sums(dot: Dot) -> None:
    def below(i: int, j: int) -> int:
        a = torch.full((19,), 2.0**-30, dtype=torch.float64)
        a[i], a[j] = 2.0**30, -(2.0**30)
        return 19 - round(dot(a, torch.ones(19, dtype=torch.float64), 0.0) * 2**30)

    tree = found_tree(range(19), below)
    rng = torch.Generator().manual_seed(3)
    cases = [quantize_tensor(torch.randn(2, 19, generator=rng, dtype=torch.float64), format_record("bf16")) for _ in range(50)]
    # Some BLAS libraries keep partial sums in double precision.
    explained = [all(dot(a, b, 0.0) == np.float32(summed(tree, (a * b).numpy(), real)) for a, b in cases)
                 for real in (np.float32, np.float64)]  # fmt: skip
    assert any(explained)


def summed(tree: Tree, products: np.ndarray[Any, Any], real: type[np.floating[Any]]) -> np.floating[Any]:
    """The products added in a binary tree, in this precision."""
    if not isinstance(tree, Node):
        return real(products[tree])
    left, right = (summed(child, products, real) for child in tree.children)
    return real(left + right)


def test_numpy_adds_half_precision_in_float32_one_after_the_other() -> None:
    found = probe(by_numpy_half, "fp16", 10)
    assert found.tree == "(c (((((((((0 1) 2) 3) 4) 5) 6) 7) 8) 9))"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"order": "sequential"}, "(((c 0) 1) 2)"),
        ({"order": "sequential", "c": "last"}, "(c ((0 1) 2))"),
        ({"order": "pairwise"}, "((c 0) (1 2))"),
        ({"order": "chunked(2)"}, "((c (0 1)) 2)"),
        ({"order": "fused(2, 13)"}, "((c 0 1) 2)"),
        ({"order": "sequential", "split_k": 2}, "((c (0 1)) 2)"),
    ],
)
def test_the_tree_of_a_declared_unit(given: dict[str, Any], expected: str) -> None:
    assert str(declared_tree(mac({**given, "accumulator": {"format": "fp32"}}), 3)) == expected


def test_a_tree_that_no_order_has_is_shown() -> None:
    def backwards(a: Tensor, b: Tensor, c: float) -> float:
        return of("fp32_sequential")(a.flip(0), b.flip(0), c)

    found = probe(backwards, "fp32", 5)
    assert found.declared is None
    assert found.tree == "(((((c 4) 3) 2) 1) 0)"
    assert "order: native" in found.as_yaml()


def is_not_explained(found: Found) -> bool:
    return (
        found.differing > 0
        and f"# {found.checked - found.differing} of {found.checked} random dot products agree" in found.as_yaml()
    )


def test_integers_that_saturate_once_at_the_end_are_reported_as_not_explained() -> None:
    assert is_not_explained(probe(lambda a, b, c: float((a @ b + c).clamp(-(2.0**15), 2.0**15 - 1)), "int8", 9))


@pytest.mark.large
def test_a_late_sum_that_is_not_looked_for_is_reported_as_not_explained() -> None:
    how = {"terms": 4, "fraction_bits": 20, "late": {"dot_bits": 22, "sum_bits": 18, "total_bits": 24}}
    unit = mac({"order": {"fused": how}, "operands": "fp16", "accumulator": {"format": "fp32"}})
    assert is_not_explained(probe(lambda a, b, c: matmul(a[None], b[:, None], unit, torch.tensor([[c]])).item(), "fp16", 9))


def test_what_is_no_function_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    noisy: Callable[..., float] = lambda a, b, c: float(a @ b + torch.randn((), generator=rng))  # noqa: E731
    with pytest.raises(FormatError, match="equal calls gave different results"):
        probe(noisy, "fp16", 8)
    with pytest.raises(FormatError, match=r"operands: got .*; allowed: a float or integer format"):
        probe(noisy, "nf4", 8)
    with pytest.raises(ConfigError, match=r"dot: got a function that fails with ZeroDivisionError: .*; allowed: dot\(a, b, c\)"):
        probe(lambda a, b, c: 1 / 0, "fp16", 8)
    assert C == -1
