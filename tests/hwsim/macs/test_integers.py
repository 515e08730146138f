"""Integer units equal int64 arithmetic that wraps or saturates at the declared width."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwsim.macs import mac, matmul


def by_int64(a: torch.Tensor, b: torch.Tensor, bits: int, overflow: str) -> torch.Tensor:
    """Term by term, in Python's own integers."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    x, y = a.long().numpy().astype(object), b.long().numpy().astype(object)
    total = np.zeros((a.shape[0], b.shape[1]), dtype=object)
    for k in range(a.shape[1]):
        total = total + np.outer(x[:, k], y[k])
        total = (total - low) % (1 << bits) + low if overflow == "wrap" else np.clip(total, low, high)
    return torch.from_numpy(total.astype(np.int64))


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize(
    ("operand", "accumulator", "terms"),
    [
        ("int4", "int16", 700),
        ("int8", "int16", 40),
        ("int8", "int32", 64),
        ("uint8", "int32", 64),
        ("int16", "int32", 40),
        ("int2", "int4", 40),
    ],
)
def test_equals_int64_arithmetic(operand: str, accumulator: str, terms: int, overflow: str) -> None:
    unit = mac({"order": "sequential", "operands": operand, "accumulator": {"format": accumulator, "overflow": overflow}})
    assert unit.operands is not None
    fmt = unit.operands.input[0]
    rng = torch.Generator().manual_seed(terms)
    low = int(fmt.min) if operand != "int4" else 1
    a, b = (torch.randint(low, int(fmt.max) + 1, shape, generator=rng) for shape in ((6, terms), (terms, 5)))
    expected = by_int64(a, b, unit.accumulator.format.bits, overflow)
    assert torch.equal(matmul(a.double(), b.double(), unit).long(), expected)


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_widest_accumulation_is_exact(overflow: str) -> None:
    unit = mac({"order": "sequential", "accumulator": {"format": "int32", "overflow": overflow}})
    a = torch.full((1, 3000), 2.0**30 - 1, dtype=torch.float64)
    b = torch.full((3000, 1), -(2.0**31) + 1, dtype=torch.float64)
    assert torch.equal(matmul(a, b, unit).long(), by_int64(a, b, 32, overflow))


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_c_may_lie_outside_the_accumulator_s_range(overflow: str) -> None:
    given = {"order": "sequential", "operands": "int4", "accumulator": {"format": "int8", "overflow": overflow}}
    unit = mac(given | {"c": {"enters": "first", "format": "int16"}})
    a, b, c = torch.tensor([[3.0, -2.0]]), torch.tensor([[5.0], [7.0]]), torch.tensor([[1000.0]])
    assert torch.equal(matmul(a, b, unit, c), matmul(a, b, unit, c, backend="reference"))


def test_fixed_point_products_are_rounded_to_the_grid() -> None:
    fixed = {"kind": "fixed", "bits": 8, "fraction_bits": 4}
    unit = mac(
        {"order": "sequential", "operands": fixed, "accumulator": {"format": {"kind": "fixed", "bits": 16, "fraction_bits": 6}}}
    )
    a, b = torch.tensor([[0.0625, 1.5]]), torch.tensor([[0.4375], [0.0625]])
    assert matmul(a, b, unit).item() == 0.125
    assert matmul(a, b, unit, backend="reference").item() == 0.125
