"""What other implementations get wrong, each a case that hwsim gets right in every backend.

The sources of the defects: QPyTorch 0.3 (`quant_cpu.cpp`, issue 48), microxcaling, mptorch, mpemu, pychop 0.6, APyTypes 0.5,
gfloat 0.5, torchao 0.18, ml_dtypes 0.6 and torch 2.13, as run; what they return stands in each case's name or comment.
"""

from __future__ import annotations

import math

import pytest
import torch

import hwsim
from hwsim.formats import Draw, Float, Format, Projection, Rounding
from hwsim.formats.backends import backends
from hwsim.formats.operators import quantize_tensor

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

BACKENDS = ("reference", "torch", "numba", "triton")
E4M3, E5M2, E2M1 = Float(4, 3, specials="fn"), Float(5, 2), Float(2, 1, specials="finite")
FP16, BF16, FP32 = Float(5, 10), Float(8, 7), Float(8, 23)
ULP = 2.0**-52
NAN = float("nan")

NEAREST: dict[str, tuple[float, Format, float]] = {
    "a tie goes away from zero (QPyTorch: 1.5)": (1.25, E2M1, 1.0),
    "a subnormal tie goes away from zero (QPyTorch: 0.0175...)": (0.0166015625, E4M3, 0.015625),
    "the all-ones exponent counts as a number (QPyTorch: 480)": (480.0, E4M3, 448.0),
    "the all-ones exponent counts as a number (QPyTorch: 114688)": (1e6, E5M2, 57344.0),
    "-0 is lost (QPyTorch, mptorch)": (-0.0, E4M3, -0.0),
    "what underflows loses its sign (QPyTorch)": (-1e-9, E4M3, -0.0),
    "the sign flips at 23 bits (QPyTorch: -1.1)": (1.100000023841858, FP32, 1.100000023841858),
    "zero becomes -2^-125 at 23 bits (QPyTorch)": (0.0, FP32, 0.0),
    "float64 rounds twice, up (ml_dtypes, torch)": (1.0625 - ULP, E4M3, 1.0),
    "float64 rounds twice, down (ml_dtypes, torch)": (1.0625 + ULP, E4M3, 1.125),
    "float64 rounds twice, subnormal (ml_dtypes, torch)": (2.0**-10 * (1 + ULP), E4M3, 2.0**-9),
    "float32 rounds twice, through float16 (mpemu)": (1.1250000001164153, E5M2, 1.25),
    "below the smallest subnormal all is zero (mpemu)": (1.5 * 2.0**-10, E4M3, 2.0**-9),
    "subnormals lie off the grid (mpemu: 1.125 2^-9)": (1.125 * 2.0**-9, E4M3, 2.0**-9),
    "what rounds up to the smallest normal is flushed (APyTypes)": (0.99 * 2.0**-14, E5M2, 2.0**-14),
    "the smallest exponent is one lower (unit-scaling)": (1.25 * 2.0**-15, E5M2, 2.0**-15),
}

OVERFLOW: dict[str, tuple[float, Format, str, float]] = {
    "+infinity becomes finite (torch's cast to E4M3: 448)": (math.inf, E4M3, "nan", NAN),
    "overflow becomes finite (torch's cast to E4M3: 448)": (500.0, E4M3, "nan", NAN),
    "just beyond the largest value a finite value is made up (pychop: 65536)": (65520.0, FP16, "infinity", math.inf),
    "just beyond the largest value everything is zero (pychop: 0)": (100000.0, FP16, "infinity", math.inf),
    "just beyond the largest value a finite value is made up (pychop: 65536.0)": (61440.0, E5M2, "infinity", math.inf),
    "below that tie the largest value stays": (65519.99, FP16, "infinity", 65504.0),
    "a carry into the infinity's exponent becomes NaN (microxcaling)": ((2 - 2.0**-8) * 2.0**127, BF16, "infinity", math.inf),
    "a carry into the infinity's exponent does not saturate": ((2 - 2.0**-8) * 2.0**127, BF16, "saturate", 3.3895313892515355e38),
    "NaN becomes the largest value (QPyTorch: 480)": (NAN, E4M3, "saturate", NAN),
    "NaN becomes infinity (QPyTorch, 8 exponent bits)": (NAN, BF16, "infinity", NAN),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if why_not := backends()[name].removeprefix("available"):
        pytest.skip(why_not)
    return name


def identical(given: torch.Tensor, expected: float) -> bool:
    value = given.item()
    return (
        math.isnan(value) if math.isnan(expected) else value == expected and math.copysign(1, value) == math.copysign(1, expected)
    )


@pytest.mark.parametrize(("x", "fmt", "expected"), NEAREST.values(), ids=NEAREST)
def test_not_here_in_nearest(x: float, fmt: Format, expected: float, backend: str) -> None:
    assert identical(quantize_tensor(torch.tensor(x, dtype=torch.float64), fmt, backend=backend), expected)


@pytest.mark.parametrize(("x", "fmt", "overflow", "expected"), OVERFLOW.values(), ids=OVERFLOW)
def test_not_here_beyond_the_range(x: float, fmt: Format, overflow: str, expected: float, backend: str) -> None:
    y = quantize_tensor(torch.tensor(x, dtype=torch.float64), fmt, Projection(overflow=overflow), backend=backend)  # type: ignore[arg-type]
    assert identical(y, expected)


def test_nan_with_any_payload_stays_nan(backend: str) -> None:
    """CPFloat makes infinities of NaN whose payload lies in the low bits."""
    bits = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001 - (1 << 32)], dtype=torch.int64).to(torch.int32)
    assert quantize_tensor(bits.view(torch.float32), BF16, backend=backend).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_floating_dtype_is_rounded(dtype: torch.dtype, backend: str) -> None:
    """QPyTorch raises "expected scalar type Float"."""
    assert quantize_tensor(torch.tensor([1.3], dtype=dtype), E2M1, backend=backend).tolist() == [1.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stochastic_rounding_is_unbiased_in_every_dtype(dtype: torch.dtype) -> None:
    """microxcaling's dither has a mean of 1.01167 for 1.0078 in bfloat16; mpemu's of 1.0123 for 1.0156."""
    x = torch.full((1 << 16,), 1.0078125, dtype=dtype)
    mean = quantize_tensor(x, Float(8, 5), Projection(Rounding("stochastic")), draw=Draw(seed=1)).double().mean().item()
    spread = (0.25 * 0.75) ** 0.5 * 2.0**-5 / 2**8
    assert abs(mean - 1.0078125) < 5 * spread


def test_stochastic_rounding_follows_the_seed_and_the_step() -> None:
    """QPyTorch ignores the seed; mpemu has the same noise in every call."""
    x = torch.rand(4096, generator=torch.Generator().manual_seed(0))
    one, same, seed, step = (
        quantize_tensor(x, E4M3, Projection(Rounding("stochastic")), draw=draw)
        for draw in (Draw(seed=1), Draw(seed=1), Draw(seed=2), Draw(seed=1, step=1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, seed)
    assert not torch.equal(one, step)


def test_stochastic_rounding_rounds_subnormals_too() -> None:
    """mpemu rounds them to nearest; QPyTorch loses what lies below 2^-23 of the smallest."""
    smallest = 2.0**-9
    x = torch.full((1 << 16,), smallest / 4)
    y = quantize_tensor(x, E4M3, Projection(Rounding("stochastic")), draw=Draw(seed=4))
    assert y.unique().tolist() == [0.0, smallest]
    assert abs((y > 0).double().mean().item() - 0.25) < 5 * (0.25 * 0.75) ** 0.5 / 2**8
    tiny = torch.full((1 << 20,), smallest * 2.0**-16)
    wide = quantize_tensor(tiny, E4M3, Projection(Rounding("stochastic", 32)), draw=Draw(seed=5))
    assert 0 < int((wide > 0).sum()) < 50


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_blocks_with_an_infinity_are_nan(backend: str) -> None:
    """gfloat returns 7.6e40 and zeros, torchao 0.18 a finite scale and 448."""
    x = torch.ones(1, 32)
    x[0, 3] = math.inf
    assert hwsim.quantize(x, "mxfp8_e4m3", backend=backend).isnan().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_blocks_of_float32_subnormals_have_their_scale(backend: str) -> None:
    """torchao is off by a factor of two: floor(log2 2^-127) - 8 lies below E8M0, whose smallest scale is taken."""
    x = torch.full((1, 32), 2.0**-127)
    q = hwsim.quantize(x, "mxfp8_e4m3", return_parts=True, backend=backend)
    assert q.scale_codes.tolist() == [[0]]  # type: ignore[union-attr]
    assert q.values.tolist() == x.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_nvfp4_scales_may_be_subnormal(backend: str) -> None:
    """torchao clamps block scales to 2^-6, the smallest normal E4M3."""
    x = torch.ones(1, 32)
    x[0, 16:] = 2.0**-16
    q = hwsim.quantize(x, "nvfp4", return_parts=True, backend=backend)
    assert 0 < q.scale_codes[0, 1].item() < 8  # type: ignore[union-attr,index]


def test_the_largest_exponent_of_fp64_is_1023() -> None:
    """gfloat says 1024, by a logarithm in float64."""
    assert math.frexp(Float(11, 52).max)[1] - 1 == 1023
