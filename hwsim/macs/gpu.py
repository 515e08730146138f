"""The triton backend: a unit and a K as tables for the kernels, on GPUs or, with TRITON_INTERPRET=1, in Triton's interpreter."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsim.errors import FormatError
from hwsim.formats import Format
from hwsim.formats.backends.gpu import OPTIONS, missing

from .fused import CUTS
from .grouping import groups, innermost_runs
from .lanes import EXPONENT_MASK, Edges, edges, lanes_hold
from .operands import LANE_DIGITS
from .record import Level, Mac, Rounded
from .words import Stream

BLOCK = 16
STEP = 8


@dataclass(frozen=True)
class Operand:
    """One matrix on the device.

    Args:
        values: contiguous float64, A (rows, K) or B (K, columns).
        scales: contiguous float64, one for each block along K, or None.
        min_exponent: that of the operand's format.
    """

    values: Tensor
    scales: Tensor | None
    min_exponent: int


def check_unit(mac: Mac, formats: Sequence[Format | None], values: Sequence[Tensor]) -> None:
    """Refuse what the kernels do not compute, by the name of its field.

    Raises:
        FormatError: the backend cannot run here, or the unit is none of its own.
    """
    if why_not := missing():
        raise FormatError(f"backend: got 'triton', which cannot run here: {why_not}", "backend")
    for field, given, allowed in _refusals(mac, formats, values):
        unit = mac.name or "the unit"
        raise FormatError(f"{field} of {unit}: got {given} on the backend 'triton'; allowed: {allowed}", field)


def _refusals(mac: Mac, formats: Sequence[Format | None], values: Sequence[Tensor]) -> Iterator[tuple[str, Any, str]]:
    places = {"accumulator": mac.accumulator, "product": mac.product, "promote": mac.promote}
    for field, place in places.items():
        if isinstance(place, Rounded) and not lanes_hold(place):
            yield f"{field}.format", place.format, "what float64 holds with two guard bits (up to 50 mantissa bits)"
    for side, fmt, x in zip(("input", "weight"), formats, values, strict=True):
        narrow = fmt.grid.fits(LANE_DIGITS, -450, 450) if fmt else bool(((x.float() == x) | x.isnan()).all())
        if not narrow:
            yield f"operands.{side}", fmt or "values", f"formats of up to {LANE_DIGITS} significant bits"
    how = mac.fused
    if how is None:
        return
    if how.fraction_bits == "exact":
        yield "order.fused.fraction_bits", "exact", "a number of bits"
    for field in ("late", "product_limit"):
        if getattr(how, field) is not None:
            yield f"order.fused.{field}", "a rule", "none"


def matmul(a: Operand, b: Operand, c: Tensor | None, mac: Mac, stream: Stream, first: int) -> Tensor:
    """(rows, K) @ (K, columns) [+ c], in float64, K > 0; result (0, 0) having the logical index `first`."""
    from . import gpu_kernels as kernels

    device, (rows, terms), columns = a.values.device, a.values.shape, b.values.shape[1]
    out = torch.empty((rows, columns), dtype=torch.float64, device=device)
    if a.scales is None or b.scales is None or mac.scales is None:
        applied, block = "", terms
        sa, sb = out.new_ones((rows, 1)), out.new_ones((1, columns))
    else:
        applied, block, sa, sb = mac.scales.applied, mac.scales.block, a.scales, b.scales
    spread = [_along_k(s, block, terms, axis) if applied == "product" else None for s, axis in ((sa, 1), (sb, 0))]
    x, y = (side.values if s is None else side.values * s for side, s in zip((a, b), spread, strict=True))
    levels, entering = mac.levels(terms), None if c is None else mac.c.enters
    rules, words = _rules(mac, levels, device), torch.tensor(stream[:7], dtype=torch.int64).to(device)
    shape = rows, columns, terms, first, columns, block, sa.shape[1]
    common = {
        "LEVELS": len(levels), "C_FIRST": entering in ("first", "group"), "C_LAST": entering == "last",
        "SCALED": applied == "promotion", "FIELDS": len(Edges._fields), "M": BLOCK, "N": BLOCK, **OPTIONS,
    }  # fmt: skip
    grid, start = (-(-rows // BLOCK) * -(-columns // BLOCK),), out if c is None else c
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        if mac.fused is None:
            tables = (t.to(device) for t in _term_tables(mac, terms, entering in ("first", "group")))
            depth = 1 << (terms.bit_length() + 2).bit_length() if mac.tree else 1
            kernels.sum_terms[grid](
                x, y, start, sa, sb, out, rules, *tables, words, *shape,
                ROUNDS=mac.product != "exact", TREE=mac.tree, DEPTH=depth, **common,
            )  # fmt: skip
            return out
        how = mac.fused
        order, bounds, steps = (t.to(device) for t in _group_tables(mac, terms))
        low = mac.scales.format.grid.min_exponent if mac.scales else 0
        pa, pb = powers(a.values, a.min_exponent), powers(b.values, b.min_exponent)
        pa, pb = (p if s is None else p * powers(s, low) for p, s in zip((pa, pb), spread, strict=True))
        numbers = [
            2.0 ** int(how.fraction_bits),
            2.0**mac.c_format.grid.min_exponent,
            0.0 if how.e_zero is None else 2.0**how.e_zero,
        ]
        kernels.sum_groups[grid](
            x[:, order].contiguous(), y[order].contiguous(), pa[:, order].contiguous(), pb[order].contiguous(),
            powers(sa, low), powers(sb, low), start, sa, sb, out, rules, steps, bounds, out.new_tensor(numbers), words, *shape,
            len(bounds) - 1, HOW=CUTS[how.alignment], SIZE=how.exact_terms, **common,
        )  # fmt: skip
    return out


def _along_k(scales: Tensor, block: int, terms: int, axis: int) -> Tensor:
    """The scale of every element along K."""
    return scales.repeat_interleave(block, axis).narrow(axis, 0, terms)


def powers(x: Tensor, min_exponent: int) -> Tensor:
    """2^exponent of each element, at least 2^min_exponent; 0 for zero, NaN and the infinities."""
    e = (x.view(torch.int64) & EXPONENT_MASK).view(torch.float64).clamp(min=2.0**min_exponent)
    return torch.where((x == 0) | ~x.isfinite(), 0.0, e)


def _term_tables(mac: Mac, terms: int, c_first: bool) -> tuple[Tensor, Tensor]:
    """`steps` and `merges` of the kernel `sum_terms`."""
    levels = mac.levels(terms)
    steps, begins = np.zeros((terms, STEP), np.int64), [0] * len(levels)
    merges: list[tuple[int, int]] = []
    for ks, closing in innermost_runs(range(terms), levels):
        stack = [(1, ks.start)] if c_first and not levels else []
        for k in ks if mac.tree else ():
            steps[k, 4:6] = len(stack), len(merges)
            stack.append((1, k))
            while len(stack) > 1 and (k == ks[-1] or stack[-2][0] == stack[-1][0]):
                _, begin = stack.pop()
                merges.append((len(stack) - 1, begin))
                stack[-1] = (2 * stack[-1][0], stack[-1][1])
            steps[k, 6] = len(merges)
        last = ks[-1]
        steps[last, 0], steps[last, 1 : 1 + len(levels)] = closing, begins
        steps[last, 7] = len(ks) + (c_first and not levels) == 1
        begins[:closing] = [ks.stop] * closing
    return torch.from_numpy(steps), torch.tensor(merges or [(0, 0)], dtype=torch.int64)


def _group_tables(mac: Mac, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order of the terms, and `bounds` and `steps` of the kernel `sum_groups`."""
    levels, how = mac.levels(terms), mac.fused
    if how is None:
        raise ValueError("the unit is not fused")
    order: list[int] = []
    bounds, steps, begins = [0], [], [0] * len(levels)
    for ks, closing in innermost_runs(range(terms), levels):
        found = list(groups(how, ks))
        for n, group in enumerate(found):
            order += group
            bounds.append(len(order))
            closes = closing if n == len(found) - 1 else 0
            steps.append([closes, *begins, *[0] * (3 - len(levels)), group[0], 0, 0, 0])
        begins[:closing] = [ks.stop] * closing
    return torch.tensor(order), torch.tensor(bounds), torch.tensor(steps)


@lru_cache(maxsize=256)
def _rules(mac: Mac, levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """The packed Edges: accumulator, product, three outer sums, C that enters last, scales of promotions."""
    flush = mac.flush_results
    accumulator = edges(mac.accumulator, flush)
    if mac.fused is not None and not mac.fused.negative_zero:
        accumulator = accumulator._replace(zero=0.0)
    product = accumulator if mac.product == "exact" else edges(mac.product, flush)
    outer, last = [edges(level.into, flush) for level in levels], edges(mac.outermost, flush)
    scale = edges(Rounded(format=mac.outermost.format))
    fields = [field for at in (accumulator, product, *outer, *[last] * (4 - len(outer)), scale) for field in at]
    words = [struct.unpack("<q", struct.pack("<d" if isinstance(field, float) else "<q", field))[0] for field in fields]
    return torch.tensor(words, dtype=torch.int64, device=device)
