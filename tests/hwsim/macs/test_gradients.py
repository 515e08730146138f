"""The gradient of `matmul`: that of the plain product of the operands' values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hwsim
from hwsim.casting import Quantized
from hwsim.macs import Scaled

UNIT = "fp16_accumulate"


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/4, which every format here holds, so that gradients of torch's matmul are exact in any order."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)) / 4


def gradients(product: Callable[..., Tensor], *operands: Tensor) -> tuple[Tensor, ...]:
    given = [x.clone().requires_grad_() for x in operands]
    result = product(*given)
    weights = numbers(*result.shape, seed=9).to(result.dtype)
    return torch.autograd.grad((result * weights).sum(), given)


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [((3, 5), (5, 4), (3, 4)), ((3, 5), (5, 4), (4,)), ((2, 3, 5), (5, 4), (1, 4)), ((3, 5), (2, 5, 4), (2, 3, 4)),
     ((2, 1, 3, 5), (4, 5, 2), (3, 2))],
)  # fmt: skip
def test_the_gradient_is_that_of_the_plain_product(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]) -> None:
    operands = numbers(*a), numbers(*b, seed=1), numbers(*c, seed=2)
    found = gradients(lambda x, y, z: hwsim.matmul(x, y, UNIT, z), *operands)
    expected = gradients(lambda x, y, z: x @ y + z, *operands)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_the_result_keeps_the_unit_s_bits() -> None:
    a, b = torch.randn(2, 3, 40).half().float(), torch.randn(40, 4).half().float()
    assert torch.equal(hwsim.matmul(a.requires_grad_(), b, UNIT), hwsim.matmul(a.detach(), b, UNIT))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_gradient_has_its_operand_s_dtype(dtype: torch.dtype) -> None:
    a, b, c = numbers(3, 5).to(dtype), numbers(5, 4, seed=1), numbers(3, 4, seed=2).to(dtype)
    found = gradients(lambda x, y, z: hwsim.matmul(x, y, UNIT, z), a, b, c)
    expected = gradients(lambda x, y, z: x @ y + z, a.float(), b, c.float())
    assert [x.dtype for x in found] == [dtype, torch.float32, dtype]
    assert all(torch.equal(x.float(), y) for x, y in zip(found, expected, strict=True))


def test_of_operands_with_scales_it_is_that_of_the_dequantized_values() -> None:
    x, w = numbers(3, 64), numbers(64, 4, seed=1)

    def cast(x: Tensor, axis: int) -> Quantized:
        found = hwsim.quantize(x, "mxfp8_e4m3", axis=axis, return_parts=True)
        assert isinstance(found, Quantized)
        return found

    found = gradients(lambda x, w: hwsim.matmul(cast(x, -1), cast(w, 0), "nvidia_blackwell_mxfp8"), x, w)
    expected = gradients(lambda x, w: cast(x, -1).values @ cast(w, 0).values, x, w)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_of_scaled_operands_elements_and_scales_have_one() -> None:
    x, w, sx, sw = numbers(3, 40), numbers(40, 4, seed=1), torch.full((3, 2), 2.0), torch.full((2, 4), 0.5)
    found = gradients(lambda x, w, sx, sw: hwsim.matmul(Scaled(x, sx), Scaled(w, sw), "nvidia_blackwell_mxfp8"), x, w, sx, sw)
    spread = [32, 8]

    def plain(x: Tensor, w: Tensor, sx: Tensor, sw: Tensor) -> Tensor:
        repeats = torch.tensor(spread)
        return (x * sx.repeat_interleave(repeats, 1)) @ (w * sw.repeat_interleave(repeats, 0))

    assert all(torch.equal(x, y) for x, y in zip(found, gradients(plain, x, w, sx, sw), strict=True))


def test_only_what_asks_for_a_gradient_has_one_and_without_grad_nothing_has() -> None:
    a, b = numbers(3, 5).requires_grad_(), numbers(5, 4)
    with torch.no_grad():
        assert not hwsim.matmul(a, b, UNIT).requires_grad
    assert not hwsim.matmul(a.detach(), b, UNIT).requires_grad
    hwsim.matmul(a, b, UNIT).sum().backward()
    assert torch.equal(a.grad, b.sum(1).expand(3, 5))
    assert b.grad is None


def test_transforms_of_functions_and_gradients_of_gradients_pass() -> None:
    a, b = numbers(3, 5), numbers(5, 4, seed=1)
    found = torch.func.grad(lambda x: hwsim.matmul(x, b, UNIT).sum())(a)
    assert torch.equal(found, b.sum(1).expand(3, 5))
    given = a.clone().requires_grad_(), b.clone().requires_grad_()
    (first,) = torch.autograd.grad(hwsim.matmul(*given, UNIT).sum(), given[0], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), given[1])
    assert torch.equal(second, torch.full_like(b, 3.0))


class OnAUnit(TorchDispatchMode):
    """Multiplies on a unit, below autograd."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.mm.default:
            result = hwsim.matmul(*args, UNIT)
            assert not result.requires_grad
            return result
        return function(*args, **(kwargs or {}))


def test_below_autograd_there_is_none_of_its_own() -> None:
    a, b = numbers(3, 5).requires_grad_(), numbers(5, 4)
    with OnAUnit():
        result = a @ b
    result.sum().backward()
    assert torch.equal(a.grad, b.sum(1).expand(3, 5))
