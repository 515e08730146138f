"""What a dot product does is found from outside: the shipped units are found again, and numpy's and torch's own order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hwsim.errors import FormatError
from hwsim.fields import format_record
from hwsim.formats.operators import quantize_tensor
from hwsim.macs import mac, matmul
from hwsim.macs.probe import probe
from hwsim.macs.probe_cases import Dot
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


@pytest.mark.parametrize(
    ("name", "operands", "terms"),
    [
        ("nvidia_volta_fp16", "fp16", 12),
        ("nvidia_ampere_fp16_to_fp16", "fp16", 24),
        ("nvidia_hopper_fp16", "fp16", 40),
        ("fp16_accumulate", "fp16", 9),
        ("fp32_sequential", "fp32", 9),
        ("bf16_fma", "bf16", 9),
        ("bf16_systolic_fp32", "bf16", 9),
        ("amd_cdna1_fp16", "fp16", 12),
    ],
)
def test_a_shipped_unit_is_found_again(name: str, operands: str, terms: int) -> None:
    found, unit = probe(of(name), operands, terms), mac(name)
    assert found.declared is not None
    again = mac(found.declared)
    assert found.differing == 0
    assert declared_tree(again, terms) == declared_tree(unit, terms)
    assert (again.accumulator.format, again.accumulator.rounding) == (unit.accumulator.format, unit.accumulator.rounding)
    assert (again.product == "exact") == (unit.product == "exact")
    if unit.fused and again.fused:
        assert (again.fused.terms, again.fused.fraction_bits) == (unit.fused.terms, unit.fused.fraction_bits)


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "terms"), [("nvidia_hopper_fp8", 64), ("nvidia_hopper_mma_sync_fp8", 64), ("deepseek_fp8", 256)]
)
def test_groups_that_are_promoted_are_found_again(name: str, terms: int) -> None:
    found, unit = probe(of(name), "fp8_e4m3fn", terms), mac(name)
    assert found.declared is not None
    again = mac(found.declared)
    assert found.differing == 0
    assert declared_tree(again, terms) == declared_tree(unit, terms)
    assert again.fused is not None
    assert unit.fused is not None
    assert again.fused.fraction_bits == unit.fused.fraction_bits


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


def test_a_late_sum_is_reported_as_not_explained() -> None:
    found = probe(of("amd_cdna3_fp16"), "fp16", 16)
    assert found.differing > 0
    assert f"# {found.checked - found.differing} of {found.checked} random dot products agree" in found.as_yaml()


def test_what_is_no_function_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    noisy: Callable[..., float] = lambda a, b, c: float(a @ b + torch.randn((), generator=rng))  # noqa: E731
    with pytest.raises(FormatError, match=r"equal calls gave different results|too narrow"):
        probe(noisy, "fp16", 8)
    with pytest.raises(FormatError, match="too narrow"):
        probe(of("nvidia_blackwell_nvfp4"), "fp4", 8)
    assert C == -1
