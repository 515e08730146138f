"""Every backend gives the bits of the exact reference, block by block: every scale rule, rounding and layout."""

from __future__ import annotations

import pytest
import torch
from block_cases import BLOCKS, DRAW, agree, given, projection, reference, varied
from rounding_cases import differences

from hwsim.formats import Projection, Rounding
from hwsim.formats.block_lowering import lower_block, unpack_block
from hwsim.formats.blocks import Blocks, quantize_blocks

# Triton's interpreter computes both sides of every choice, the side not taken too.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
INTERPRETED = pytest.param("triton", marks=pytest.mark.large)
BACKENDS = ("torch", "numba")
EVERY_BACKEND = (*BACKENDS, INTERPRETED)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDINGS = (
    Rounding(),
    *(Rounding.parse(mode) for mode in ("nearest_away", "toward_zero", "toward_positive", "to_odd")),
    Rounding("stochastic", 24),
    Rounding("stochastic", 8),
    Rounding("stochastic", 32, "B"),
)


def blocks_by(backend: str, x: torch.Tensor, *arguments: object, **named: object) -> Blocks:
    """Blocks by a backend, on the device that it needs."""
    on = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    return quantize_blocks(x.to(on), *arguments, backend=backend, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("name", ["mxfp4_floor", "mxint8_element", "nvfp4", "e4m3_tile", "e5m2_element", "int8_fp32"])
def test_every_rounding_of_elements(name: str, rounding: Rounding, backend: str) -> None:
    x = given(torch.float32)
    found = blocks_by(backend, x, BLOCKS[name], projection(name, rounding), -1, DRAW)
    agree(x, reference(name, rounding, torch.float32), found)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_format_and_dtype(name: str, dtype: torch.dtype, backend: str) -> None:
    x = given(dtype)
    found = blocks_by(backend, x, BLOCKS[name], projection(name, Rounding()), -1, DRAW)
    agree(x, reference(name, Rounding(), dtype), found)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", BLOCKS)
def test_elements_and_either_axis(name: str, axis: int, backend: str) -> None:
    x = given(torch.float32)
    expected = reference(name, Rounding(), torch.float32, axis, False)
    agree(x, expected, blocks_by(backend, x, BLOCKS[name], projection(name, Rounding()), axis, DRAW, rescale=False))


@pytest.mark.parametrize("name", ["mxfp8_e5m2_even", "e5m2_two_level"])
@pytest.mark.parametrize("overflow", ["saturate", "infinity", "nan"])
@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_overflow_rules_act_on_elements(backend: str, overflow: str, name: str) -> None:
    x = given(torch.float32)
    fmt = BLOCKS[name]
    rule = Projection(overflow=overflow)  # type: ignore[arg-type]
    agree(x, quantize_blocks(x, fmt, rule, backend="reference"), blocks_by(backend, x, fmt, rule))


@pytest.mark.parametrize("exponent", [-149, -126, -105, -70, 0, 100])
@pytest.mark.parametrize(
    ("name", "overflow"),
    [
        *((name, "saturate") for name in ("mxfp4_floor", "msfp12", "nvfp4", "int8_two_level")),
        *((name, overflow) for name in ("mxfp8_e5m2_even", "e5m2_two_level") for overflow in ("saturate", "infinity")),
    ],
)
def test_rows_of_many_whole_blocks(name: str, overflow: str, exponent: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2560, generator=generator).round(decimals=1) * 2.0 ** torch.randint(0, 9, (3, 2560), generator=generator)
    x = torch.ldexp(x, torch.tensor(exponent))
    x[0, :64], x[0, 64:80] = 0.0, -0.0
    rule = Projection(overflow=overflow)  # type: ignore[arg-type]
    fmt = BLOCKS[name]
    agree(x, quantize_blocks(x, fmt, rule, backend="torch"), quantize_blocks(x, fmt, rule, backend="numba"))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (2, 3, 4), (70,), (2, 2, 33)])
@pytest.mark.parametrize("name", ["mxfp4_floor", "nvfp4"])
def test_any_shape_along_any_axis(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for axis in range(len(shape)):
        expected = quantize_blocks(x, BLOCKS[name], axis=axis, backend="reference")
        for backend in (*BACKENDS, None):
            agree(x, expected, quantize_blocks(x, BLOCKS[name], axis=axis, backend=backend))


def test_a_scalar_is_a_block_of_one() -> None:
    for backend in ("reference", *BACKENDS):
        q = quantize_blocks(torch.tensor(1.3), BLOCKS["mxfp4_floor"], backend=backend)
        assert (q.values.item(), q.scales.tolist()) == (1.5, [0.25])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_strides_are_kept_and_the_index_is_row_major(rounding: str, backend: str) -> None:
    fmt, rule = BLOCKS["mxfp4_floor"], Projection(Rounding.parse(rounding))
    x = torch.randn(4, 6, 5)
    expected = quantize_blocks(x, fmt, rule, backend=backend)
    for view in (x.transpose(0, 2).contiguous().transpose(0, 2), x.repeat_interleave(2, 2)[..., ::2]):
        found = quantize_blocks(view, fmt, rule, backend=backend)
        assert not differences(x, expected.values, found.values)
        assert found.values.stride() == torch.empty_like(view).stride()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["mxfp4_floor", "nvfp4", "e4m3_tile"])
def test_result_does_not_depend_on_the_number_of_threads(name: str, axis: int) -> None:
    x = varied((67, 2050), torch.float32)
    for rule in (Projection(), Projection(Rounding("stochastic"))):
        expected = quantize_blocks(x, BLOCKS[name], rule, axis, DRAW, "torch")
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            agree(x, expected, quantize_blocks(x, BLOCKS[name], rule, axis, DRAW, "numba"))


@pytest.mark.parametrize("name", BLOCKS)
def test_packed_rules_come_back(name: str) -> None:
    packed = lower_block(BLOCKS[name], projection(name, Rounding())).packed()
    assert unpack_block(packed).packed() == packed
