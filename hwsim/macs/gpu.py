"""The triton backend: a unit and a K as tables for the kernels, on GPUs or, with TRITON_INTERPRET=1, in Triton's interpreter."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsim.errors import FormatError
from hwsim.formats import Float, Format
from hwsim.formats.backends.gpu import OPTIONS, missing
from hwsim.formats.base import round_log2

from .exact import DIGIT, wide
from .fused import CUTS
from .grouping import groups, innermost_runs
from .lanes import EXPONENT_MASK, FRACTION_BITS, Edges, edges, lanes_hold
from .operands import LANE_DIGITS, SMALLEST_NORMAL_EXPONENT, holds_groups, holds_promoted, holds_scale_products, scale_digits
from .orders import ALONE, Alignment
from .record import Level, Mac, Rounded
from .shapes import places_of, wraps_within
from .spans import span
from .words import Stream

BLOCK, DIGITS_BLOCK = 16, 4
STEP = 8
RESULTS_IN_DIGITS = 1 << 18
"""How many results have digits at a time, of about a kilobyte for float64 operands."""


@dataclass(frozen=True)
class Operand:
    """One matrix on the device.

    Args:
        values: contiguous float64, A (rows, K) or B (K, columns).
        scales: contiguous float64, one for each block along K, or None.
        format: the operand's, or None.
    """

    values: Tensor
    scales: Tensor | None
    format: Format | None

    @property
    def min_exponent(self) -> int:
        """That of the format's subnormals."""
        return self.format.grid.min_exponent if self.format else SMALLEST_NORMAL_EXPONENT


def check_unit(mac: Mac, formats: tuple[Format | None, Format | None], values: Sequence[Tensor]) -> None:
    """Refuse what the kernels do not compute, by the name of its field.

    Raises:
        FormatError: the backend cannot run here, or the unit is none of its own.
    """
    if why_not := missing():
        raise FormatError(f"backend: got 'triton', which cannot run here: {why_not}", "backend")
    for field, given, allowed in _refusals(mac, formats, values):
        unit = mac.name or "the unit"
        raise FormatError(f"{field} of {unit}: got {given} on the backend 'triton'; allowed: {allowed}", field)


def _refusals(mac: Mac, formats: tuple[Format | None, Format | None], values: Sequence[Tensor]) -> Iterator[tuple[str, Any, str]]:
    """What the kernels of float64 blocks cannot hold, where those of digits do not sum in the unit's order."""
    wraps = any(place.projection.overflow == "wrap" for place in places_of(mac))
    if wraps and not wraps_within([span(x.double().cpu().numpy()) for x in values], mac, values[0].shape[-1]):
        yield "overflow", "wrap", "operands whose sums float64 holds to their last place"
    if mac.scales is not None and mac.scales.applied == "promotion" and not holds_scale_products(mac):
        yield "scales.format", mac.scales.format, f"formats of up to {LANE_DIGITS} significant bits, applied to each promotion"
    if sums_digits(mac, formats, values):
        return
    if mac.promote is not None and not holds_promoted(mac):
        allowed = "what, with the accumulator's, has up to 53 significant bits where sums are scaled"
        yield "promote.format", mac.promote.format, allowed
    places = {"accumulator": mac.accumulator, "product": mac.product, "promote": mac.promote}
    for field, place in places.items():
        if isinstance(place, Rounded) and not lanes_hold(place):
            yield f"{field}.format", place.format, "what float64 holds with two guard bits (up to 50 mantissa bits)"
    short = _narrow(mac, formats, values)
    for side, narrow, fmt in zip(("input", "weight"), short, formats, strict=True):
        if not narrow:
            yield f"operands.{side}", fmt or "values", f"formats of up to {LANE_DIGITS} significant bits"
    if mac.fused is not None and all(short) and not holds_groups(mac, *formats):
        allowed = "1, or declared operand formats whose exact sums float64 holds"
        yield "order.fused.exact_terms", mac.fused.exact_terms, allowed


def sums_digits(mac: Mac, formats: Sequence[Format | None], values: Sequence[Tensor]) -> bool:
    """Whether the sums are exact ones in digits: in sequence or in exact groups, where float64 blocks do not do."""
    if mac.fused is not None:
        return mac.fused.fraction_bits == "exact"
    places = [mac.accumulator, *([] if mac.product == "exact" else [mac.product]), *([mac.promote] if mac.promote else [])]
    in_lanes = all(map(lanes_hold, places)) and holds_promoted(mac)
    return not mac.tree and not (in_lanes and all(_narrow(mac, formats, values)))


def _narrow(mac: Mac, formats: Sequence[Format | None], values: Sequence[Tensor]) -> list[bool]:
    """Whether products of each operand's values, with their scales, are exact in float64."""
    digits = LANE_DIGITS - scale_digits(mac)
    return [
        fmt.grid.fits(digits, -450, 450) if fmt else digits == LANE_DIGITS and bool(((x.float() == x) | x.isnan()).all())
        for fmt, x in zip(formats, values, strict=True)
    ]


def matmul(a: Operand, b: Operand, c: Tensor | None, mac: Mac, stream: Stream, first: int, in_digits: bool) -> Tensor:
    """(rows, K) @ (K, columns) [+ c], in float64, K > 0; result (0, 0) having the logical index `first`.

    in_digits: see `sums_digits`.
    """
    from . import gpu_digits, gpu_kernels

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
    side = DIGITS_BLOCK if in_digits else BLOCK
    common = {
        "LEVELS": len(levels), "C_FIRST": entering in ("first", "group"), "C_LAST": entering == "last",
        "SCALED": applied == "promotion", "FIELDS": len(Edges._fields), "M": side, "N": side, **OPTIONS,
    }  # fmt: skip
    programs, start = -(-rows // side) * -(-columns // side), out if c is None else c
    grid = (programs,)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        if in_digits:
            order, bounds, steps = (t.to(device) for t in _group_tables(mac, terms))
            lowest, count = _digits(mac, (a, b))
            height = side * max(1, RESULTS_IN_DIGITS // (side * side * -(-columns // side)))
            room = torch.zeros(
                -(-min(height, rows) // side) * -(-columns // side) * count * side**2, dtype=torch.int64, device=device
            )
            x, y, grids = x[:, order].contiguous(), y[order].contiguous(), _grids(mac, levels, device)
            for i in range(0, rows, height):
                part = slice(i, min(i + height, rows))
                here = part.stop - i, columns, terms, first + i * columns, *shape[4:]
                gpu_digits.sum_digits[-(-here[0] // side) * -(-columns // side),](
                    x[part], y, start[part], sa[part], sb, out[part], rules, grids, steps, bounds, words, room, *here,
                    len(bounds) - 1, count, lowest, ROUNDS=mac.product != "exact",
                    IEEE_ZERO=mac.fused is None, **common,
                )  # fmt: skip
            return out
        if mac.fused is None:
            tables = (t.to(device) for t in _term_tables(mac, terms, entering in ("first", "group")))
            depth = 1 << (terms.bit_length() + 2).bit_length() if mac.tree else 1
            gpu_kernels.sum_terms[grid](
                x, y, start, sa, sb, out, rules, *tables, words, *shape,
                ROUNDS=mac.product != "exact", TREE=mac.tree, DEPTH=depth, **common,
            )  # fmt: skip
            return out
        how = mac.fused
        order, bounds, steps = (t.to(device) for t in _group_tables(mac, terms))
        low = mac.scales.format.grid.min_exponent if mac.scales else 0
        pa, pb = powers(a.values, a.min_exponent), powers(b.values, b.min_exponent)
        pa, pb = (p if s is None else p * powers(s, low) for p, s in zip((pa, pb), spread, strict=True))
        gpu_kernels.sum_groups[grid](
            x[:, order].contiguous(), y[order].contiguous(), pa[:, order].contiguous(), pb[order].contiguous(),
            powers(sa, low), powers(sb, low), start, sa, sb, out, rules, steps, bounds, out.new_tensor(_numbers(mac, how)), words,
            *shape, len(bounds) - 1, HOW=CUTS[how.alignment], SIZE=how.exact_terms,
            LATE=0 if how.late is None else 2 if how.grouping == "even_odd" else 1, **common,
        )  # fmt: skip
    return out


def _numbers(mac: Mac, how: Alignment) -> list[float]:
    """`numbers` of the kernel `sum_groups`."""
    zero = 0.0 if how.e_zero is None else 2.0**how.e_zero
    found = [2.0 ** int(how.fraction_bits), 2.0**mac.c_format.grid.min_exponent, zero]
    if how.late is None:
        return [*found, *[0.0] * 5]
    drop = 0.0 if how.late.drop_below is None else 2.0**-how.late.drop_below
    limit = math.inf if how.product_limit is None else 2.0**how.product_limit
    return [*found, limit, 2.0**how.late.dot_bits, 2.0**how.late.sum_bits, 2.0**how.late.total_bits, drop]


def _digits(mac: Mac, operands: Sequence[Operand]) -> tuple[int, int]:
    """The exponent that the lowest digit counts in, and how many digits hold every sum of products of this unit."""
    formats = [mac.accumulator.format, mac.outermost.format, mac.c_format, *(p.format or Float(11, 52) for p in operands)]
    formats += [] if mac.product == "exact" else [mac.product.format]
    low = min(fmt.grid.smallest_exponent for fmt in formats)
    high = max(round_log2(max(fmt.max, -fmt.min)) for fmt in formats)
    if mac.scales:
        low += mac.scales.format.grid.smallest_exponent
        high += round_log2(mac.scales.format.max)
    # A float64 has its last bit up to 52 places below what its format needs; sums of 2^60 products have 60 bits more.
    lowest = 2 * (low - FRACTION_BITS)
    return lowest, (2 * high + 62 - lowest) // DIGIT + 3


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
    """The order of the terms, and `bounds` and `steps` of the kernels `sum_groups` and `sum_digits`."""
    levels, how = mac.levels(terms), mac.fused or ALONE
    order: list[int] = []
    bounds, steps, begins = [0], [], [0] * len(levels)
    for ks, closing in innermost_runs(range(terms), levels):
        found = list(groups(how, ks))
        for n, group in enumerate(found):
            order += [*group[::2], *group[1::2]] if how.grouping == "even_odd" else group
            bounds.append(len(order))
            closes = closing if n == len(found) - 1 else 0
            steps.append([closes, *begins, *[0] * (3 - len(levels)), group[0], 0, 0, 0])
        begins[:closing] = [ks.stop] * closing
    return torch.tensor(order), torch.tensor(bounds), torch.tensor(steps)


@lru_cache(maxsize=256)
def _rules(mac: Mac, levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """The packed Edges of each place."""
    flush = mac.flush_results
    accumulator, *others = (edges(place, flush) for place in _places(mac, levels))
    if mac.fused is not None and not mac.fused.negative_zero:
        accumulator = accumulator._replace(zero=0.0)
    fields = [field for at in (accumulator, *others) for field in at]
    words = [struct.unpack("<q", struct.pack("<d" if isinstance(field, float) else "<q", field))[0] for field in fields]
    return torch.tensor(words, dtype=torch.int64, device=device)


@lru_cache(maxsize=256)
def _grids(mac: Mac, levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """The Wide of each place."""
    found = [wide(place.format.grid, place.rounding) for place in _places(mac, levels)]
    return torch.tensor(found, dtype=torch.int64, device=device)


def _places(mac: Mac, levels: tuple[Level, ...]) -> list[Rounded]:
    """The accumulator, products, three outer sums, C that enters last, scales of promotions."""
    product = mac.accumulator if mac.product == "exact" else mac.product
    outer = [level.into for level in levels]
    return [mac.accumulator, product, *outer, *[mac.outermost] * (4 - len(outer)), Rounded(format=mac.outermost.format)]
