"""The gradient of an emulated product: straight through, as if the unit had rounded nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hwsim.casting import Quantized

from .quantized import Scaled
from .record import Mac


def wanted(*given: object) -> bool:
    """Whether autograd follows any of these operands; it follows none below itself, where dispatch modes run."""
    below = torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)
    return not below and torch.is_grad_enabled() and any(t.requires_grad for one in given for t in _tensors(one))


def straight_through(
    result: Tensor, a: Tensor | Scaled | Quantized, b: Tensor | Scaled | Quantized, c: Tensor | None, mac: Mac
) -> Tensor:
    """The unit's result with the gradient of the plain a b + c of the operands' values, in each operand's dtype."""
    followed: Tensor = _StraightThrough.apply(result, _values(a, -1, mac), _values(b, -2, mac), c)
    return followed


def _tensors(one: object) -> tuple[Tensor, ...]:
    """The tensors of an operand; what else stands there is refused by the product."""
    parts = (one.values, one.scales) if isinstance(one, Scaled) else (one.values if isinstance(one, Quantized) else one,)
    return tuple(part for part in parts if isinstance(part, Tensor))


def _values(operand: Tensor | Scaled | Quantized, axis: int, mac: Mac) -> Tensor:
    """What an operand stands for."""
    if isinstance(operand, Tensor):
        return operand
    if isinstance(operand, Quantized) or mac.scales is None:
        return operand.values
    spread = operand.scales.repeat_interleave(mac.scales.block, axis)
    return operand.values * spread.narrow(axis, 0, operand.values.shape[axis])


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(result: Tensor, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        return result.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The operands are kept; of C, which is added, what its gradient has to look like."""
        _, a, b, c = inputs
        ctx.save_for_backward(a, b)
        ctx.c = None if c is None else (c.shape, c.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        _, for_a, for_b, for_c = ctx.needs_input_grad
        of_a = _as(gradient @ b.to(gradient.dtype).mT, a.shape, a.dtype) if for_a else None
        of_b = _as(a.to(gradient.dtype).mT @ gradient, b.shape, b.dtype) if for_b else None
        return None, of_a, of_b, _as(gradient, *ctx.c) if for_c else None


def _as(gradient: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Summed over what was broadcast."""
    return gradient.sum_to_size(shape).to(dtype)
