"""The Triton kernels give the bits of the exact reference: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from rounding_cases import FORMATS, ROUNDINGS, differences, projections, same, tricky

from hwsim.formats import Draw, Float, Format, FormatError, Projection, Rounding
from hwsim.formats.backends import backends, gpu
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout

pytest.importorskip("triton")
# The interpreter computes both sides of every choice, the side not taken too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRAW = Draw(seed=5, site="layer", step=3, call=2, rank=1, offset=37)
E4M3 = FORMATS["e4m3fn"]
NEAREST, DRAWN = Rounding(), Rounding("stochastic")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SCALES = [3.0, 1 / 3, 0.25, 2.0**-130, 1e30, -0.7, 0.0, float("inf"), float("nan")]


def on_gpu(
    x: torch.Tensor,
    fmt: Format,
    projection: Projection = Projection(),
    scale: torch.Tensor | None = None,
    layout: ScaleLayout = PER_TENSOR,
    draw: Draw = DRAW,
    rescale: bool = True,
) -> torch.Tensor:
    given = scale if scale is None else scale.to(DEVICE)
    return quantize_tensor(x.to(DEVICE), fmt, projection, given, layout, draw, "triton", rescale).cpu()


def expected(x: torch.Tensor, fmt: Format, projection: Projection, *scaled: object, rescale: bool = True) -> torch.Tensor:
    return quantize_tensor(x, fmt, projection, *scaled, draw=DRAW, backend="reference", rescale=rescale)  # type: ignore[arg-type]


def assert_equal_to_reference(
    x: torch.Tensor, fmt: Format, projection: Projection, *scaled: object, rescale: bool = True
) -> None:
    right = expected(x, fmt, projection, *scaled, rescale=rescale)
    given = on_gpu(x, fmt, projection, *scaled, rescale=rescale)  # type: ignore[arg-type]
    assert (given.dtype, given.shape) == (right.dtype, right.shape)
    assert not differences(x.expand_as(right), right, given)


@pytest.mark.parametrize("rounding", [NEAREST, DRAWN], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, rounding: Rounding) -> None:
    fmt = FORMATS[name]
    assert_equal_to_reference(tricky(fmt, torch.float32), fmt, projections(fmt, rounding)[0])


@pytest.mark.parametrize("name", ["e5m2", "int8", "codes_in_any_order", "posit8_2"])
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
def test_every_rounding_and_overflow_rule(rounding: Rounding, name: str) -> None:
    fmt = FORMATS[name]
    for projection in projections(fmt, rounding):
        assert_equal_to_reference(tricky(fmt, torch.float32), fmt, projection)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", ["fp64", "bf16", "e4m3fn", "int4", "lns8"])
def test_every_dtype(name: str, dtype: torch.dtype) -> None:
    fmt = FORMATS[name]
    for rounding in (NEAREST, DRAWN):
        assert_equal_to_reference(tricky(fmt, dtype), fmt, projections(fmt, rounding)[0])


@pytest.mark.large
@pytest.mark.parametrize("rounding", [NEAREST, DRAWN], ids=str)
@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if isinstance(fmt, Float) and fmt.bits <= 16])
def test_every_float16_value(name: str, rounding: Rounding) -> None:
    fmt, projection = FORMATS[name], projections(FORMATS[name], rounding)[0]
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    assert not differences(x, quantize_tensor(x, fmt, projection, draw=DRAW, backend="torch"), on_gpu(x, fmt, projection))


def scaled_inputs(fmt: Format, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """One scale a row, and quotients on and beside ties, beyond the range, zero, infinite and NaN."""
    scale = torch.tensor(SCALES, dtype=dtype)
    points = torch.tensor([0.3, 0.5, 1.0, 1.0625, 2.5, 3.25, 2.0**-9, 1.5 * min(fmt.max, 2.0**40)], dtype=torch.float64)
    near = (points * scale[:, None].double()).to(dtype)
    far = torch.full_like(near, torch.inf)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype).expand(len(scale), 5)
    return torch.cat([near, torch.nextafter(near, far), -torch.nextafter(near, -far), special], 1), scale


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("rounding", [NEAREST, DRAWN, Rounding("to_odd"), Rounding("stochastic", 32, "C")], ids=str)
@pytest.mark.parametrize("name", ["e4m3fn", "int8", "fp32", "binary", "far_apart", "posit8_2"])
def test_scaled(name: str, rounding: Rounding, rescale: bool) -> None:
    fmt = FORMATS[name]
    x, scale = scaled_inputs(fmt, torch.float32)
    assert_equal_to_reference(x, fmt, projections(fmt, rounding)[0], scale, ScaleLayout(axis=0), rescale=rescale)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", ["e4m3fn", "e8m0fnu", "fp64"])
def test_scaled_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    fmt = FORMATS[name]
    x, scale = scaled_inputs(fmt, dtype)
    assert_equal_to_reference(x, fmt, projections(fmt, NEAREST)[0], scale, ScaleLayout(axis=0))


def test_wrapped_quotients_of_any_size() -> None:
    x, scale = scaled_inputs(FORMATS["int8"], torch.float64)
    assert_equal_to_reference(x, FORMATS["int8"], Projection(overflow="wrap", nan="zero"), scale, ScaleLayout(axis=0))


@pytest.mark.parametrize(
    ("scale_shape", "layout"),
    [
        ((), ScaleLayout()),
        ((3,), ScaleLayout(axis=0)),
        ((8,), ScaleLayout(axis=1)),
        ((5,), ScaleLayout(axis=-1)),
        ((3, 8, 2), ScaleLayout(axis=-1, size=4)),
        ((3, 3, 5), ScaleLayout(axis=1, size=3)),
        ((2, 8, 5), ScaleLayout(axis=0, size=2)),
    ],
)
def test_every_scale_layout(scale_shape: tuple[int, ...], layout: ScaleLayout) -> None:
    x = torch.randn(3, 8, 5)
    assert_equal_to_reference(x, E4M3, Projection(), torch.rand(scale_shape) + 0.1, layout)


@pytest.mark.parametrize("projection", [Projection(), Projection(DRAWN), Projection(Rounding("to_odd"))], ids=str)
def test_many_programs_agree_with_the_other_backends(projection: Projection) -> None:
    x = torch.randn(3, 1733)
    assert same(on_gpu(x, E4M3, projection), quantize_tensor(x, E4M3, projection, draw=DRAW, backend="torch"))
    scale = torch.rand(1733) + 0.1
    scaled = quantize_tensor(x, E4M3, projection, scale, ScaleLayout(axis=1), DRAW, "torch")
    assert same(on_gpu(x, E4M3, projection, scale, ScaleLayout(axis=1)), scaled)


@pytest.mark.parametrize("offset", [0, 1, 63, 64, 1000, (1 << 40) + 17])
@pytest.mark.parametrize("rounding", [DRAWN, Rounding("stochastic", 32)], ids=str)
def test_words_belong_to_the_element_of_the_whole_tensor(rounding: Rounding, offset: int) -> None:
    x, projection, draw = torch.randn(150), Projection(rounding), Draw(seed=1 << 40, offset=offset)
    assert same(on_gpu(x, E4M3, projection, draw=draw), quantize_tensor(x, E4M3, projection, draw=draw, backend="torch"))


@pytest.mark.parametrize("projection", [Projection(), Projection(DRAWN)], ids=str)
def test_strides_are_kept_and_the_index_is_row_major(projection: Projection) -> None:
    x = torch.randn(4, 6, 5)
    right = quantize_tensor(x, E4M3, projection, draw=DRAW, backend="torch")
    for view in (x.transpose(0, 2).contiguous().transpose(0, 2), x.repeat_interleave(2, 2)[..., ::2]):
        given = on_gpu(view, E4M3, projection)
        assert same(given, right)
        assert given.stride() == torch.empty_like(view).stride()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_any_shape_is_rounded(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 1.06)
    for scale in (None, torch.tensor(1.0)):
        assert same(on_gpu(x, E4M3, scale=scale), torch.full(shape, 1.0))


@pytest.mark.parametrize("name", ["e2m1fn", "int8"])
def test_nan_without_a_place_is_refused_with_its_index(name: str) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = x[2, 0] = torch.nan
    with pytest.raises(FormatError, match=r"x\[1, 2\]: got nan, which becomes NaN"):
        on_gpu(x, FORMATS[name])


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends()["triton"] == "available"
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends()["triton"] == "there is no CUDA device, and TRITON_INTERPRET is not set"
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert backends()["triton"] == "triton is not installed"


def test_cpu_tensors_need_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(FormatError, match="x: got a tensor on cpu for the backend 'triton'; allowed: CUDA devices"):
        gpu.round_tensor(torch.ones(2), None, None, None, (), torch.float32)  # type: ignore[arg-type]
