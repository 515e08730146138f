"""Convolutions: the forward pass as one GEMM, the backward pass split into its two, and the bias's sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import lowering
from .origins import PLAIN, Role, note, origin_of
from .phases import Phase
from .ports import Port
from .products import carried, multiply, varying_scale
from .records import GemmNote
from .sites import Gemm, GemmPorts, Operand, Site, storage_id

if TYPE_CHECKING:
    from .engine import Engine
    from .plans import Plan

AXES: dict[tuple[Gemm, Operand], int] = {
    ("output", "input"): 1,
    ("output", "weight"): 1,
    ("grad_input", "grad_output"): 1,
    ("grad_input", "weight"): 0,
}
"""The contracted channel axis. grad_weight sums over samples and positions: groups run over them laid out as one axis."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a convolution runs."""

    site: Site
    call: int
    phase: Phase


class Given(NamedTuple):
    """An operand of an emulated convolution and its role."""

    role: Operand
    x: Tensor


def run_convolution(engine: Engine, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward pass; the bias joins after the unit's sum, before the result's cast, in the carrier."""
    x, weight, bias = args[:3]
    geometry = lowering.Geometry.of(args[3:])
    phase = engine.clock.phase()
    layer = engine.clock.frame(phase).layer
    site = engine.site(plan.name, origin_of(weight), layer, phase)
    place = Place(site, engine.clock.call(site.name, phase), phase)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        region = engine.clock.region(phase)
        engine.records.put(GemmNote(site, place.call, region, storage_id(x), storage_id(weight), "input", "weight"))
    ports = site.ports("output", "input", "weight")
    if ports.native:
        a = _cast(ports.left, x, "output", "input", geometry, place.call)
        b = _cast(ports.right, weight, "output", "weight", geometry, place.call)
        out = plan.func(a, b, *args[2:], **kwargs)
    else:
        out = _emulated(ports, place, "output", Given("input", x), Given("weight", weight), geometry, tuple(weight.shape))
        if bias is not None:
            out = out + bias.reshape(1, -1, *[1] * (out.dim() - 2))
        out = out.to(x.dtype)
    _count(engine, plan, place, "output", "input", "weight", lowering.flops(x, weight, out, geometry))
    out = engine.handed_on(ports.result, out, plan, place.call)
    note(out, PLAIN[Role.INPUT])
    return out


def run_convolution_backward(engine: Engine, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The gradients of a convolution: two GEMMs, each on operands cast for it, and the bias's gradient on the vector unit."""
    grad, x, weight, bias_sizes = args[:4]
    geometry, mask = lowering.Geometry.of(args[4:]), list(args[-1])
    phase = engine.clock.phase()
    place = _backward_place(engine, plan, weight, phase)
    site = place.site
    to_input = site.ports("grad_input", "grad_output", "weight")
    to_weight = site.ports("grad_weight", "grad_output", "input")
    flops = lowering.flops(x, weight, grad, geometry)

    def native(masked: list[bool], grad: Tensor, x: Tensor, weight: Tensor) -> Any:
        return plan.func(grad, x, weight, bias_sizes, *args[4:-1], masked, **kwargs)

    if _untouched(to_input, grad, weight) and _untouched(to_weight, grad, x):
        grads = list(native(mask, grad, x, weight))
    else:
        grads = [None, None, None]
        if mask[0] and to_input.native:
            g = _cast(to_input.left, grad, "grad_input", "grad_output", geometry, place.call)
            w = _cast(to_input.right, weight, "grad_input", "weight", geometry, place.call)
            grads[0] = native([True, False, False], g, x, w)[0]
        elif mask[0]:
            left, right = Given("grad_output", grad), Given("weight", weight)
            grads[0] = _emulated(to_input, place, "grad_input", left, right, geometry, tuple(x.shape)).to(x.dtype)
        if mask[1] and to_weight.native:
            same = mask[0] and to_input.native and to_input.left.does_the_same(to_weight.left)
            g = g if same else _cast(to_weight.left, grad, "grad_weight", "grad_output", geometry, place.call)
            a = _cast(to_weight.right, x, "grad_weight", "input", geometry, place.call)
            grads[1] = native([False, True, False], g, a, weight)[1]
        elif mask[1]:
            left, right = Given("grad_output", grad), Given("input", x)
            grads[1] = _emulated(to_weight, place, "grad_weight", left, right, geometry, tuple(weight.shape)).to(weight.dtype)
        if mask[2]:
            grads[2] = grad.sum([0, *range(2, grad.dim())])
    if mask[0]:
        _count(engine, plan, place, "grad_input", "grad_output", "weight", flops)
        grads[0] = engine.handed_on(to_input.result, grads[0], plan, place.call)
    if mask[1]:
        _count(engine, plan, place, "grad_weight", "grad_output", "input", flops)
        grads[1] = engine.handed_on(to_weight.result, grads[1], plan, place.call)
    if mask[2]:
        grads[2] = engine.vector_result(plan, grads[2], phase, site.layer)
    for g in grads:
        if g is not None:
            note(g, PLAIN[Role.GRAD])
    return tuple(grads)


def _backward_place(engine: Engine, plan: Plan, weight: Tensor, phase: Phase) -> Place:
    found = engine.clock.note() if phase is Phase.BACKWARD else None
    if isinstance(found, GemmNote):
        return Place(found.site, found.call, phase)
    layer = found.layer if found is not None else engine.sites.base
    site = engine.site(plan.name, origin_of(weight), layer, phase)
    return Place(site, engine.clock.call(f"{site.name}/backward", phase), phase)


def _untouched(ports: GemmPorts, left: Tensor, right: Tensor) -> bool:
    return ports.native and ports.left.passes(left.dtype) and ports.right.passes(right.dtype)


def _cast(port: Port, x: Tensor, gemm: Gemm, role: Operand, geometry: lowering.Geometry, call: int) -> Tensor:
    """An operand after its cast, in its own layout."""
    if port.passes(x.dtype):
        return x
    axis = _axis(gemm, role, geometry)
    if axis is None and port.grouped:
        flat, restore = _channels_first(x)
        return restore(port(flat, call, -1))
    return port(x, call, -1 if axis is None else axis)


def _axis(gemm: Gemm, role: Operand, geometry: lowering.Geometry) -> int | None:
    axis = AXES.get((gemm, role))
    return 1 - axis if axis is not None and role == "weight" and geometry.transposed else axis


def _channels_first(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(N, C, ...) as (C, N ...), and the way back."""
    moved = x.transpose(0, 1)
    return moved.reshape(x.shape[1], -1), lambda flat: flat.view(moved.shape).transpose(0, 1)


def _emulated(
    ports: GemmPorts,
    place: Place,
    gemm: Gemm,
    left: Given,
    right: Given,
    geometry: lowering.Geometry,
    shape: tuple[int, ...],
) -> Tensor:
    a, a_scale = _elements(ports.left, left.x, gemm, left.role, geometry, place.call)
    b, b_scale = _elements(ports.right, right.x, gemm, right.role, geometry, place.call)

    def product(m: Tensor, n: Tensor) -> Tensor:
        return multiply(place.site, ports, m, n, gemm, place.call)

    out = lowering.LOWERED[gemm](carried(a), carried(b), geometry, shape, product)
    for scale in (a_scale, b_scale):
        out = out if scale is None else out * scale
    return out


def _elements(
    port: Port, x: Tensor, gemm: Gemm, role: Operand, geometry: lowering.Geometry, call: int
) -> tuple[Tensor, Tensor | None]:
    """The elements in x's layout, and the scale of the whole tensor or, of a forward weight, of its output channels."""
    if port.passes(x.dtype):
        return x, None
    axis = _axis(gemm, role, geometry)
    if axis is None and port.grouped:
        raise varying_scale(port)
    values, scale = port.elements(x, call, -1 if axis is None else axis)
    if scale is None or scale.numel() == 1:
        return values, None if scale is None else scale.reshape(())
    if (gemm, role) == ("output", "weight") and not geometry.transposed and scale.numel() == scale.shape[0]:
        return values, scale.reshape(1, -1, *[1] * (x.dim() - 2))
    raise varying_scale(port)


def _count(engine: Engine, plan: Plan, place: Place, gemm: Gemm, left: Operand, right: Operand, flops: int) -> None:
    engine.audit.gemm((place.phase, plan.name, place.site, gemm, left, right), flops)
