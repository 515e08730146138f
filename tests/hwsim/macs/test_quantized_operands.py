"""Quantized operands: the unit is given elements and the scales it takes; other scales act on its result."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

import hwsim
from hwsim.casting import Quantized
from hwsim.errors import FormatError
from hwsim.formats import Block
from hwsim.macs import Scaled, mac, matmul
from hwsim.macs.quantized import transposed

RNG = torch.Generator().manual_seed(11)
X, Y = (torch.randn(shape, generator=RNG) * torch.randn(shape, generator=RNG).exp2() for shape in ((5, 100), (100, 4)))
C = torch.randn(5, 4, generator=RNG)


def quantized(x: torch.Tensor, fmt: Any, **options: Any) -> Quantized:
    found = hwsim.quantize(x, fmt, return_parts=True, **options)
    assert isinstance(found, Quantized)
    return found


def by_reference(a: Quantized, b: Quantized, unit: str, c: torch.Tensor | None = None) -> torch.Tensor:
    """The scalar reference, given elements and block scales by hand."""
    assert a.scale is not None
    assert b.scale is not None
    return matmul(Scaled(a.elements, a.scale), Scaled(b.elements, b.scale), unit, c, backend="reference")


@pytest.mark.parametrize(
    ("fmt", "unit"),
    [("mxfp8_e4m3", "nvidia_blackwell_mxfp8"), ("mxfp8_e5m2", "nvidia_blackwell_mxfp8"), ("mxfp6_e3m2", "nvidia_blackwell_mxfp6"),
     ("mxfp4", "nvidia_blackwell_mxfp4")],
)  # fmt: skip
def test_mx_blocks_reach_the_unit(fmt: str, unit: str) -> None:
    a, b = quantized(X, fmt), quantized(Y, fmt, axis=0)
    assert torch.equal(matmul(a, b, unit, C), by_reference(a, b, unit, C))


def test_nvfp4_blocks_reach_the_unit_and_the_tensor_scales_its_result() -> None:
    a, b = quantized(X, "nvfp4"), quantized(Y, "nvfp4", axis=0)
    assert a.tensor_scale is not None
    assert b.tensor_scale is not None
    unit = "nvidia_blackwell_nvfp4"
    expected = by_reference(a, b, unit) * (a.tensor_scale * b.tensor_scale)
    assert torch.equal(matmul(a, b, unit), expected)
    assert torch.equal(matmul(a, b, unit, C), expected + C)


@pytest.mark.parametrize("layout", ["tensor", {"channel": 0}, {"group": 128}])
def test_scales_constant_along_k_act_on_the_result(layout: Any) -> None:
    a = quantized(X, "int8", scaling={"rule": "absmax", "granularity": layout})
    b = quantized(Y, "int8", scaling={"rule": "absmax", "granularity": {"channel": 1} if layout != "tensor" else layout})
    assert a.scale is not None
    assert b.scale is not None
    scale = a.scale.double().reshape(-1, 1) * b.scale.double().reshape(1, -1)
    assert torch.equal(matmul(a, b, "int8_int32"), matmul(a.elements, b.elements, "int8_int32") * scale)


def test_the_result_is_rounded_once_for_the_scale_and_once_for_c() -> None:
    a = quantized(X[:1], "fp8_e4m3fn", scaling={"rule": "absmax"})
    b = quantized(Y[:, :1], "fp8_e4m3fn", scaling={"rule": "absmax"})
    assert a.scale is not None
    assert b.scale is not None
    d = matmul(a.elements, b.elements, "nvidia_hopper_fp8").item()
    s = float(torch.tensor(float(Fraction(a.scale.item()) * Fraction(b.scale.item()))))
    scaled = torch.tensor(float(Fraction(d) * Fraction(s)), dtype=torch.float64).float()
    expected = (scaled.double() + C[0, 0].double()).float()
    assert matmul(a, b, "nvidia_hopper_fp8", C[:1, :1]).item() == expected.item()


def test_tiles_and_groups_reach_a_promotion_unit() -> None:
    x, y = torch.randn(2, 300, generator=RNG), torch.randn(300, 5, generator=RNG)
    a = quantized(x, "fp8_e4m3fn", scaling={"rule": "absmax", "granularity": {"group": 128}})
    tile = Block(hwsim.format("fp8_e4m3fn"), hwsim.format("fp32"), tile=(128, 2))
    b = quantized(y, tile)
    assert a.scale is not None
    assert b.scale is not None
    assert b.scale.shape == (3, 3)
    spread = b.scale.repeat_interleave(2, 1)[:, :5]
    expected = matmul(Scaled(a.elements, a.scale), Scaled(b.elements, spread), "deepseek_fp8", backend="reference")
    assert torch.equal(matmul(a, b, "deepseek_fp8"), expected)


def test_coarser_blocks_than_the_units_are_repeated() -> None:
    fine = Block(hwsim.format("fp4"), hwsim.format("fp8_e4m3fn"), size=32)
    a, b = quantized(X, fine), quantized(Y, fine, axis=0)
    assert a.scale is not None
    assert b.scale is not None
    twice = a.scale.repeat_interleave(2, 1)[:, :7], b.scale.repeat_interleave(2, 0)[:7]
    expected = matmul(Scaled(a.elements, twice[0]), Scaled(b.elements, twice[1]), "nvidia_blackwell_nvfp4", backend="reference")
    assert torch.equal(matmul(a, b, "nvidia_blackwell_nvfp4"), expected)


def test_an_operand_without_block_scales_has_ones() -> None:
    a = quantized(X, "mxfp8_e4m3")
    b = hwsim.quantize(Y, "fp8_e5m2")
    assert isinstance(b, torch.Tensor)
    assert a.scale is not None
    expected = matmul(Scaled(a.elements, a.scale), Scaled(b, torch.ones(4, 4)), "nvidia_blackwell_mxfp8")
    assert torch.equal(matmul(a, b, "nvidia_blackwell_mxfp8"), expected)


def test_the_port_takes_the_declared_format_and_not_the_first_that_holds_the_values() -> None:
    small = torch.tensor([[2.0**-9, 2.0**-6]])
    a, b = quantized(small, "fp8_e5m2"), quantized(torch.ones(2, 1), "fp8_e5m2")
    only = mac("nvidia_ada_fp8").model_copy(update={"operands": None})
    declared = mac({**only.model_dump(mode="json", exclude={"operands"}), "operands": "fp8_e5m2"})
    c = torch.tensor([[1.5]])
    assert torch.equal(matmul(a, b, "nvidia_ada_fp8", c), matmul(small, torch.ones(2, 1), declared, c))


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "nvfp4", "int8", "int8 by channel", "tiles"])
def test_a_transposed_operand_is_the_operand_of_the_transposed_tensor(fmt: str) -> None:
    options: dict[str, Any] = {"scaling": {"rule": "absmax"}} if fmt == "int8" else {}
    declared: Any = fmt
    if fmt == "tiles":
        declared = Block(hwsim.format("fp8_e4m3fn"), hwsim.format("fp32"), tile=(2, 16))
    if fmt == "int8 by channel":
        declared, options = "int8", {"scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
    a = quantized(X, declared, **options)
    back = transposed(transposed(a))
    once = transposed(a)
    assert isinstance(back, Quantized)
    assert isinstance(once, Quantized)
    assert torch.equal(back.values, a.values)
    assert (back.layout.axis or 0) % 2 == (a.layout.axis or 0) % 2
    assert torch.equal(once.elements, a.elements.mT)
    assert back.block == a.block


def test_native_multiplies_the_values() -> None:
    a, b = quantized(X, "mxfp4"), quantized(Y, "mxfp4", axis=0)
    assert torch.equal(matmul(a, b, "native"), a.values @ b.values)


@pytest.mark.parametrize(
    ("a", "b", "unit", "text"),
    [
        (quantized(X, "mxfp8_e4m3"), Y.sign(), "nvidia_hopper_fp8",
         "input operand of nvidia_hopper_fp8: got scales for every 32 terms along K; allowed: one scale a tensor"),
        (X.sign(), quantized(Y, "mxfp8_e4m3", axis=0), "fp32_sequential", "weight operand of fp32_sequential"),
        (quantized(X, Block(hwsim.format("fp4"), hwsim.format("fp8_e4m3fn"), size=8)), Y.sign(), "nvidia_blackwell_nvfp4",
         "got scales for every 8 terms along K; allowed: blocks of 16 terms along K, or multiples of it"),
        (quantized(X, "int8", scaling={"rule": "absmax", "granularity": {"channel": 1}}), Y.sign(), "int8_int32",
         "got scales for every 1 terms along K"),
        (quantized(X, Block(hwsim.format("fp4"), hwsim.format("fp32"), size=32)), Y.sign(), "nvidia_blackwell_mxfp4",
         r"input operand of nvidia_blackwell_mxfp4: scale \[0, 0\] is .*; allowed: values of float\(e8m0, fn\)"),
        (Scaled(X.sign(), torch.ones(5, 3)), Y.sign(), "nvidia_blackwell_mxfp8",
         r"input scales: got shape \(5, 3\); allowed: \(5, 4\)"),
        (Scaled(X.sign(), torch.ones(5, 4)), Y.sign(), "nvidia_hopper_fp8", "got scales for nvidia_hopper_fp8, which takes none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(a: Any, b: Any, unit: str, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        matmul(a, b, unit)
