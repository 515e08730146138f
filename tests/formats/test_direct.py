"""Casts with everything found once that does not depend on the tensor: the same bits as by the slow way."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import hwsim
from hwsim.casting import apply_in_units, direct
from hwsim.casts import Cast
from hwsim.errors import FormatError

FORMATS = ("fp8_e4m3fn", "fp8_e5m2", "fp8_e4m3fnuz", "bf16", "fp16", "tf32", "fp32", "fp4_e2m1fn", "int8", "int4")
PROJECTIONS: tuple[dict[str, object], ...] = (
    {},
    {"rounding": "toward_zero"},
    {"rounding": "to_odd", "flush_outputs": True},
    {"overflow": "infinity"},
    {"nan": "zero", "flush_inputs": True},
)
SPECIALS = (0.0, -0.0, 1e-45, -3e-39, 1.1754944e-38, 0.3, -447.99, 464.0, 1e30, -3.4028235e38)


pytestmark = pytest.mark.usefixtures("two_threads")


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def _layouts() -> dict[str, Tensor]:
    return {
        "scalar": torch.tensor(0.3),
        "empty": torch.empty(0, 3),
        "one": torch.tensor([-2.5]),
        "specials": torch.tensor(SPECIALS),
        "tiny": torch.tensor([3e-45, -1e-45, 0.0]),
        "zeros": torch.tensor([[0.0, -0.0]]),
        "infinite": torch.tensor([1.0, float("inf"), -float("inf"), 3.0]),
        "matrix": _drawn(33, 65),
        "transposed": _drawn(33, 65).T,
        "batch of transposed": _drawn(3, 4, 5).mT,
        "sliced": _drawn(9, 20)[:, 3:11],
        "expanded": _drawn(1, 7).expand(5, 7),
        "channels last": _drawn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "in threads": _drawn(2100, 64),
        "in threads, transposed": _drawn(2100, 64).T,
        "double": _drawn(5, 7).double(),
        "bfloat16": _drawn(5, 7).bfloat16(),
    }


def _casts() -> list[Cast]:
    """Each format with what it can follow."""
    found = []
    for name, projection, scaling in product(FORMATS, PROJECTIONS, (None, "absmax")):
        infinite = hwsim.format(name).has_infinity
        if projection.get("overflow", "saturate") == "saturate" or infinite:
            found.append(Cast.model_validate({"format": name, "scaling": scaling, **projection}))
    return found


@pytest.mark.parametrize("cast", _casts(), ids=lambda cast: f"{cast} {cast.projection}")
def test_a_direct_cast_has_the_bits_and_the_layout_of_the_cast(cast: Cast) -> None:
    fast = direct(cast)
    assert fast is not None
    for layout, x in _layouts().items():
        found = fast(x)
        if found is None:
            assert layout in ("empty", "sliced", "expanded", "channels last", "double", "bfloat16")
            continue
        values, scale = found
        expected, unit = apply_in_units(cast, x)
        assert (values.dtype, values.stride()) == (expected.dtype, x.stride()), layout
        assert torch.equal(values.view(torch.int32), expected.view(torch.int32)), layout
        assert scale == (None if unit is None else float(unit)), layout


@pytest.mark.parametrize("size", [5, 2100])
@pytest.mark.parametrize("scaling", [None, "absmax"])
def test_a_direct_cast_refuses_nan_where_the_format_has_none(size: int, scaling: str | None) -> None:
    x = torch.ones(size)
    x[3] = float("nan")
    fast = direct(Cast.model_validate({"format": "int8", "scaling": scaling}))
    assert fast is not None
    with pytest.raises(FormatError, match=r"x\[3\]: got nan"):
        fast(x)


@pytest.mark.parametrize(
    "given",
    [
        {"format": "fp8_e5m2", "rounding": "stochastic"},
        {"format": "mxfp8_e4m3"},
        {"format": "posit8_1"},
        {"format": "int8", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}},
        {"format": "int8", "scaling": {"rule": "absmax", "minimum": 0.5}},
        {"format": "int8", "scaling": {"rule": "absmax", "format": "bf16"}},
        {"format": "int8", "scaling": "power_of_two"},
        {"format": "int8", "scaling": {"rule": "delayed", "window": 4}},
        {"format": {"kind": "float", "exponent_bits": 8, "mantissa_bits": 30}},
    ],
    ids=str,
)
def test_what_depends_on_more_than_the_tensor_is_not_cast_directly(given: dict[str, object]) -> None:
    assert direct(Cast.model_validate(given)) is None
