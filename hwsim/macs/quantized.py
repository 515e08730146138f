"""Quantized operands at a unit's ports: which of their scales the unit takes, and which act on its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hwsim.casting import Quantized
from hwsim.errors import FormatError
from hwsim.formats.scaled import ScaleLayout

from .record import Mac, Operands

Side = Literal["input", "weight"]
OPERANDS = "a tensor, Scaled or Quantized"
SIDES: tuple[Side, Side] = ("input", "weight")


@dataclass(frozen=True)
class Scaled:
    """A block operand as the hardware is given it.

    Args:
        values: element values, of A (..., M, K), of B (..., K, N).
        scales: one scale for each run of block elements along K: (..., M, ceil(K / block)), (..., ceil(K / block), N).
    """

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Fed:
    """An operand as a unit takes it.

    Args:
        values: elements, A (..., M, K) or B (..., K, N).
        scales: one for each of the unit's blocks along K, or None.
        factors: what the result is multiplied by, each broadcastable to (..., M, N).
    """

    values: Tensor
    scales: Tensor | None = None
    factors: tuple[Tensor, ...] = ()


def fed(operand: Tensor | Scaled | Quantized, mac: Mac, side: Side) -> Fed:
    """Elements, block scales and factors of one operand.

    Scales that vary along K go to the unit, in blocks of its own size; those of the tensor, of a row of A or of a column of B
    are factors. A block that covers all of K is a factor for a unit that takes no scales.

    Raises:
        FormatError: no operand of real numbers in memory; scales that vary along K, and no unit that takes them.
    """
    check_real(operand.values if isinstance(operand, Scaled | Quantized) else operand, f"{side} operand", OPERANDS)
    if isinstance(operand, Tensor):
        return Fed(operand)
    if isinstance(operand, Scaled):
        return Fed(operand.values, operand.scales)
    if mac.is_native:
        return Fed(operand.values)
    whole = () if operand.tensor_scale is None else (operand.tensor_scale.reshape(()),)
    if operand.scale is None:
        return Fed(operand.elements, None, whole)
    run, scale = _along_k(operand, side)
    if run is None:
        return Fed(operand.elements, None, (scale, *whole))
    if mac.scales is not None and run % mac.scales.block == 0:
        axis, terms = _axis(side), operand.elements.shape[_axis(side)]
        finer = scale.repeat_interleave(run // mac.scales.block, axis)
        return Fed(operand.elements, finer.narrow(axis, 0, -(-terms // mac.scales.block)), whole)
    if scale.shape[_axis(side)] == 1:
        return Fed(operand.elements, None, (scale, *whole))
    constant = "one scale a tensor, row of A or column of B"
    takes = f"blocks of {mac.scales.block} terms along K, or multiples of it" if mac.scales else constant
    raise FormatError(
        f"{side} operand of {mac.name or 'the unit'}: got scales for every {run} terms along K; allowed: {takes}", side
    )


def check_real(x: object, where: str, allowed: str = "a tensor") -> None:
    """Refuse what is no dense tensor of real numbers."""
    if not isinstance(x, Tensor):
        raise FormatError(f"{where}: got {type(x).__name__}; allowed: {allowed}")
    if x.is_complex() or x.is_quantized or x.layout != torch.strided:
        raise FormatError(f"{where}: got {x.dtype}, {x.layout}; allowed: real numbers, torch.strided")


def block_scales(a: Fed, b: Fed, mac: Mac) -> tuple[Tensor | None, Tensor | None]:
    """The block scales of both operands, checked; ones where only the other has any.

    Raises:
        FormatError: a unit that takes none; not one scale for each of its blocks; runs of a split K that cut through a run of
            terms that share a scale.
    """
    if a.scales is None and b.scales is None:
        return None, None
    if mac.scales is None:
        allowed = "a unit with `scales`, or operands without"
        raise FormatError(f"matmul: got scales for {mac.name or 'a unit'}, which takes none; allowed: {allowed}")
    terms = a.values.shape[-1]
    _check_split(mac, terms)
    blocks = -(-terms // mac.scales.block)
    shape_a, shape_b = (*a.values.shape[:-1], blocks), (*b.values.shape[:-2], blocks, b.values.shape[-1])
    found = []
    for side, scales, shape in (("input", a.scales, shape_a), ("weight", b.scales, shape_b)):
        if scales is not None:
            check_real(scales, f"{side} scales")
        given = torch.ones(shape, device=a.values.device) if scales is None else scales
        if not broadcasts(given.shape, torch.Size(shape)):
            each = f"one for each {mac.scales.block} terms"
            raise FormatError(f"{side} scales: got shape {tuple(given.shape)}; allowed: {tuple(shape)}, {each}")
        found.append(given.expand(shape))
    return found[0], found[1]


def _check_split(mac: Mac, terms: int) -> None:
    """Promoted runs and exact sums begin anew with each run of a split K: with all of one scale only at multiples of theirs."""
    run, applied = -(-terms // mac.split_k), mac.scales.applied if mac.scales is not None else "product"
    each = mac.promote.every if mac.promote and applied == "promotion" else 1
    if mac.fused and applied == "group":
        each = mac.fused.exact_terms
    if run < terms and run % each:
        raise FormatError(
            f"split_k of {mac.name or 'the unit'}: got {mac.split_k}, which cuts {terms} terms into runs of {run}; allowed where "
            f"scales are applied to each {applied}: runs of a multiple of {each}",
            "split_k",
        )


def broadcasts(given: torch.Size, shape: torch.Size) -> bool:
    """Whether the one shape broadcasts to the other."""
    return len(given) <= len(shape) and all(n in (1, m) for n, m in zip(reversed(given), reversed(shape), strict=False))


def narrowed(mac: Mac, a: object, b: object) -> Mac:
    """The unit with its ports set to the formats that Quantized operands declare, where it has them."""
    if mac.operands is None:
        return mac
    ports = {}
    for side, operand in zip(SIDES, (a, b), strict=True):
        allowed = getattr(mac.operands, side)
        declared = tuple(fmt for fmt in allowed if isinstance(operand, Quantized) and fmt == operand.format)
        ports[side] = declared or allowed
    return mac.model_copy(update={"operands": Operands(**ports)})


def epilogue(result: Tensor, factors: Sequence[Tensor], c: Tensor | None) -> Tensor:
    """(result (f1 f2 ...)) + c, every product and the sum rounded to nearest even in the result's dtype, from the left."""
    scale = torch.ones((), dtype=result.dtype, device=result.device)
    for factor in factors:
        scale = scale * factor.to(result.dtype)
    result = result * scale
    return result if c is None else result + c.to(result.dtype)


def transposed(operand: Tensor | Quantized) -> Tensor | Quantized:
    """The same operand with its last two axes exchanged."""
    if isinstance(operand, Tensor):
        return operand.mT
    layout, block, scale = operand.layout, operand.block, operand.scale
    if layout.axis is not None:
        axis = layout.axis % operand.elements.dim() - operand.elements.dim()
        layout = ScaleLayout({-1: -2, -2: -1}.get(axis, axis), layout.size)
    if block is not None and block.tile is not None:
        block = replace(block, tile=block.tile[::-1])
    return replace(
        operand,
        values=operand.values.mT,
        elements=operand.elements.mT,
        scale=scale.mT if scale is not None and scale.dim() > 1 else scale,
        layout=layout,
        block=block,
    )


def _axis(side: Side) -> int:
    return -1 if side == "input" else -2


def _along_k(q: Quantized, side: Side) -> tuple[int | None, Tensor]:
    """How many terms of K share a scale, and the scales with the operand's axes; None where all of K does."""
    if q.scale is None:
        raise ValueError("an operand without scales")
    shape, axis = q.elements.shape, _axis(side)
    outer = -3 - axis
    if q.block is not None and q.block.tile is not None:
        sizes = dict(zip((-2, -1), q.block.tile, strict=True))
        scale = q.scale.repeat_interleave(sizes[outer], outer).narrow(outer, 0, shape[outer])
        return sizes[axis], scale
    if q.layout.axis is None or q.scale.numel() == 1:
        return None, q.scale.reshape(())
    blocked = q.layout.axis % len(shape) - len(shape)
    if q.layout.size is None:
        scale = q.scale.reshape([-1 if n == blocked else 1 for n in range(-len(shape), 0)])
        return (1 if blocked == axis else None), scale
    if blocked == axis:
        return q.layout.size, q.scale
    return 1, q.scale.repeat_interleave(q.layout.size, blocked).narrow(blocked, 0, shape[blocked])
