"""One GEMM of a convolution: operands cast in their own layout, and sums on the emulated unit as those of lowered matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from hwsim.layering import Gemm, Operand
from hwsim.macs.quantized import Scaled, epilogue, transposed

from . import lowering, spatial
from .observing import Dots
from .phases import Phase
from .ports import Port
from .products import carried, multiply, rotated, widens
from .sites import GemmPorts, Site

if TYPE_CHECKING:
    from .engine import Engine


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


def given_to(ports: GemmPorts, *operands: tuple[Operand, Tensor]) -> tuple[Given, Given]:
    """Both operands, in the carrier where a scale multiplies halves."""
    wide = widens(ports, operands[0][1].dtype)
    left, right = (Given(role, carried(x) if wide else x) for role, x in operands)
    return left, right


def is_lowered(ports: GemmPorts) -> bool:
    """Whether what runs along a weight gradient's sum, the samples and positions, runs along the lowered matrices."""
    blocked = ports.left.grouped or ports.right.grouped
    return ports.signs is not None or (blocked and not ports.native)


def cast(ports: GemmPorts, side: int, given: Given, geometry: lowering.Geometry, call: int, port: Port | None = None) -> Tensor:
    """An operand after rotation and cast, in its own layout."""
    own, axis = _side(ports, side)
    return spatial.cast(port or own, _rotated(ports, side, given, geometry), given.role, geometry, call, axis)


def cast_once(
    engine: Engine, ports: GemmPorts, side: int, given: Given, geometry: lowering.Geometry, call: int, again: bool = False
) -> Tensor:
    """The same, made once for the GEMMs of a step that read it."""
    port = (ports.left, ports.right)[side]
    if ports.signs is not None or port.passes(given.x.dtype):
        return cast(ports, side, given, geometry, call)
    return engine.copies.of(port, given.x, given.role, again, lambda: cast(ports, side, given, geometry, call))


def emulated(
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


def summed_as_matrices(
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
    port, axis = _side(ports, side)
    return spatial.lowerable(port, _rotated(ports, side, given, geometry), gemm, given.role, geometry, call, axis, ports)


def _side(ports: GemmPorts, side: int) -> tuple[Port, int]:
    """The port of an operand, and the axis that its groups run along."""
    return ((ports.left, ports.left_axis), (ports.right, ports.right_axis))[side]


def _rotated(ports: GemmPorts, side: int, given: Given, geometry: lowering.Geometry) -> Tensor:
    outer_first = (ports.left_outer_first, ports.right_outer_first)[side]
    return spatial.rotated(given.x, given.role, geometry, ports.signs, -1 if outer_first else -2)
