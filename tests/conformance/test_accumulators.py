"""Accumulators against apytypes, Berkeley SoftFloat (softfloatpy), numpy's IEEE arithmetic and the C library's fma."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hwsim.macs import mac, matmul

ROUNDINGS = [
    (23, "nearest_even", "TIES_EVEN"),
    (13, "toward_zero", "TO_ZERO"),
    (10, "toward_negative", "TO_NEG"),
    (7, "nearest_even", "TIES_EVEN"),
    (7, "nearest_away", "TIES_AWAY"),
    (9, "toward_positive", "TO_POS"),
]


@pytest.mark.parametrize(("mantissa_bits", "rounding", "theirs"), ROUNDINGS)
def test_sequential_sums_equal_apytypes(mantissa_bits: int, rounding: str, theirs: str) -> None:
    apytypes = pytest.importorskip("apytypes", reason="apytypes is not installed")
    quantization = getattr(apytypes.QuantizationMode, theirs)
    a, b = torch.randn(20, 60).bfloat16().double(), torch.randn(60, 20).bfloat16().double()
    x, y = (apytypes.APyFloatArray.from_float(m.tolist(), exp_bits=8, man_bits=7) for m in (a, b))
    with apytypes.APyFloatAccumulatorContext(exp_bits=8, man_bits=mantissa_bits, quantization=quantization):
        expected = torch.tensor((x @ y).to_numpy())
    place = {"format": {"kind": "float", "exponent_bits": 8, "mantissa_bits": mantissa_bits}, "rounding": rounding}
    found = matmul(a, b, mac({"order": "sequential", "product": place, "accumulator": place}))
    assert torch.equal(found.double(), expected.double())


@pytest.mark.parametrize("width", [16, 32])
def test_one_fused_multiply_add_equals_softfloat(width: int) -> None:
    softfloat: Any = pytest.importorskip("softfloatpy", reason="softfloatpy is not installed")
    integer, real, fmt = (torch.int16, torch.float16, "fp16") if width == 16 else (torch.int32, torch.float32, "fp32")
    rng = torch.Generator().manual_seed(width)
    low, high = torch.iinfo(integer).min, torch.iinfo(integer).max
    a, b, c = (torch.randint(low, high, (60, 1), generator=rng, dtype=integer) for _ in range(3))
    values = [x.view(real).float() for x in (a, b, c)]
    found = matmul(values[0], values[1].T, mac({"order": "fma", "accumulator": {"format": fmt}}), values[2].expand(60, 60)).to(
        real
    )
    fused, kind, size = getattr(softfloat, f"f{width}_mul_add"), getattr(softfloat, f"Float{width}"), width // 8

    def step(*patterns: torch.Tensor) -> int:
        operands = [kind.from_bytes(int(x).to_bytes(size, "big", signed=True)) for x in patterns]
        return int.from_bytes(fused(*operands).to_bytes(), "big", signed=True)

    expected = torch.tensor([[step(a[i], b[j], c[i]) for j in range(60)] for i in range(60)], dtype=integer)
    same = (found.view(integer) == expected) | (found.isnan() & expected.view(real).isnan())
    assert same.all()


def patterns(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random bit patterns, every second one of like magnitude."""
    rng = torch.Generator().manual_seed(seed)
    integer = torch.int16 if dtype == torch.float16 else torch.int32
    any_bits = torch.randint(torch.iinfo(integer).min, torch.iinfo(integer).max, shape, generator=rng, dtype=integer).view(dtype)
    return torch.where(torch.rand(shape, generator=rng) < 0.5, any_bits, torch.randn(shape, generator=rng).to(dtype))


def tree(leaves: list[Any]) -> Any:
    while len(leaves) > 1:
        odd = leaves[-1:] if len(leaves) % 2 else []
        leaves = [x + y for x, y in zip(leaves[::2], leaves[1::2], strict=False)] + odd
    return leaves[0]


def chain(leaves: list[Any]) -> Any:
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total + leaf
    return total


IEEE_ORDERS: dict[str, Callable[[Any, list[Any]], Any]] = {
    "sequential": lambda c, p: chain([c, *p]),
    "pairwise": lambda c, p: tree([c, *p]),
    "chunked(4)": lambda c, p: chain([c, *(chain([np.zeros_like(c), *p[k : k + 4]]) for k in range(0, len(p), 4))]),
}


@pytest.mark.parametrize("size", [30, pytest.param(1000, marks=pytest.mark.large)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("order", IEEE_ORDERS)
def test_every_order_equals_numpy_s_arithmetic(order: str, dtype: torch.dtype, size: int) -> None:
    a, b, c = patterns((size, 7), dtype, 1), patterns((7, size), dtype, 2), patterns((size, size), dtype, 3)
    place = {"format": "fp16" if dtype == torch.float16 else "fp32"}
    found = matmul(a.float(), b.float(), mac({"order": order, "product": place, "accumulator": place}), c.float()).numpy()
    with np.errstate(all="ignore"):
        products = [a.numpy()[:, k, None] * b.numpy()[None, k, :] for k in range(7)]
        expected = IEEE_ORDERS[order](c.numpy(), products).astype(np.float32)
    different = found.view(np.int32) != expected.view(np.int32)
    assert not (different & ~(np.isnan(found) & np.isnan(expected))).any()


@pytest.mark.parametrize("size", [40, pytest.param(1500, marks=pytest.mark.large)])
def test_fma_equals_the_c_library_s(size: int) -> None:
    fmaf = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    a, b, c = (patterns(shape, torch.float32, n) for n, shape in enumerate([(size, 1), (1, size), (size, size)]))
    found = matmul(a, b, mac({"order": "fma", "accumulator": {"format": "fp32"}}), c).flatten().numpy()
    x, y = (t.expand(size, size).flatten().tolist() for t in (a, b))
    expected = np.array(list(map(fmaf, x, y, c.flatten().tolist())), dtype=np.float32)
    different = found.view(np.int32) != expected.view(np.int32)
    assert not (different & ~(np.isnan(found) & np.isnan(expected))).any()
