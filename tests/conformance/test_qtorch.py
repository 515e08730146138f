"""The backend `qtorch`: equal to the others outside of the table in docs/qtorch.md, and refusing what QPyTorch cannot express."""

from __future__ import annotations

import pytest
import torch
from qtorch_table import PAGE, TABLE, divergences, equal, floats, half_precision_values, table

from hwsim.formats import Draw, Fixed, Float, Format, FormatError, Integer, Projection, Rounding
from hwsim.formats.backends import backends
from hwsim.formats.backends.qtorch import inexpressible
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.presets import preset
from hwsim.formats.scaled import ScaleLayout

E4M3 = Float(4, 3, specials="fn")
STOCHASTIC = Projection(Rounding("stochastic"), nan="max")


@pytest.fixture(autouse=True)
def _available() -> None:
    if why_not := backends()["qtorch"].removeprefix("available"):
        pytest.skip(why_not)


def rounded(x: torch.Tensor, fmt: Format, projection: Projection = Projection(nan="max")) -> torch.Tensor:
    return quantize_tensor(x, fmt, projection, backend="qtorch")


def test_the_documented_table_is_what_qtorch_does() -> None:
    found = TABLE.search(PAGE.read_text())
    assert found
    assert found.group() == table()


@pytest.mark.parametrize("name", [name for name, fmt in floats().items() if not inexpressible(fmt)])
def test_qtorch_equals_the_other_backends_outside_of_the_classes(name: str) -> None:
    assert divergences(floats()[name], half_precision_values())["other"] == 0


@pytest.mark.parametrize(
    ("exponent_bits", "mantissa_bits"), [(5, 2), (4, 3), (3, 4), (2, 3), (3, 2), (2, 1), (6, 5), (7, 10), (5, 10)]
)
def test_the_preset_gives_qtorchs_results_in_any_backend(exponent_bits: int, mantissa_bits: int) -> None:
    twin = Float(exponent_bits, mantissa_bits, specials="finite", negative_zero=False)
    x = half_precision_values()
    x = x[~x.isnan()]
    assert bool(equal(quantize_tensor(x, twin, preset("qtorch")), rounded(x, twin)).all())
    assert rounded(torch.tensor([torch.nan]), twin) == quantize_tensor(torch.tensor([torch.nan]), twin, preset("qtorch"))


@pytest.mark.parametrize("fmt", [Integer(8), Integer(4, symmetric=True), Fixed(8, 4), Fixed(16, 15), Fixed(12, -2)], ids=str)
def test_fixed_point_is_equal_but_for_the_sign_of_zero_and_nan(fmt: Format) -> None:
    x = half_precision_values()
    x = x[~x.isnan()]
    assert torch.equal(quantize_tensor(x, fmt), rounded(x, fmt))


@pytest.mark.parametrize(
    ("x", "fmt", "expected"),
    [
        (1.0625, E4M3, 1.125),
        (500.0, E4M3, 480.0),
        (float("inf"), E4M3, 480.0),
        (float("nan"), E4M3, 480.0),
        (float("inf"), Float(5, 2), 114688.0),
        (float.fromhex("0x1.fffffep-11"), E4M3, 2.0**-9),
        (1.1, Float(8, 23), -1.10000002384185791015625),
        (0.0, Float(8, 23), -(2.0**-125)),
        (2.0**23 + 1, Integer(32), 2.0**23 + 2),
        (2.5, Integer(8), 2.0),
    ],
)
def test_known_defects_of_qtorch(x: float, fmt: Format, expected: float) -> None:
    assert rounded(torch.tensor([x]), fmt).tolist() == [expected]


def test_negative_zero_is_lost() -> None:
    assert not rounded(torch.tensor([-0.0, -1e-9]), E4M3).signbit().any()


def test_stochastic_rounding_takes_either_neighbour_and_ignores_the_draw() -> None:
    x = torch.full((4096,), 1.03125)
    values, counts = rounded(x, E4M3, STOCHASTIC).unique(return_counts=True)
    assert values.tolist() == [1.0, 1.125]
    assert abs(counts[1] / 4096 - 0.25) < 6 * (0.25 * 0.75 / 4096) ** 0.5
    first, second = (quantize_tensor(x, E4M3, STOCHASTIC, draw=Draw(seed=1), backend="qtorch") for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
def test_shape_strides_and_dtype_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype).t() if len(shape) == 2 else torch.ones(shape, dtype=dtype)
    y = rounded(x, E4M3)
    assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), dtype)


@pytest.mark.parametrize(
    ("fmt", "projection", "text"),
    [
        (Float(11, 52), Projection(), "up to 8 exponent and 23 mantissa bits"),
        (Float(4, 3, specials="fnuz"), Projection(), "the bias 7"),
        (Float(5, 3, specials="fn", signed=False), Projection(), "signed formats with subnormals"),
        (Float(8, 7, subnormals=False), Projection(), "signed formats with subnormals"),
        (Integer(8, signed=False), Projection(), "signed formats"),
        (E4M3, Projection(Rounding("toward_zero")), "rounding for the backend 'qtorch': got 'toward_zero'"),
        (E4M3, Projection(Rounding("stochastic", variant="C")), "variant: got 'C'"),
        (E4M3, Projection(overflow="nan"), "overflow: got 'nan'"),
        (E4M3, Projection(flush_inputs=True), "flush_inputs, flush_outputs: got true"),
    ],
)
def test_what_qtorch_cannot_express_is_refused(fmt: Format, projection: Projection, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        quantize_tensor(torch.ones(2), fmt, projection, backend="qtorch")


def test_scales_float64_and_nan_without_a_place_are_refused() -> None:
    with pytest.raises(FormatError, match="scale: got one"):
        quantize_tensor(torch.ones(2), E4M3, scale=torch.tensor(2.0), scale_layout=ScaleLayout(), backend="qtorch")
    with pytest.raises(FormatError, match=r"x: got 2 elements of torch.float64"):
        quantize_tensor(torch.ones(2, dtype=torch.float64), E4M3, backend="qtorch")
    with pytest.raises(FormatError, match=r"x\[1\]: got nan"):
        quantize_tensor(torch.tensor([1.0, torch.nan]), Integer(8), backend="qtorch")
