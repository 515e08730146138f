"""Convolutions: the forward pass as one GEMM, the backward pass split into its two, and the bias's sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hwsim.layering import Gemm, Operand

from . import lowering, spatial
from .convolution_gemms import Given, Place, cast, cast_once, emulated, given_to, is_lowered, summed_as_matrices
from .observing import Dots, Factor, Product
from .opened import total
from .origins import PLAIN, Role, note, origin_of
from .phases import Phase
from .records import GemmNote
from .sites import GemmPorts, Site, storage_id

if TYPE_CHECKING:
    from .engine import Engine
    from .plans import Plan

INPUT_ONLY, WEIGHT_ONLY = (True, False, False), (False, True, False)
"""Which gradients convolution_backward is asked for."""


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
    operands = given_to(ports, ("input", x), ("weight", weight))
    seen = _watched(engine, phase)
    if ports.native:
        again = torch.is_grad_enabled() and x.requires_grad
        a, b = (cast_once(engine, ports, i, given, geometry, place.call, again) for i, given in enumerate(operands))
        out = plan.func(a, b, None if bias is None else bias.to(a.dtype), *args[3:], **kwargs).to(x.dtype)
    else:
        out = emulated(ports, place, "output", operands, geometry, tuple(weight.shape), seen)
        if bias is not None:
            addend = bias.reshape(1, -1, *[1] * (out.dim() - 2))
            out = out + addend
            if seen:
                seen[0] = replace(seen[0], addend=addend)
        out = out.to(x.dtype)
    _count(engine, plan, place, "output", operands, out, lowering.flops(x, weight, out, geometry))

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
    for_input = given_to(to_input, ("grad_output", grad), ("weight", weight))
    for_weight = given_to(to_weight, ("grad_output", grad), ("input", x))
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
            cast_grad = cast(to_input, 0, for_input[0], geometry, place.call)
            w = cast_once(engine, to_input, 1, for_input[1], geometry, place.call)
            grads[0] = native(list(INPUT_ONLY), cast_grad, x.to(w.dtype), w)[0].to(x.dtype)
        elif mask[0]:
            grads[0] = emulated(to_input, place, "grad_input", for_input, geometry, tuple(x.shape), seen_input).to(x.dtype)
        if mask[1] and is_lowered(to_weight):
            grads[1] = summed_as_matrices(to_weight, place, for_weight, geometry, tuple(weight.shape), seen_weight).to(
                weight.dtype
            )
        elif mask[1] and to_weight.native:
            if cast_grad is not None and _is_same(to_input, to_weight):
                if not to_weight.left.passes(grad.dtype):
                    to_weight.left.count_again(to_input.left.tally)
            else:
                cast_grad = cast(to_weight, 0, for_weight[0], geometry, place.call)
            a = cast(to_weight, 1, for_weight[1], geometry, place.call)
            grads[1] = native(list(WEIGHT_ONLY), cast_grad.to(a.dtype), a, weight.to(a.dtype))[1].to(weight.dtype)
        elif mask[1]:
            shape = tuple(weight.shape)
            grads[1] = emulated(to_weight, place, "grad_weight", for_weight, geometry, shape, seen_weight).to(weight.dtype)
        if mask[2]:
            grads[2] = grad.sum([0, *range(2, grad.dim())])
    if mask[0]:
        _count(engine, plan, place, "grad_input", for_input, x, flops)
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
        _count(engine, plan, place, "grad_weight", for_weight, weight, flops)
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


def _through(site: Site, role: Operand, x: Tensor, grad: Tensor, geometry: lowering.Geometry) -> Tensor:
    port = site.port("output", role)
    if not port.estimates:
        return grad
    if not spatial.by_feature(port, role):
        return port.through(x, grad)
    through = port.through(spatial.features_first(x, geometry), spatial.features_first(grad, geometry))
    return spatial.features_first(through, geometry)


def _watched(engine: Engine, phase: Phase) -> list[Dots] | None:
    """Where an emulated unit notes its dot products, for an observer."""
    return None if engine.observer is None or phase is Phase.RECOMPUTE else []


def _count(
    engine: Engine, plan: Plan, place: Place, gemm: Gemm, operands: tuple[Given, Given], result: Tensor, flops: int
) -> None:
    left, right = operands
    key = place.phase, plan.name, place.site, gemm, left.role, right.role
    engine.audit.gemm(key, flops, left.x.numel(), right.x.numel(), result.numel())


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
        return Factor(given.role, given.x, lambda port: cast(ports, side, given, geometry, place.call, port), given.role)

    dots = seen[0] if seen else None
    engine.observer.product(Product(place.site, gemm, place.call, (factor(0), factor(1)), out, multiply, target, dots=dots))
