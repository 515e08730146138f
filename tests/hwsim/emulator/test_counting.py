"""The compiled pass over a tensor before and after its cast counts and sums as torch's operations do."""

from math import inf, nan

import pytest
import torch
from torch import Tensor

from hwsim.emulator.counting import Counts, count

ENDS = ((-448.0, 448.0), (-1 / 3, 0.1), (-inf, inf), (-1e300, 1e300), (0.0, 3.0))
DTYPES = (
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float16),
    (torch.float64, torch.float32),
)


def counted(x: Tensor, y: Tensor, low: float, high: float) -> Counts:
    x, y = x.double(), y.double()
    finite = x.isfinite() & y.isfinite()
    error, kept = torch.where(finite, y - x, 0.0), torch.where(finite, x, 0.0)
    over = ((x > high) | (x < low) | (x.isfinite() & ~y.isfinite())).sum()
    sums = float((kept * kept).sum()), float((error * error).sum()), float(error.sum())
    return Counts(*sums, int(over), int(((y == 0) & (x != 0)).sum()))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize(("before", "after"), DTYPES, ids=str)
@pytest.mark.parametrize("special", [False, True], ids=["finite", "with infinities and NaN"])
def test_counts_are_those_of_torch(before: torch.dtype, after: torch.dtype, ends: tuple[float, float], special: bool) -> None:
    x = torch.randn(70_001, generator=torch.Generator().manual_seed(0))
    x[::7] = torch.tensor(ends, dtype=torch.float64).clamp(-1e4, 1e4).to(torch.float32)[0]
    x[1::7] = torch.tensor(ends, dtype=torch.float64).clamp(-1e4, 1e4).to(torch.float32)[1]
    x = x.to(before)
    y = ((x.float() * 8).round() / 8).to(after)
    if special:
        x[[3, 5000, 69_000]] = torch.tensor([inf, -inf, nan], dtype=before)
        y[[3, 4, 6000]] = torch.tensor([inf, nan, -inf], dtype=after)
    found, expected = count(x, y, *ends), counted(x, y, *ends)
    assert found[3:] == expected[3:]
    assert found[:3] == pytest.approx(expected[:3], rel=1e-11, abs=1e-9)
