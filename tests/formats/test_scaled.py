"""Rounding of x / scale: the exact quotient is rounded once, and so is the product with the scale."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import pytest
import torch
from rounding_cases import FORMATS, differences, projections

from hwsim.formats import Draw, Format, FormatError, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import ScaleLayout

BACKENDS = ("torch", "numba")
DRAW = Draw(seed=1, offset=5)
ROUNDINGS = tuple(Rounding.parse(m) for m in ("nearest_even", "nearest_away", "toward_positive", "to_odd")) + (
    Rounding("stochastic", 24),
    Rounding("stochastic", 32, "B"),
    Rounding("stochastic", 16, "C"),
)
NAMES = ("fp64", "fp32", "bf16", "e5m2", "e4m3fn", "e2m1fn", "e3m0", "ue5m3", "e8m0fnu", "binary8p3se", "int8", "uint4", "int32", "fixed8.4")
SCALES = [1.0, 0.25, 3.0, 1 / 3, 0.1, 2.0**-130, 1e30, -0.7, 1.0000001192092896]
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan")]


@cache
def inputs(fmt: Format, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x and one scale for each row: the grid times the scale, and steps of dtype around it, so that quotients lie by ties."""
    top = min(fmt.max, 2.0**40) or 1.0
    k = torch.tensor([0.3, 0.5, 1.0, 1.0625, 1.5, 2.5, 3.25, 5.5, 7.0, 1000.5], dtype=torch.float64)
    points = torch.cat([k, k * 2.0**-7, top * (1 + k / 32)])
    scale = torch.tensor(SCALES + SPECIAL, dtype=dtype)
    near = (points[None] * scale[:, None].double()).to(dtype)
    away = torch.full_like(near, float("inf"))
    x = torch.cat([near, torch.nextafter(near, away), -torch.nextafter(near, -away), points[None, :8].expand(len(scale), 8).to(dtype)], 1)
    return torch.cat([x, torch.tensor(SPECIAL, dtype=dtype).expand(len(scale), 5)], 1), scale


@cache
def reference(fmt: Format, projection: Projection, dtype: torch.dtype) -> torch.Tensor:
    x, scale = inputs(fmt, dtype)
    return quantize_tensor(x, fmt, projection, scale, ScaleLayout(axis=0), DRAW, "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_backend_equals_reference(name: str, rounding: Rounding, backend: str) -> None:
    fmt = FORMATS[name]
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16) if not rounding.is_stochastic else (torch.float32,)
    for projection in projections(fmt, rounding)[:: -1 if rounding == Rounding() else 8]:
        for dtype in dtypes:
            x, scale = inputs(fmt, dtype)
            expected = reference(fmt, projection, dtype)
            given = quantize_tensor(x, fmt, projection, scale, ScaleLayout(axis=0), DRAW, backend)
            assert given.dtype == expected.dtype
            assert not differences(x, expected, given), (projection.overflow, dtype)


LAYOUTS = [
    ((3, 8, 5), (1,), ScaleLayout()),
    ((3, 8, 5), (), ScaleLayout()),
    ((3, 8, 5), (3,), ScaleLayout(axis=0)),
    ((3, 8, 5), (8,), ScaleLayout(axis=1)),
    ((3, 8, 5), (1, 8, 1), ScaleLayout(axis=1)),
    ((3, 8, 5), (5,), ScaleLayout(axis=-1)),
    ((3, 8, 5), (3, 8, 2), ScaleLayout(axis=-1, size=4)),
    ((3, 8, 5), (3, 3, 5), ScaleLayout(axis=1, size=3)),
    ((3, 8, 5), (2, 8, 5), ScaleLayout(axis=0, size=2)),
    ((3, 8, 5), (3, 8, 1), ScaleLayout(axis=2, size=7)),
    ((40, 129), (40, 3), ScaleLayout(axis=1, size=64)),
    ((40, 129), (1, 129), ScaleLayout(axis=0, size=64)),
]


def expanded(scale: torch.Tensor, shape: tuple[int, ...], layout: ScaleLayout) -> torch.Tensor:
    """The scale of every element, by plain indexing."""
    if layout.axis is None:
        return scale.reshape(()).expand(shape)
    axis = layout.axis % len(shape)
    if layout.size is None:
        return scale.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)
    return scale.repeat_interleave(layout.size, axis).narrow(axis, 0, shape[axis])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(("shape", "scale_shape", "layout"), LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["e4m3fn", "int8", "fp32"])
def test_every_layout_gives_each_element_its_scale(
    name: str, shape: tuple[int, ...], scale_shape: tuple[int, ...], layout: ScaleLayout, backend: str
) -> None:
    if backend == "reference":
        shape, scale_shape = (shape, scale_shape) if len(shape) == 3 else ((4, 129), scale_shape if layout.axis == 0 else (4, 3))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    scale = torch.rand(scale_shape, generator=generator) + 0.01
    each = expanded(scale, shape, layout)
    for rounding in (Rounding(), Rounding("stochastic")):
        given = quantize_tensor(x, FORMATS[name], Projection(rounding), scale, layout, DRAW, backend)
        alone = quantize_tensor(x.flatten(), FORMATS[name], Projection(rounding), each.flatten(), ScaleLayout(axis=0), DRAW, "torch")
        assert not differences(x.flatten(), alone, given.flatten())


def test_quotient_is_not_rounded_before_it_is_cut() -> None:
    """x / s is just below a tie, and float32 division lands on it."""
    x, s = torch.tensor([1.0 + 2.0**-23]), torch.tensor([2.0 / 3 * (1 + 2.0**-22)])
    quotient = Fraction(x.item()) / Fraction(s.item())
    assert quantize_tensor(x, FORMATS["fp32"], Projection(Rounding("toward_zero")), s, backend="numba").item() == float(
        torch.tensor(float(Fraction(int(quotient * 2**23), 2**23) * Fraction(s.item())), dtype=torch.float64).float()
    )


def test_scaled_result_rounds_once_into_bfloat16() -> None:
    """3 x 43.0625 = 129.1875 lies above the tie 128.5 of bfloat16; through float32 or not, the result is 129."""
    x, s = torch.tensor([129.0], dtype=torch.bfloat16), torch.tensor([43.0625])
    assert quantize_tensor(x, FORMATS["int8"], scale=s).tolist() == [129.0]


@pytest.mark.parametrize(
    ("scale_shape", "layout", "message"),
    [
        ((2,), ScaleLayout(), "allowed: one element"),
        ((4,), ScaleLayout(axis=0), "allowed: 3 elements"),
        ((3, 2), ScaleLayout(axis=1, size=2), r"allowed: shape \(3, 3\)"),
        ((3,), ScaleLayout(axis=2), "axis: got 2 for a tensor of shape"),
    ],
)
def test_scale_of_another_shape_is_refused(scale_shape: tuple[int, ...], layout: ScaleLayout, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        quantize_tensor(torch.ones(3, 5), FORMATS["int8"], scale=torch.ones(scale_shape), scale_layout=layout)


@pytest.mark.parametrize(("axis", "size"), [(None, 4), (0, 0)])
def test_group_size_needs_an_axis_and_is_positive(axis: int | None, size: int) -> None:
    with pytest.raises(FormatError, match="size: got"):
        ScaleLayout(axis, size)
