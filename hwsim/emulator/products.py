"""A GEMM on cast operands: torch's own on the native unit, hwsim's on an emulated one."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.errors import ConfigError
from hwsim.macs import matmul

from .ports import Port
from .sites import GemmPorts, Site


def cast_operand(port: Port, x: Tensor, left: bool, outer_first: bool, call: int) -> Tensor:
    """An operand (.., M, K) or (.., K, N), cast in its canonical layout with groups along the contracted axis."""
    if port.passes(x.dtype):
        return x
    flipped = left is not outer_first
    y = port(x.mT if flipped else x, call, -1 if outer_first else -2)
    return y.mT if flipped else y


def emulated(site: Site, ports: GemmPorts, left: Tensor, right: Tensor, gemm: str, call: int) -> Tensor:
    """(.., M, K) @ (.., K, N) on the emulated unit, as float32 or wider: matmul of the elements, times both scales.

    Raises:
        ConfigError: a scale varies along the contracted axis.
    """
    a, a_scale = _elements(ports.left, left, True, ports.left_outer_first, call)
    b, b_scale = _elements(ports.right, right, False, ports.right_outer_first, call)
    product = multiply(site, ports, a, b, gemm, call)
    if a_scale is None or b_scale is None:
        scale = b_scale if a_scale is None else a_scale
        return product if scale is None else product * scale
    return product * (a_scale * b_scale)


def multiply(site: Site, ports: GemmPorts, a: Tensor, b: Tensor, gemm: str, call: int) -> Tensor:
    """The unit's own product of elements; its stochastic roundings are keyed by `SITE/GEMM/mac`."""
    draws = ports.left.draws
    return matmul(carried(a), carried(b), ports.mac, draw=draws(f"{site.name}/{gemm}/mac", call, True))


def carried(x: Tensor) -> Tensor:
    """The tensor in a dtype that units compute on."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _elements(port: Port, x: Tensor, left: bool, outer_first: bool, call: int) -> tuple[Tensor, Tensor | None]:
    flipped = left is not outer_first
    axis = -1 if outer_first else -2
    values, scale = port.elements(x.mT if flipped else x, call, axis)
    if scale is not None:
        scale = scale.mT if flipped and scale.dim() > 1 else scale
    return (values.mT if flipped else values), scale


def varying_scale(port: Port) -> ConfigError:
    """The error about a scale that an emulated unit cannot apply after its sum."""
    return ConfigError(
        f"{port.site}: the scale of {port.cast} varies along the axis that this GEMM sums over, and the emulated unit takes one "
        "scale a sum; allowed: a scale a tensor, a scale along the other axis, or `mac: native`"
    )
