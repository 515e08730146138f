"""Rounding of x / scale: the exact quotient is rounded once, and so is the product with the scale."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from rounding_cases import FORMATS, SPECIALS, differences, projections

from hwsim.formats import Draw, Format, FormatError, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import ScaleLayout

BACKENDS = ("torch", "numba")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DRAW = Draw(seed=1, offset=5)
ROUNDINGS = (
    *(Rounding.parse(mode) for mode in ("nearest_even", "nearest_away", "toward_positive", "to_odd")),
    Rounding("stochastic", 2),
    Rounding("stochastic", 24),
    Rounding("stochastic", 32, "B"),
    Rounding("stochastic", 16, "C"),
)
NAMES = ("fp64", "fp32", "bf16", "e5m2", "e4m3fn", "e2m1fn", "e3m0", "ue5m3", "e8m0fnu", "binary8p3se", "int8", "uint4", "int32")
SCALES = [0.25, 3.0, 1 / 3, 2.0**-130, 1e30, -0.7, 1.0000001192092896]


@cache
def inputs(fmt: Format, dtype: torch.dtype, special: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """x and one scale for each row: the grid times the scale, and steps of dtype around it, so that quotients lie by ties.

    The special rows have zeros, infinities and NaN among x and the scales.
    """
    top = min(fmt.max, 2.0**40) or 1.0
    k = torch.tensor([0.3, 0.5, 1.0, 1.0625, 1.5, 2.5, 3.25, 6.5], dtype=torch.float64)
    points = torch.cat([k, k[:3] * 2.0**-7, top * (1 + k[1:4] / 32)])
    if special:
        scale = torch.tensor([1.0, -0.7, *SPECIALS], dtype=dtype)
        return torch.tensor([1.0, -0.3, *SPECIALS], dtype=dtype).expand(len(scale), -1), scale
    scale = torch.tensor(SCALES, dtype=dtype)
    near = (points[None] * scale[:, None].double()).to(dtype)
    if dtype is torch.float16:
        scale, near = scale[[0, 1, 2, 5]], near[[0, 1, 2, 5]]
    near = near.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    away = torch.full_like(near, float("inf"))
    plain = points[:4].to(dtype).expand(len(scale), 4)
    x = torch.cat([near, torch.nextafter(near, away), -torch.nextafter(near, -away), plain], 1)
    return torch.where(x.isfinite(), x, near[:, :1]), scale


@cache
def reference(fmt: Format, projection: Projection, dtype: torch.dtype, special: bool) -> torch.Tensor:
    x, scale = inputs(fmt, dtype, special)
    return quantize_tensor(x, fmt, projection, scale, ScaleLayout(axis=0), DRAW, "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_backend_equals_reference(name: str, rounding: Rounding, backend: str) -> None:
    fmt = FORMATS[name]
    for i, projection in enumerate(projections(fmt, rounding)[: None if rounding == Rounding() else 1]):
        for dtype in DTYPES[: 1 if i else 2 if rounding.is_stochastic else None]:
            for special in (False, True):
                x, scale = inputs(fmt, dtype, special)
                expected = reference(fmt, projection, dtype, special)
                given = quantize_tensor(x, fmt, projection, scale, ScaleLayout(axis=0), DRAW, backend)
                assert given.dtype == expected.dtype
                assert not differences(x, expected, given), (projection.overflow, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_an_element_gives_what_a_scale_a_row_gives(name: str) -> None:
    """The compiled loops run along elements with one scale, or along elements and scales."""
    fmt = FORMATS[name]
    x, scale = inputs(fmt, torch.float32, False)
    for rounding in (Rounding(), Rounding("stochastic")):
        projection = Projection(rounding)
        each = scale[:, None].expand_as(x).flatten()
        given = quantize_tensor(x.flatten(), fmt, projection, each, ScaleLayout(axis=0), DRAW, "numba")
        expected = quantize_tensor(x, fmt, projection, scale, ScaleLayout(axis=0), DRAW, "torch")
        assert not differences(x.flatten(), expected.flatten(), given)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_without_rescaling_the_values_of_the_format_are_handed_on(name: str, backend: str) -> None:
    fmt = FORMATS[name]
    x, scale = inputs(fmt, torch.float32, False)
    projection, layout = Projection(), ScaleLayout(axis=0)
    given = quantize_tensor(x, fmt, projection, scale, layout, backend=backend, rescale=False)
    expected = quantize_tensor(x, fmt, projection, scale, layout, backend="reference", rescale=False)
    assert not differences(x, expected, given)
    fmt.encode(given)


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
        projection = Projection(rounding)
        given = quantize_tensor(x, FORMATS[name], projection, scale, layout, DRAW, backend)
        alone = quantize_tensor(x.flatten(), FORMATS[name], projection, each.flatten(), ScaleLayout(axis=0), DRAW, "torch")
        assert not differences(x.flatten(), alone, given.flatten())


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_quotient_just_below_a_tie_rounds_down(backend: str) -> None:
    """x / s = 97.5 - 2.2e-6; float32 division gives 97.5, which would go to the even 98."""
    x, s = float.fromhex("0x1.394b42p+6"), float.fromhex("0x1.9b4c7cp-1")
    assert torch.tensor(x) / torch.tensor(s) == 97.5
    rounded = quantize_tensor(torch.tensor([x]), FORMATS["int8"], scale=torch.tensor(s), backend=backend)
    assert rounded.item() == torch.tensor(97 * s).item()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_product_just_below_a_tie_of_bfloat16_rounds_down(backend: str) -> None:
    """3 s = 129.5 - 2^-17, which float32 would round to the tie 129.5, and that to 130."""
    s = torch.tensor(float.fromhex("0x1.595554p+5"))
    x = (3 * s).bfloat16()
    assert quantize_tensor(x, FORMATS["int8"], scale=s, backend=backend).tolist() == 129.0


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
