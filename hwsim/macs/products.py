"""Emulated dot products: operands checked, batches unfolded, each sum by the kernel that is exact for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from hwsim.errors import FormatError
from hwsim.formats import Draw

from . import cpu, reference
from .bases import needs_reference
from .matmul import declared_unit, result_shape
from .nans import check_products, check_sums
from .operands import Array, Port, c_place, check_nan, flushed, port, rounded
from .record import Mac
from .words import Stream, stream


def on_cpu(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None, scale_a: torch.Tensor | None, scale_b: torch.Tensor | None,
    mac: str, draw: list[int], site: str, backend: str,
) -> torch.Tensor:  # fmt: skip
    """What the operator `hwsim::matmul` gives (see matmul.py).

    Raises:
        FormatError: an operand that is no value of its format.
        NanError: a NaN in C or the result, whose format has none.
    """
    if backend == "triton":
        return on_cuda(a, b, c, scale_a, scale_b, mac, draw, site, backend)
    m = declared_unit(mac)
    seed, step, call, rank, offset = draw
    shape = result_shape(a, b)
    s = Draw(seed, site, step, call, rank, offset)
    words = stream(s, shape.numel(), a.shape[-1])
    start = None if c is None else entering(c.expand(shape), m)
    pa, pb = port(m, "input", a, scale_a), port(m, "weight", b, scale_b)
    check_products(torch.from_numpy(pa.values), torch.from_numpy(pb.values), _tensor(pa.scales), _tensor(pb.scales), m)

    def sums(x: Port, y: Port, start: Array | None) -> torch.Tensor:
        return torch.from_numpy(_sums(x, y, start, shape, m, words, s, backend))

    return _result(sums(pa, pb, start), m, lambda: sums(_unscaled(pa, m), _unscaled(pb, m), None))


def _sums(a: Port, b: Port, c: Array | None, shape: torch.Size, mac: Mac, words: Stream, draw: Draw, backend: str) -> Array:
    """Every sum of a broadcast batch, in the result's shape."""
    batch, size = shape[:-2], shape[-2] * shape[-1]
    if b.values.ndim == 2:
        whole = None if c is None else c.reshape(math.prod(shape[:-1]), shape[-1])
        return _sum(_folded(a), b, whole, mac, words, draw, 0, backend).reshape(shape)
    starts = None if c is None else c.reshape(batch.numel(), *shape[-2:])
    done = [
        _sum(x, y, None if starts is None else starts[n], mac, words, draw, n * size, backend)
        for n, (x, y) in enumerate(zip(_each(a, batch), _each(b, batch), strict=True))
    ]
    return (np.stack(done) if done else np.empty((0, *shape[-2:]))).reshape(shape)


def _tensor(data: Array | None) -> torch.Tensor | None:
    return None if data is None else torch.from_numpy(data)


def _unscaled(p: Port, mac: Mac) -> Port:
    """The operand as the innermost sums see it: without scales of promotions."""
    return replace(p, scales=None) if mac.scales is not None and mac.scales.applied == "promotion" else p


def on_cuda(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None, scale_a: torch.Tensor | None, scale_b: torch.Tensor | None,
    mac: str, draw: list[int], site: str, backend: str,
) -> torch.Tensor:  # fmt: skip
    """The same by the triton backend, on the device that the operands are on.

    Raises:
        FormatError: as `on_cpu`, another backend for CUDA tensors, or a unit that is none of the backend's.
    """
    if backend not in ("", "triton"):
        raise FormatError(
            f"a: got a tensor on {a.device} for the backend {backend!r}; allowed: CPU tensors, or triton", "backend"
        )
    from .device import on_device

    m, shape = declared_unit(mac), result_shape(a, b)
    if not a.shape[-1] or not shape.numel():
        c, scale_a, scale_b = (None if t is None else t.cpu() for t in (c, scale_a, scale_b))
        return on_cpu(a.cpu(), b.cpu(), c, scale_a, scale_b, mac, draw, site, "").to(a.device)
    seed, step, call, rank, offset = draw
    words = stream(Draw(seed, site, step, call, rank, offset), shape.numel(), a.shape[-1])
    inner = (None, None) if m.scales is not None and m.scales.applied == "promotion" else (scale_a, scale_b)
    result = on_device(a, b, c, scale_a, scale_b, m, words, shape)
    return _result(result, m, lambda: on_device(a, b, None, *inner, m, words, shape))


def entering(c: torch.Tensor, mac: Mac) -> Array:
    """C as it enters: flushed, and rounded to its format.

    Raises:
        NanError: a NaN, in a format without one, where the sum that C joins says `error`.
    """
    data = c.detach().to(torch.float64).numpy()
    if mac.flush_inputs != "none":
        data = flushed(data, mac.c_format.smallest_normal, mac.flush_inputs)
    place = c_place(mac)
    check_nan(data, place)
    return rounded(data.reshape(math.prod(data.shape[:-1]), data.shape[-1]), place).reshape(data.shape)


def _folded(p: Port) -> Port:
    """A batch of A as one matrix: its rows one after another."""
    rows = math.prod(p.values.shape[:-1])
    scales = None if p.scales is None else p.scales.reshape(rows, p.scales.shape[-1])
    return Port(p.values.reshape(rows, p.values.shape[-1]), scales, p.format)


def _each(p: Port, batch: torch.Size) -> list[Port]:
    """The matrices of a broadcast batch."""
    count = math.prod(batch)
    values = np.broadcast_to(p.values, (*batch, *p.values.shape[-2:])).reshape(count, *p.values.shape[-2:])
    if p.scales is None:
        return [Port(v, None, p.format) for v in values]
    scales = np.broadcast_to(p.scales, (*batch, *p.scales.shape[-2:])).reshape(count, *p.scales.shape[-2:])
    return [Port(v, s, p.format) for v, s in zip(values, scales, strict=True)]


def _sum(a: Port, b: Port, c: Array | None, mac: Mac, s: Stream, draw: Draw, first: int, backend: str) -> Array:
    # Nothing to sum: the one place where C alone is rounded to the result's format.
    alone = c is not None and not a.values.shape[1]
    if backend == "reference" or alone or needs_reference(a, b, c, mac):
        return _by_reference(a, b, c, mac, draw, first, s.outputs)
    return cpu.matmul(a, b, c, mac, s, first)


def _by_reference(a: Port, b: Port, c: Array | None, mac: Mac, draw: Draw, first: int, outputs: int) -> Array:
    rows, columns = a.values.shape[0], b.values.shape[1]
    result = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            terms = reference.Terms(
                a.values[i].tolist(),
                b.values[:, j].tolist(),
                None if a.scales is None else a.scales[i].tolist(),
                None if b.scales is None else b.scales[:, j].tolist(),
                a.min_exponent,
                b.min_exponent,
                first + i * columns + j,
                outputs,
                draw,
            )
            result[i, j] = reference.dot(terms, None if c is None else float(c[i, j]), mac)
    return result


def _result(data: torch.Tensor, mac: Mac, partial_sums: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The sums in the carrier of the unit's result, with one NaN (see `check_sums`)."""
    check_sums(data, mac, partial_sums)
    return data.masked_fill_(data.isnan(), torch.nan).to(mac.outermost.format.carrier)
