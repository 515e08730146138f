"""A matmul on the device its operands are on: they are checked there, and summed by the triton backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hwsim.formats import Format, Projection, Rounding
from hwsim.formats.operators import quantize_tensor

from .gpu import Operand, check_unit, matmul, sums_digits
from .nans import check_products
from .operands import SMALLEST_NORMAL_EXPONENT, c_place, check_nan, chosen_format, foreign_scale
from .record import Mac
from .words import Stream


def on_device(
    a: Tensor, b: Tensor, c: Tensor | None, scale_a: Tensor | None, scale_b: Tensor | None, mac: Mac, s: Stream, shape: torch.Size
) -> Tensor:
    """(..., M, K) @ (..., K, N) [+ (..., M, N)] in float64, K > 0, all broadcast to the result's shape.

    Raises:
        FormatError: an element or a scale is no value of its format; the unit is none of the backend's.
        NanError: a NaN in C, or a product that is rounded to a format without one.
    """
    x, fmt_a = _checked(mac, "input", a)
    y, fmt_b = _checked(mac, "weight", b)
    check_unit(mac, (fmt_a, fmt_b), (x, y))
    in_digits = sums_digits(mac, (fmt_a, fmt_b), (x, y))
    low_a, low_b = (fmt.grid.min_exponent if fmt else SMALLEST_NORMAL_EXPONENT for fmt in (fmt_a, fmt_b))
    x, y = _flushed(x, low_a, mac), _flushed(y, low_b, mac)
    sa, sb = _scales(mac, "input", scale_a), _scales(mac, "weight", scale_b)
    check_products(x, y, sa, sb, mac)
    start = None if c is None else _entering(c, mac).expand(shape).reshape(-1, *shape[-2:])
    batch = shape[:-2] if b.dim() > 2 else torch.Size()
    if b.dim() == 2:
        rows = shape[:-1].numel()
        x, sa = x.reshape(rows, x.shape[-1]), sa if sa is None else sa.reshape(rows, sa.shape[-1])
        start = start if start is None else start.reshape(1, rows, shape[-1])
    parts: list[Callable[[int], Tensor | None]] = [_each(t, batch) for t in (x, y, sa, sb)]
    size, done = shape[-2] * shape[-1], []
    for n in range(batch.numel()):
        va, vb, ka, kb = (part(n) for part in parts)
        if va is None or vb is None:
            raise ValueError("a batch without operands")
        left, right = Operand(va, ka, fmt_a), Operand(vb, kb, fmt_b)
        done.append(matmul(left, right, None if start is None else start[n].contiguous(), mac, s, n * size, in_digits))
    return torch.stack(done).reshape(shape)


def _each(t: Tensor | None, batch: torch.Size) -> Callable[[int], Tensor | None]:
    """The matrices of a broadcast batch by number."""
    if t is None:
        return lambda n: None
    whole = t.expand(*batch, *t.shape[-2:])

    def one(n: int) -> Tensor:
        index = [int(i) for i in torch.unravel_index(torch.tensor(n), batch)] if batch else []
        return whole[tuple(index)].contiguous() if index else whole.contiguous()

    return one


def _checked(mac: Mac, side: str, values: Tensor) -> tuple[Tensor, Format | None]:
    data = values.detach().to(torch.float64)
    return data, chosen_format(mac, side, data, lambda fmt: _first_foreign(data, fmt))


def _scales(mac: Mac, side: str, scales: Tensor | None) -> Tensor | None:
    if scales is None or mac.scales is None:
        return None
    data = scales.detach().to(torch.float64).contiguous()
    foreign_scale(mac, side, data, _first_foreign(data, mac.scales.format))
    return data


def _first_foreign(data: Tensor, fmt: Format) -> int | None:
    """The flat index of the first element that is no value of the format, or None."""
    if not data.numel():
        return None
    where = Projection(Rounding("toward_zero"), "saturate", "error" if fmt.has_nan else "zero")
    finite = torch.where(data.isfinite(), data, 0.0)
    known = quantize_tensor(finite, fmt, where) == finite
    known &= ~data.isnan() | fmt.has_nan
    known &= ~data.isinf() | fmt.has_infinity
    return None if bool(known.all()) else int(known.reshape(-1).to(torch.int8).argmin())


def _flushed(data: Tensor, min_exponent: int, mac: Mac) -> Tensor:
    if mac.flush_inputs == "none":
        return data
    zeros = torch.zeros_like(data) if mac.flush_inputs == "positive" else torch.zeros_like(data).copysign(data)
    return torch.where(data.abs() < 2.0**min_exponent, zeros, data)


def _entering(c: Tensor, mac: Mac) -> Tensor:
    """C as it enters: flushed, and rounded to its format."""
    place, data = c_place(mac), c.detach().to(torch.float64)
    check_nan(data, place)
    return quantize_tensor(_flushed(data, mac.c_format.grid.min_exponent, mac), mac.c_format, place.projection)
