"""What rounding to any format must hold, whatever the input."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding_cases import FORMATS, same

from hwsim.formats import Draw, Format, Projection, Rounding
from hwsim.formats.backends import backends
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.reference import project

SYMMETRIC = ("nearest_even", "nearest_away", "nearest_zero", "toward_zero", "to_odd", "stochastic")
MODES = ("toward_positive", "toward_negative", *SYMMETRIC)
FLOATS = ("bf16", "fp16", "e5m2", "e4m3fn", "e4m3fnuz", "e2m1fn", "e3m0", "e8m3_low", "binary8p3se", "e4m3_flat")
NAMES = (*FLOATS, "int4", "uint8", "fixed8.4")

formats = st.sampled_from(NAMES).map(FORMATS.__getitem__)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
near_the_formats = st.floats(-600, 600, width=32) | st.floats(-(2.0**-5), 2.0**-5, width=32)
lists = st.lists(numbers | near_the_formats, min_size=1, max_size=40)
tensors = lists.map(lambda values: torch.tensor(values, dtype=torch.float32))


on_every_backend = pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
few = settings(deadline=None, max_examples=60)


def rounded(x: torch.Tensor, fmt: Format, mode: str, backend: str | None = None) -> torch.Tensor:
    return quantize_tensor(x, fmt, Projection(Rounding.parse(mode)), draw=Draw(seed=3), backend=backend)


@on_every_backend
@few
@given(tensors, formats, st.sampled_from(MODES))
def test_rounding_twice_is_rounding_once(backend: str, x: torch.Tensor, fmt: Format, mode: str) -> None:
    once = rounded(x, fmt, mode, backend)
    assert same(rounded(once, fmt, mode, backend), once)


@on_every_backend
@few
@given(tensors, formats, st.sampled_from(MODES[:-1]))
def test_rounding_keeps_the_order(backend: str, x: torch.Tensor, fmt: Format, mode: str) -> None:
    assert (rounded(x.sort().values, fmt, mode, backend).diff() >= 0).all()


@on_every_backend
@few
@given(tensors, formats.filter(lambda fmt: fmt.min == -fmt.max), st.sampled_from(SYMMETRIC))
def test_rounding_is_odd_but_for_the_directed_modes(backend: str, x: torch.Tensor, fmt: Format, mode: str) -> None:
    assert torch.equal(rounded(-x, fmt, mode, backend), -rounded(x, fmt, mode, backend))


@on_every_backend
@few
@given(tensors, formats.filter(lambda fmt: fmt.min == -fmt.max))
def test_directed_modes_mirror_each_other(backend: str, x: torch.Tensor, fmt: Format) -> None:
    assert torch.equal(rounded(-x, fmt, "toward_positive", backend), -rounded(x, fmt, "toward_negative", backend))


@on_every_backend
@few
@given(tensors, formats, st.sampled_from(MODES))
def test_every_mode_takes_one_of_the_two_neighbours(backend: str, x: torch.Tensor, fmt: Format, mode: str) -> None:
    x = x.clamp(fmt.min, fmt.max)
    low, high = rounded(x, fmt, "toward_negative", backend), rounded(x, fmt, "toward_positive", backend)
    y = rounded(x, fmt, mode, backend)
    assert ((low <= x) & (x <= high) & ((y == low) | (y == high))).all()


@on_every_backend
@few
@given(tensors, formats)
def test_nearest_is_nearest(backend: str, x: torch.Tensor, fmt: Format) -> None:
    x = x.clamp(fmt.min, fmt.max).double()
    low, high = rounded(x, fmt, "toward_negative", backend), rounded(x, fmt, "toward_positive", backend)
    for mode in ("nearest_even", "nearest_away", "nearest_zero"):
        assert torch.equal((rounded(x, fmt, mode, backend) - x).abs(), torch.minimum(x - low, high - x))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
@settings(deadline=None, max_examples=20)
@given(tensors, formats, st.sampled_from(MODES))
def test_the_gpu_kernel_rounds_once_to_a_neighbour(x: torch.Tensor, fmt: Format, mode: str) -> None:
    """In Triton's interpreter, where there is no GPU."""
    if why_not := backends()["triton"].removeprefix("available"):
        pytest.skip(why_not)
    y = rounded(x, fmt, mode, "triton")
    assert same(rounded(y, fmt, mode, "triton"), y)
    assert same(y, rounded(x, fmt, mode, "reference"))


@settings(deadline=None, max_examples=100)
@given(tensors, formats, st.integers(-20, 20))
def test_a_power_of_two_as_scale_is_exact(x: torch.Tensor, fmt: Format, exponent: int) -> None:
    scale = torch.tensor(2.0**exponent)
    x, projection = x.double(), Projection()
    assert torch.equal(quantize_tensor(x, fmt, projection, scale), quantize_tensor(x / scale, fmt, projection) * scale)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].bits <= 8])
def test_every_value_of_a_format_is_kept_by_every_mode(name: str) -> None:
    values = FORMATS[name].values()
    for mode in MODES:
        assert torch.equal(rounded(values, FORMATS[name], mode), values)


N = 5


@pytest.mark.parametrize("variant", ["A", "B", "C"])
@pytest.mark.parametrize("name", ["e4m3fn", "e2m1fn", "int4"])
def test_stochastic_goes_up_in_as_many_draws_as_the_variant_says(name: str, variant: str) -> None:
    """All 2^N draws: A floor(v 2^N) times, B floor(v 2^N + 1/2) (half up), C v 2^N rounded to nearest even."""
    fmt = FORMATS[name]
    projection = Projection(Rounding("stochastic", N, variant))  # type: ignore[arg-type]
    low, high = Fraction(fmt.values()[-3].item()), Fraction(fmt.values()[-2].item())
    for eighths in range(8 * 2**N):
        v = Fraction(eighths, 8 * 2**N)
        ups = sum(project(low + v * (high - low), fmt, projection, draw << (32 - N)) == high for draw in range(2**N))
        scaled = v * 2**N
        assert ups == {"A": scaled.__floor__(), "B": (scaled + Fraction(1, 2)).__floor__(), "C": round(scaled)}[variant]


@pytest.mark.parametrize("scale", [None, 0.37])
@pytest.mark.parametrize("name", ["e4m3fn", "bf16", "int8", "e2m1fn"])
def test_stochastic_is_unbiased(name: str, scale: float | None) -> None:
    """The mean of 2^16 draws lies within five standard deviations of x, normal and subnormal."""
    fmt, divisor = FORMATS[name], None if scale is None else torch.tensor(scale)
    for x in (1.3, 0.3 * fmt.smallest_subnormal, -1.71):
        many = torch.full((1 << 16,), x)
        y = quantize_tensor(many, fmt, Projection(Rounding("stochastic")), divisor, draw=Draw(seed=2)).double()
        assert len(y.unique()) == 2
        assert abs(y.mean().item() - torch.tensor(x).item()) < 5 * y.std().item() / 2**8
