"""`matmul`: emulated dot products as one torch operator, on whichever backend has the operands' device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from hwsim.casting import Quantized
from hwsim.config import canonical
from hwsim.errors import FormatError, not_allowed
from hwsim.formats import Draw

from . import gradients
from .quantized import Scaled, block_scales, broadcasts, check_real, epilogue, fed, narrowed
from .record import Mac, Operands
from .units import mac as unit

BACKENDS = ("numba", "reference", "triton")
NATIVE_DTYPES = (torch.float32, torch.float64)

library = torch.library.Library("hwsim", "FRAGMENT")  # type: ignore[no-untyped-call]
library.define(  # type: ignore[no-untyped-call]
    "matmul(Tensor a, Tensor b, Tensor? c, Tensor? scale_a, Tensor? scale_b, str mac, int[] draw, str site, str backend)"
    " -> Tensor"
)


def matmul(
    a: torch.Tensor | Scaled | Quantized,
    b: torch.Tensor | Scaled | Quantized,
    mac: Mac | str | Mapping[str, Any],
    c: torch.Tensor | None = None,
    draw: Draw = Draw(),
    backend: str | None = None,
) -> torch.Tensor:
    """d = a b + c by the unit `mac`, every rounding and the order of the sums as it declares.

    The result does not depend on the backend, the number of threads or how a batch is split; it is float32, or float64 where
    that is needed to hold the unit's result format. NaN, infinities and overflow do what the unit's formats and rules say.

    Of `Quantized` operands the unit is given the elements, and the scales that vary along K where it takes such. Scales of a
    tensor, of a row of A or of a column of B, and the tensor scales beside blocks, act on the result d of the unit, which then
    starts from +0: RNE(RNE(d s) + c) in the result's dtype, s being the product of A's scale, A's tensor scale, B's scale and B's
    tensor scale, in this order, rounded likewise at every step.

    The gradient goes straight through: it is that of the plain product a b + c of the operands' values (of `Scaled` and
    `Quantized` ones the dequantized values), by torch's own matmul, in each operand's dtype. A backward pass whose products are
    emulated too, each on a unit of its own, is what `hwsim.emulate` runs.

    Args:
        a: (..., M, K), values of the unit's `input` formats; with a `Scaled` or a `Quantized` the unit is given elements and
            scales. Where only one operand has scales along K, those of the other are one.
        b: (..., K, N), values of its `weight` formats. Batch dimensions broadcast.
        c: (..., M, N), or None; rounded to the unit's C format on its way in, where it enters the unit.
        draw: what a stochastic accumulator's random words depend on.
        backend: `numba`, `reference` or `triton`; when None, `triton` for CUDA tensors and `numba` for others.

    Raises:
        FormatError: what is no dense tensor of real numbers, shapes that do not fit, an operand or a scale that is no value of
            its format (the first is named), scales along K without a unit that takes them or split where they act, a unit that
            the backend lacks.
        NanError: a NaN in C or in the result whose format has none.
        ConfigError: no such unit.
    """
    mac = unit(mac)
    if backend is not None and backend not in BACKENDS:
        raise FormatError(not_allowed("backend", backend, BACKENDS), "backend")
    if not mac.is_native and gradients.wanted(a, b, c):
        with torch.no_grad():
            result = matmul(a, b, mac, c, draw, backend)
        return gradients.straight_through(result, a, b, c, mac)
    x, y = fed(a, mac, "input"), fed(b, mac, "weight")
    if c is not None:
        check_real(c, "c")
    _check_shapes(x.values, y.values, c)
    scale_a, scale_b = block_scales(x, y, mac)
    factors = (*x.factors, *y.factors)
    start = None if factors else c
    if mac.is_native:
        result = _native(x.values, y.values, start, mac)
    else:
        numbers = [draw.seed, draw.step, draw.call, draw.rank, draw.offset]
        text = _text(narrowed(mac, a, b))
        result = torch.ops.hwsim.matmul(x.values, y.values, start, scale_a, scale_b, text, numbers, draw.site, backend or "")
    return epilogue(result, factors, c) if factors else result


def _check_shapes(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None) -> None:
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2]:
        raise FormatError(f"matmul: got shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed: (..., M, K) and (..., K, N)")
    try:
        shape = result_shape(a, b)
    except ValueError as error:
        raise FormatError(f"matmul: got shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed: batches that broadcast") from error
    if c is not None and not broadcasts(c.shape, shape):
        raise FormatError(f"matmul: got c of shape {tuple(c.shape)}; allowed: what broadcasts to {tuple(shape)}")


def result_shape(a: torch.Tensor, b: torch.Tensor) -> torch.Size:
    """(..., M, N)."""
    return torch.Size((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))


def _native(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None, mac: Mac) -> torch.Tensor:
    dtype = mac.accumulator.format.carrier
    result = a.to(dtype) @ b.to(dtype)
    return result if c is None else result + c.to(dtype)


@lru_cache(maxsize=256)
def _text(mac: Mac) -> str:
    """The unit as the operator takes it: its canonical text, which leaves labels out, and the labels of its operand formats."""
    ports = (mac.operands.input, mac.operands.weight) if mac.operands else ()
    return json.dumps([json.loads(canonical(mac)), [[fmt.name for fmt in formats] for formats in ports]])


@lru_cache(maxsize=256)
def declared_unit(text: str) -> Mac:
    """The unit of a text that `_text` made."""
    declared, names = json.loads(text)
    mac = unit(declared)
    if mac.operands is None:
        return mac
    ports = (mac.operands.input, mac.operands.weight)
    labelled = [tuple(map(_labelled, formats, labels)) for formats, labels in zip(ports, names, strict=True)]
    return mac.model_copy(update={"operands": Operands(input=labelled[0], weight=labelled[1])})


def _labelled(fmt: Any, name: str) -> Any:
    return replace(fmt, name=name)


def _meta(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None, scale_a: torch.Tensor | None, scale_b: torch.Tensor | None,
    mac: str, draw: list[int], site: str, backend: str,
) -> torch.Tensor:  # fmt: skip
    return a.new_empty(result_shape(a, b), dtype=declared_unit(mac).outermost.format.carrier)


def _cpu(*given: Any) -> torch.Tensor:
    """The compiled loops, whose import takes a second: only who multiplies waits for it."""
    from .products import on_cpu

    return on_cpu(*given)


def _cuda(*given: Any) -> torch.Tensor:
    from .products import on_cuda

    return on_cuda(*given)


library.impl("matmul", _cpu, "CPU")  # type: ignore[no-untyped-call]
library.impl("matmul", _cuda, "CUDA")  # type: ignore[no-untyped-call]
library.impl("matmul", _meta, "Meta")  # type: ignore[no-untyped-call]
