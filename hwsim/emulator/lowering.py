"""Convolutions as matrix products, for units whose order of summation is declared.

Every GEMM sums in row-major order of its contracted axes: `output` over (kernel position, input channel), `grad_input` over
(kernel position, output channel) of the output gradient spread out by the stride, its zeros included, `grad_weight` over
(sample, output position). Zeros of the padding take part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Lowered(NamedTuple):
    """The operands of a batched product, (groups, M, K) and (groups, K, N), and what makes of it the convolution's result."""

    left: Tensor
    right: Tensor
    fold: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a convolution walks over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, args: Sequence[Any]) -> Geometry:
        """From the arguments of aten::convolution after its tensors."""
        stride, padding, dilation, transposed, output_padding, groups = args[:6]
        return cls(tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups)


def flops(x: Tensor, weight: Tensor, out: Tensor, geometry: Geometry) -> int:
    """2 M N K, the same for each of the three GEMMs: every weight meets every position of the strided side."""
    positions = (x if geometry.transposed else out).shape[2:].numel()
    return 2 * x.shape[0] * positions * weight.numel()


def output(x: Tensor, weight: Tensor, geometry: Geometry, shape: tuple[int, ...], fill: float = 0.0) -> Lowered:
    """The forward pass; a transposed convolution is the input gradient of the plain one.

    `fill` stands where neither operand has a value: 0 for elements, 1 for scales.
    """
    if geometry.transposed:
        return _spread(x, weight, geometry, _transposed_size(x, weight, geometry), fill)
    return _correlate(_padded(x, geometry, fill), weight, geometry, geometry.stride)


def grad_input(grad: Tensor, weight: Tensor, geometry: Geometry, shape: tuple[int, ...], fill: float = 0.0) -> Lowered:
    """The gradient of the input, whose shape is given."""
    if geometry.transposed:
        return _correlate(_padded(grad, geometry, fill), weight, geometry, geometry.stride)
    return _spread(grad, weight, geometry, shape[2:], fill)


def grad_weight(grad: Tensor, x: Tensor, geometry: Geometry, shape: tuple[int, ...], fill: float = 0.0) -> Lowered:
    """The gradient of the weight, whose shape is given."""
    wide, narrow = (grad, x) if geometry.transposed else (x, grad)
    kernel = shape[2:]
    patches = _patches(
        _padded(wide, geometry, fill), kernel, geometry.stride, geometry.dilation, geometry.groups, narrow.shape[2:]
    )
    groups, samples, _ = patches.shape
    rows = narrow.transpose(0, 1).reshape(groups, narrow.shape[1] // groups, samples)
    return Lowered(rows, patches, lambda product: product.reshape(shape[0], *kernel, -1).movedim(-1, 1).contiguous())


def _correlate(x: Tensor, weight: Tensor, geometry: Geometry, stride: tuple[int, ...]) -> Lowered:
    """Cross-correlation without padding: (groups, samples positions, kernel channels) @ (groups, kernel channels, outputs)."""
    groups, kernel = geometry.groups, weight.shape[2:]
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, geometry.dilation, strict=True)]
    patches = _patches(x, kernel, stride, geometry.dilation, groups, sizes)
    outputs = weight.shape[0] // groups
    columns = weight.movedim(1, -1).reshape(groups, outputs, -1).mT

    def fold(rows: Tensor) -> Tensor:
        return rows.mT.reshape(groups * outputs, x.shape[0], *sizes).transpose(0, 1).contiguous()

    return Lowered(patches, columns, fold)


def _spread(grad: Tensor, weight: Tensor, geometry: Geometry, sizes: Sequence[int], fill: float) -> Lowered:
    """The adjoint of `_correlate`: correlation of the gradient, spread out by the stride, with the mirrored weight."""
    spatial = range(2, grad.dim())
    kernel = weight.shape[2:]
    extents = [(n - 1) * s + 1 for n, s in zip(grad.shape[2:], geometry.stride, strict=True)]
    spread = grad.new_full((*grad.shape[:2], *extents), fill)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in geometry.stride))] = grad
    margins: list[int] = []
    for n, k, d, p, size in reversed(
        list(zip(spread.shape[2:], kernel, geometry.dilation, geometry.padding, sizes, strict=True))
    ):
        before = d * (k - 1) - p
        margins += [before, size - 1 - (n - 1) + p]
    mirrored = _split(weight.flip(list(spatial)), 0, geometry.groups).transpose(1, 2).flatten(0, 1)
    return _correlate(pad(spread, margins, value=fill), mirrored, geometry, (1,) * len(kernel))


def _patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int, sizes: Sequence[int]
) -> Tensor:
    """(groups, samples positions, kernel channels-in-group), rows and columns in row-major order."""
    for i, (k, s, d, size) in enumerate(zip(kernel, stride, dilation, sizes, strict=True)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d].narrow(2 + i, 0, size)
    rank = len(kernel)
    x = _split(x, 1, groups)
    order = [1, 0, *range(3, 3 + rank), *range(3 + rank, 3 + 2 * rank), 2]
    rows = x.shape[0] * torch.Size(sizes).numel()
    return x.permute(order).reshape(groups, rows, -1)


def _split(x: Tensor, axis: int, groups: int) -> Tensor:
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


def _padded(x: Tensor, geometry: Geometry, fill: float) -> Tensor:
    margins = [p for padding in reversed(geometry.padding) for p in (padding, padding)]
    return pad(x, margins, value=fill)


def _transposed_size(x: Tensor, weight: Tensor, geometry: Geometry) -> list[int]:
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(
            x.shape[2:],
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            weight.shape[2:],
            geometry.output_padding,
            strict=True,
        )
    ]


LOWERED: Mapping[str, Callable[..., Lowered]] = {
    "output": output,
    "grad_input": grad_input,
    "grad_weight": grad_weight,
}
