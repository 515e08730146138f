"""A GEMM on cast operands: torch's own on the native unit, hwsim's on an emulated one."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.casting import Quantized
from hwsim.errors import ConfigError, FormatError
from hwsim.hadamard import rotate
from hwsim.layering import Operand
from hwsim.macs import matmul
from hwsim.macs.quantized import Scaled, transposed

from .copies import Copies
from .observing import Dots
from .ports import Port
from .sites import GemmPorts, Site

HALVES = (torch.bfloat16, torch.float16)


def rotated(ports: GemmPorts, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The operands (.., M, K) and (.., K, N) after the GEMM's transform along K, which may grow."""
    if ports.signs is None:
        return left, right
    return rotate(left, ports.signs, -1), rotate(right, ports.signs, -2)


def widens(ports: GemmPorts, dtype: torch.dtype) -> bool:
    """Whether operands of half precision are cast and multiplied in float32: what a scale multiplies is wider than they are."""
    return dtype in HALVES and any(port.rescales and not port.passes(dtype) for port in (ports.left, ports.right))


def cast_operand(
    port: Port,
    x: Tensor,
    left: bool,
    outer_first: bool,
    call: int,
    axis: int,
    copies: Copies | None = None,
    role: Operand = "input",
    again: bool = False,
) -> Tensor:
    """An operand (.., M, K) or (.., K, N), cast in its canonical layout; groups run along `axis`.

    With `copies` the cast of a `role` that another GEMM of the step reads too is made once.
    """
    if port.passes(x.dtype):
        return x
    flipped = left is not outer_first
    given = x.mT if flipped else x
    y = port(given, call, axis) if copies is None else copies.of(port, given, role, again, lambda: port(given, call, axis))
    return y.mT if flipped else y


def emulated(
    site: Site, ports: GemmPorts, left: Tensor, right: Tensor, gemm: str, call: int, seen: list[Dots] | None = None
) -> Tensor:
    """(.., M, K) @ (.., K, N) on the emulated unit, as float32 or wider: `matmul` of what the two ports hand on.

    Raises:
        FormatError: scales that vary along the contracted axis, and a unit that takes none.
    """
    a = _operand(ports.left, left, True, ports.left_outer_first, call, ports.left_axis)
    b = _operand(ports.right, right, False, ports.right_outer_first, call, ports.right_axis)
    return multiply(site, ports, a, b, gemm, call, seen)


def multiply(
    site: Site,
    ports: GemmPorts,
    a: Tensor | Scaled | Quantized,
    b: Tensor | Scaled | Quantized,
    gemm: str,
    call: int,
    seen: list[Dots] | None = None,
) -> Tensor:
    """The unit's own product, noted in `seen`; its stochastic roundings are keyed by `SITE/GEMM/mac`."""
    draw = ports.left.draws(f"{site.name}/{gemm}/mac", call, True)
    if seen is not None:
        seen.append(Dots(a, b, ports.mac, draw))
    try:
        return matmul(a, b, ports.mac, draw=draw)
    except FormatError as error:
        raise FormatError(f"{site.name}, {gemm}: {error}", error.field) from error


def carried(x: Tensor) -> Tensor:
    """The tensor in a dtype that units compute on."""
    return x.float() if x.dtype in HALVES else x


def _operand(port: Port, x: Tensor, left: bool, outer_first: bool, call: int, axis: int) -> Tensor | Quantized:
    if port.passes(x.dtype):
        return x
    flipped = left is not outer_first
    y = port.parts(x.mT if flipped else x, call, axis)
    return transposed(y) if flipped else y


def varying_scale(port: Port) -> ConfigError:
    """The error about a scale that an emulated unit cannot apply after its sum."""
    return ConfigError(
        f"{port.site}: the scale of {port.cast} varies along the axis that this GEMM sums over, and the emulated unit takes one "
        "scale a sum; allowed: a scale a tensor, a scale along the other axis, or `mac: native`"
    )
