"""Operands of convolutions in the layout of matrices: what scales, blocks and rotations run along."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hwsim.casts import Channel, Group
from hwsim.formats import Block
from hwsim.hadamard import rotate
from hwsim.layering import Gemm, Operand
from hwsim.macs.quantized import fed, transposed

from . import lowering
from .ports import Port
from .products import carried, varying_scale
from .sites import GemmPorts


class Lowerable(NamedTuple):
    """An operand of an emulated convolution: elements and the scales of their blocks, in the operand's own layout.

    `factors` act on the unit's result.
    """

    values: Tensor
    scales: Tensor | None
    factors: tuple[Tensor, ...]


def matrix(x: Tensor, role: Operand, geometry: lowering.Geometry) -> Tensor:
    """(groups, samples positions, channels of a group), or of a weight (groups, kernel..., outputs, inputs of a group)."""
    groups = geometry.groups
    if role != "weight":
        rows = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
        return rows.permute(1, 0, 3, 2).reshape(groups, -1, rows.shape[2])
    split = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    outer, inner = (2, 1) if geometry.transposed else (1, 2)
    return split.permute(0, *range(3, split.dim()), outer, inner)


def unmatrix(y: Tensor, like: Tensor, role: Operand, geometry: lowering.Geometry) -> Tensor:
    """The way back, to the layout of `like`; the channels may be others."""
    if role != "weight":
        rows = y.reshape(geometry.groups, like.shape[0], -1, y.shape[-1])
        return rows.permute(1, 0, 3, 2).reshape(like.shape[0], -1, *like.shape[2:])
    outer, inner = (-1, -2) if geometry.transposed else (-2, -1)
    split = y.permute(0, outer, inner, *range(1, y.dim() - 2))
    return split.reshape(-1, *split.shape[2:])


def features_first(weight: Tensor, geometry: lowering.Geometry) -> Tensor:
    """A weight's canonical layout, (output features, inputs of a group, kernel...), and the way back from it."""
    if not geometry.transposed:
        return weight
    groups = geometry.groups
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).contiguous()


def by_feature(port: Port, role: Operand) -> bool:
    """Whether a weight's scales are those of the indices of one axis of its canonical layout."""
    scaling = port.cast.scaling if port.cast is not None and role == "weight" else None
    return scaling is not None and isinstance(scaling.granularity, Channel)


def cast(port: Port, x: Tensor, role: Operand, geometry: lowering.Geometry, call: int, axis: int) -> Tensor:
    """An operand after its cast, in its own layout; groups and blocks run along an axis of its matrix."""
    if port.passes(x.dtype):
        return x
    if by_feature(port, role):
        return features_first(port(features_first(x, geometry), call), geometry)
    if not port.grouped:
        return port(x, call)
    run = _run(port)
    if run is not None and geometry.groups == 1:
        if role != "weight" and axis == -2 and x.shape[2:].numel() % run == 0:
            return port(x.flatten(2), call, -1).view(x.shape)
        if axis == -1 or role == "weight":
            return port(x, call, 1 if (axis == -1) is not (role == "weight" and geometry.transposed) else 0)
    return unmatrix(port(matrix(x, role, geometry), call, axis), x, role, geometry).contiguous()


def _run(port: Port) -> int | None:
    """The length of 1-D blocks that are the same in the operand's own layout, where no random words number its elements."""
    if port.cast is None or port.stochastic:
        return None
    if isinstance(port.cast.format, Block):
        return port.cast.format.size
    granularity = port.cast.scaling.granularity if port.cast.scaling is not None else None
    return granularity.group if isinstance(granularity, Group) else None


def rotated(x: Tensor, role: Operand, geometry: lowering.Geometry, signs: Tensor | None, axis: int) -> Tensor:
    """An operand after the transform of its GEMM along the contracted channels, of which there may be more then."""
    if signs is None:
        return x
    return unmatrix(rotate(matrix(x, role, geometry), signs, axis), x, role, geometry)


def lowerable(
    port: Port, x: Tensor, gemm: Gemm, role: Operand, geometry: lowering.Geometry, call: int, axis: int, ports: GemmPorts
) -> Lowerable:
    """What an emulated unit is given of an operand whose channels are contracted; blocks lie along the channels of a group.

    Raises:
        ConfigError: a scale that varies along the sum and that the unit does not take.
    """
    block = _block(ports)
    if not port.grouped or port.passes(x.dtype):
        values, factors = elements(port, x, gemm, role, geometry, call)
        values = _filled(values, role, geometry, axis, block)
        return Lowerable(values, _ones(values, role, geometry, axis, block), factors)
    q = port.parts(matrix(x, role, geometry), call, axis)
    turned = axis == -1 and role == "weight"
    operand = fed(transposed(q) if turned else q, ports.mac, "weight" if role == "weight" else "input")
    if operand.scales is None or any(factor.numel() != 1 for factor in operand.factors):
        raise varying_scale(port)
    values, scales = (operand.values.mT, operand.scales.mT) if turned else (operand.values, operand.scales)
    own = unmatrix(values, x, role, geometry)
    factors = tuple(factor.reshape(()) for factor in operand.factors)
    scales = unmatrix(scales.to(torch.float32), x, role, geometry)
    return Lowerable(_filled(own, role, geometry, axis, block), scales, factors)


def elements(
    port: Port, x: Tensor, gemm: Gemm, role: Operand, geometry: lowering.Geometry, call: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The elements in x's layout, and the scale of the whole tensor or, of a forward weight, of its output channels."""
    if port.passes(x.dtype):
        return carried(x), ()
    if by_feature(port, role):
        return _features(port, x, gemm, geometry, call)
    values, scale = port.elements(x, call, 0)
    if scale is None:
        return carried(values), ()
    if scale.numel() == 1:
        return carried(values), (scale.reshape(()),)
    raise varying_scale(port)


def _features(port: Port, x: Tensor, gemm: Gemm, geometry: lowering.Geometry, call: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A forward weight's elements, and a scale for each of its output features."""
    values, scale = port.elements(features_first(x, geometry), call, 1 if gemm == "output" else 0)
    if gemm != "output" or scale is None or scale.numel() != scale.shape[0]:
        raise varying_scale(port)
    return carried(features_first(values, geometry)), (scale.reshape(1, -1, *[1] * (x.dim() - 2)),)


def _block(ports: GemmPorts) -> int:
    """The unit's block along the sum where either operand has one."""
    blocked = ports.left.grouped or ports.right.grouped
    return ports.mac.scales.block if blocked and ports.mac.scales is not None else 1


def _filled(x: Tensor, role: Operand, geometry: lowering.Geometry, axis: int, block: int) -> Tensor:
    """The channels of each group filled with zeros to whole blocks."""
    if block == 1:
        return x
    m = matrix(x, role, geometry)
    short = -m.shape[axis] % block
    return unmatrix(torch.nn.functional.pad(m, (0, short) if axis == -1 else (0, 0, 0, short)), x, role, geometry)


def _ones(x: Tensor, role: Operand, geometry: lowering.Geometry, axis: int, block: int) -> Tensor | None:
    """Scales of one for an operand without any, where the other has some."""
    if block == 1:
        return None
    m = matrix(x, role, geometry)
    shape = [*m.shape]
    shape[axis] //= block
    return unmatrix(torch.ones(shape), x, role, geometry)
