"""Convolutions: the forward pass as one GEMM, the backward pass split into its two, and the bias's sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hwsim.layering import Gemm, Operand
from hwsim.macs.quantized import Scaled, epilogue, transposed

from . import lowering, spatial
from .observing import Dots, Factor, Product
from .opened import total
from .origins import PLAIN, Role, note, origin_of
from .phases import Phase
from .ports import Port
from .products import carried, multiply, rotated, widens
from .records import GemmNote
from .sites import GemmPorts, Site, storage_id

if TYPE_CHECKING:
    from .engine import Engine
    from .plans import Plan

INPUT_ONLY, WEIGHT_ONLY = (True, False, False), (False, True, False)
"""Which gradients convolution_backward is asked for."""


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
    operands = _given(ports, ("input", x), ("weight", weight))
    seen = _watched(engine, phase)
    if ports.native:
        again = torch.is_grad_enabled() and x.requires_grad
        a, b = (_cast_once(engine, ports, i, given, geometry, place.call, again) for i, given in enumerate(operands))
        out = plan.func(a, b, None if bias is None else bias.to(a.dtype), *args[3:], **kwargs).to(x.dtype)
    else:
        out = _emulated(ports, place, "output", operands, geometry, tuple(weight.shape), seen)
        if bias is not None:
            addend = bias.reshape(1, -1, *[1] * (out.dim() - 2))
            out = out + addend
            if seen:
                seen[0] = replace(seen[0], addend=addend)
        out = out.to(x.dtype)
    _count(engine, plan, place, "output", "input", "weight", lowering.flops(x, weight, out, geometry))

    def multiply(x: Tensor, weight: Tensor) -> Tensor:
        product: Tensor = plan.func(x, weight, None, *args[3:], **kwargs)
        return product

    out = engine.handed_on(ports.result, out, plan, place.call)
    _show(engine, place, ports, geometry, "output", operands, out, multiply, seen)
    engine.see(phase, plan.label, f"{site.name}/output", out, x, weight)
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
    for_input = _given(to_input, ("grad_output", grad), ("weight", weight))
    for_weight = _given(to_weight, ("grad_output", grad), ("input", x))
    flops = lowering.flops(x, weight, grad, geometry)
    seen_input, seen_weight = _watched(engine, phase), _watched(engine, phase)

    def native(masked: list[bool], grad: Tensor, x: Tensor, weight: Tensor) -> Any:
        return plan.func(grad, x, weight, bias_sizes, *args[4:-1], masked, **kwargs)

    if _untouched(to_input, grad, weight) and _untouched(to_weight, grad, x):
        grads = list(native(mask, grad, x, weight))
    else:
        grads = [None, None, None]
        cast_grad: Tensor | None = None
        if mask[0] and to_input.native:
            cast_grad = _cast(to_input, 0, for_input[0], geometry, place.call)
            w = _cast_once(engine, to_input, 1, for_input[1], geometry, place.call)
            grads[0] = native(list(INPUT_ONLY), cast_grad, x.to(w.dtype), w)[0].to(x.dtype)
        elif mask[0]:
            grads[0] = _emulated(to_input, place, "grad_input", for_input, geometry, tuple(x.shape), seen_input).to(x.dtype)
        if mask[1] and _is_lowered(to_weight):
            grads[1] = _lowered(to_weight, place, for_weight, geometry, tuple(weight.shape), seen_weight).to(weight.dtype)
        elif mask[1] and to_weight.native:
            if cast_grad is not None and _is_same(to_input, to_weight):
                if not to_weight.left.passes(grad.dtype):
                    to_weight.left.count_again(to_input.left.tally)
            else:
                cast_grad = _cast(to_weight, 0, for_weight[0], geometry, place.call)
            a = _cast(to_weight, 1, for_weight[1], geometry, place.call)
            grads[1] = native(list(WEIGHT_ONLY), cast_grad.to(a.dtype), a, weight.to(a.dtype))[1].to(weight.dtype)
        elif mask[1]:
            shape = tuple(weight.shape)
            grads[1] = _emulated(to_weight, place, "grad_weight", for_weight, geometry, shape, seen_weight).to(weight.dtype)
        if mask[2]:
            grads[2] = grad.sum([0, *range(2, grad.dim())])
    if mask[0]:
        _count(engine, plan, place, "grad_input", "grad_output", "weight", flops)
        grads[0] = engine.handed_on(to_input.result, grads[0], plan, place.call)
        _show(
            engine,
            place,
            to_input,
            geometry,
            "grad_input",
            for_input,
            grads[0],
            lambda g, w: native(list(INPUT_ONLY), g, x, w)[0],
            seen_input,
            0,
        )
        engine.see(phase, plan.label, f"{site.name}/grad_input", grads[0], grad, weight)
        grads[0] = _through(site, "input", x, grads[0], geometry)
    if mask[1]:
        _count(engine, plan, place, "grad_weight", "grad_output", "input", flops)
        grads[1] = engine.handed_on(to_weight.result, grads[1], plan, place.call)
        _show(
            engine,
            place,
            to_weight,
            geometry,
            "grad_weight",
            for_weight,
            grads[1],
            lambda g, a: native(list(WEIGHT_ONLY), g, a, weight)[1],
            seen_weight,
            1,
        )
        engine.see(phase, plan.label, f"{site.name}/grad_weight", grads[1], grad, x)
        grads[1] = _through(site, "weight", weight, grads[1], geometry)
    if mask[2]:
        if site.layer.steps is not None:
            grads[2] = total(site.layer.steps, grad, [0, *range(2, grad.dim())])
        grads[2] = engine.vector_result(plan, grads[2], phase, site.layer)
    for g in grads:
        if g is not None:
            note(g, PLAIN[Role.GRAD])
    return tuple(grads)


def _given(ports: GemmPorts, *operands: tuple[Operand, Tensor]) -> tuple[Given, Given]:
    wide = widens(ports, operands[0][1].dtype)
    left, right = (Given(role, carried(x) if wide else x) for role, x in operands)
    return left, right


def _backward_place(engine: Engine, plan: Plan, weight: Tensor, phase: Phase) -> Place:
    found = engine.clock.note() if phase is Phase.BACKWARD else None
    if isinstance(found, GemmNote):
        return Place(found.site, found.call, phase)
    layer = found.layer if found is not None else engine.sites.base
    site = engine.site(plan.name, origin_of(weight), layer, phase)
    return Place(site, engine.clock.call(f"{site.name}/backward", phase), phase)


def _untouched(ports: GemmPorts, left: Tensor, right: Tensor) -> bool:
    return ports.native and ports.signs is None and ports.left.passes(left.dtype) and ports.right.passes(right.dtype)


def _is_same(to_input: GemmPorts, to_weight: GemmPorts) -> bool:
    """Whether both gradients take the same copy of the output gradient."""
    if to_input.signs is not None or to_weight.signs is not None:
        return False
    if to_input.left is to_weight.left and to_input.left_axis == to_weight.left_axis:
        return True
    return to_input.left.does_the_same(to_weight.left)


def _is_lowered(ports: GemmPorts) -> bool:
    """Whether what runs along a weight gradient's sum, the samples and positions, runs along the lowered matrices."""
    blocked = ports.left.grouped or ports.right.grouped
    return ports.signs is not None or (blocked and not ports.native)


def _through(site: Site, role: Operand, x: Tensor, grad: Tensor, geometry: lowering.Geometry) -> Tensor:
    port = site.port("output", role)
    if not port.estimates:
        return grad
    if not spatial.by_feature(port, role):
        return port.through(x, grad)
    through = port.through(spatial.features_first(x, geometry), spatial.features_first(grad, geometry))
    return spatial.features_first(through, geometry)


def _cast(ports: GemmPorts, side: int, given: Given, geometry: lowering.Geometry, call: int, port: Port | None = None) -> Tensor:
    """An operand after rotation and cast, in its own layout."""
    outer_first = (ports.left_outer_first, ports.right_outer_first)[side]
    x = spatial.rotated(given.x, given.role, geometry, ports.signs, -1 if outer_first else -2)
    axis = (ports.left_axis, ports.right_axis)[side]
    return spatial.cast(port or (ports.left, ports.right)[side], x, given.role, geometry, call, axis)


def _cast_once(
    engine: Engine, ports: GemmPorts, side: int, given: Given, geometry: lowering.Geometry, call: int, again: bool = False
) -> Tensor:
    """The same, made once for the GEMMs of a step that read it."""
    port = (ports.left, ports.right)[side]
    if ports.signs is not None or port.passes(given.x.dtype):
        return _cast(ports, side, given, geometry, call)
    return engine.copies.of(port, given.x, given.role, again, lambda: _cast(ports, side, given, geometry, call))


def _emulated(
    ports: GemmPorts,
    place: Place,
    gemm: Gemm,
    operands: tuple[Given, Given],
    geometry: lowering.Geometry,
    shape: tuple[int, ...],
    seen: list[Dots] | None,
) -> Tensor:
    """One GEMM on the emulated unit, lowered; elements and the scales of their blocks are lowered alike."""
    a, b = (_lowerable(ports, side, gemm, given, geometry, place.call) for side, given in enumerate(operands))
    left, right, fold = lowering.LOWERED[gemm](a.values, b.values, geometry, shape)
    if a.scales is not None and b.scales is not None:
        left_scales, right_scales, _ = lowering.LOWERED[gemm](a.scales, b.scales, geometry, shape, fill=1.0)
        product = multiply(place.site, ports, Scaled(left, left_scales), Scaled(right, right_scales), gemm, place.call, seen)
    else:
        product = multiply(place.site, ports, left, right, gemm, place.call, seen)
    factors = (*a.factors, *b.factors)
    if seen:
        seen[0] = replace(seen[0], fold=fold, factors=factors)
    return epilogue(fold(product), factors, None) if factors else fold(product)


def _lowered(
    ports: GemmPorts,
    place: Place,
    operands: tuple[Given, Given],
    geometry: lowering.Geometry,
    shape: tuple[int, ...],
    seen: list[Dots] | None,
) -> Tensor:
    """A weight gradient whose operands are rotated or share scales along the sum: cast as lowered matrices."""
    left, right, fold = lowering.LOWERED["grad_weight"](operands[0].x, operands[1].x, geometry, shape)
    sides = (ports.right, ports.left) if geometry.transposed else (ports.left, ports.right)
    left, right = rotated(ports, left, right)
    if ports.native:
        return fold(sides[0](left, place.call, -1) @ sides[1](right.mT, place.call, -1).mT)
    a, b = sides[0].parts(left, place.call, -1), transposed(sides[1].parts(right.mT, place.call, -1))
    product = multiply(place.site, ports, a, b, "grad_weight", place.call, seen)
    if seen:
        seen[0] = replace(seen[0], fold=fold)
    return fold(product)


def _lowerable(
    ports: GemmPorts, side: int, gemm: Gemm, given: Given, geometry: lowering.Geometry, call: int
) -> spatial.Lowerable:
    outer_first = (ports.left_outer_first, ports.right_outer_first)[side]
    x = spatial.rotated(given.x, given.role, geometry, ports.signs, -1 if outer_first else -2)
    axis, port = (ports.left_axis, ports.right_axis)[side], (ports.left, ports.right)[side]
    return spatial.lowerable(port, x, gemm, given.role, geometry, call, axis, ports)


def _watched(engine: Engine, phase: Phase) -> list[Dots] | None:
    """Where an emulated unit notes its dot products, for an observer."""
    return None if engine.observer is None or phase is Phase.RECOMPUTE else []


def _count(engine: Engine, plan: Plan, place: Place, gemm: Gemm, left: Operand, right: Operand, flops: int) -> None:
    engine.audit.gemm((place.phase, plan.name, place.site, gemm, left, right), flops)


def _show(
    engine: Engine,
    place: Place,
    ports: GemmPorts,
    geometry: lowering.Geometry,
    gemm: Gemm,
    operands: tuple[Given, Given],
    out: Tensor,
    multiply: Callable[[Tensor, Tensor], Tensor],
    seen: list[Dots] | None,
    target: int | None = None,
) -> None:
    if engine.observer is None or seen is None:
        return

    def factor(side: int) -> Factor:
        given = operands[side]
        return Factor(given.role, given.x, lambda port: _cast(ports, side, given, geometry, place.call, port), given.role)

    dots = seen[0] if seen else None
    engine.observer.product(Product(place.site, gemm, place.call, (factor(0), factor(1)), out, multiply, target, dots=dots))
