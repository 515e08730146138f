"""Every backend gives the bits of the exact reference: every format, rounding and overflow rule, on tricky inputs."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from rounding_cases import FORMATS, ROUNDINGS, SPECIALS, differences, projections, tricky

from hwsim.formats import Draw, Format, Projection, Rounding
from hwsim.formats.operators import quantize_tensor

DRAW = Draw(seed=5, site="layer", step=3, call=2, rank=1, offset=37)
# Triton's interpreter computes both sides of every choice, the side not taken too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
BACKENDS = ("torch", "numba", pytest.param("triton", marks=pytest.mark.large))
DEVICES = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ANY_DTYPE = (Rounding(), Rounding("stochastic", 32, "B"))


@cache
def reference(fmt: Format, projection: Projection, dtype: torch.dtype) -> torch.Tensor:
    return quantize_tensor(tricky(fmt, dtype), fmt, projection, draw=DRAW, backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_backend_equals_reference(name: str, rounding: Rounding, backend: str) -> None:
    fmt = FORMATS[name]
    for i, projection in enumerate(projections(fmt, rounding)):
        for dtype in DTYPES[: None if i == 0 and rounding in ANY_DTYPE else 1]:
            x, expected = tricky(fmt, dtype), reference(fmt, projection, dtype)
            for count in (len(x), len(x) - len(SPECIALS)):
                on = DEVICES.get(backend, "cpu")
                given = quantize_tensor(x[:count].to(on), fmt, projection, draw=DRAW, backend=backend).cpu()
                assert given.dtype == expected.dtype
                assert not differences(x[:count], expected[:count], given), (projection.overflow, dtype, count)
