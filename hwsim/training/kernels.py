"""CPU kernels of the regularizers' prox maps: one pass over memory, the same bits as the torch operations beside them.

The compiled loops are serial and release the interpreter's lock; torch's own threads run parts of a tensor, as no other pool of
threads could while they spin between two of torch's operations.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch

from hwsim.formats.backends.compiling import fma

from .breakpoints import Breakpoints, columns_of
from .loops import Array, Loop, at_once, flat
from .par import PAR

BLOCK = 1024
MAX_UNROLLED = 16
COUNTED, QUARTERS, REST_BITS, TINY = 1 << 10, 4, 12, 2.0**-90
"""Numbers below COUNTED, in quarters, have 12 bits; times the rest of a `_pair`, not below TINY, they are float32 numbers."""
SIGN = np.int32(-(1 << 31))


def apply_table(u: torch.Tensor, table: Breakpoints, par: PAR, out: torch.Tensor) -> None:
    """Write the map of a breakpoint table of `par` at u into `out`, both contiguous CPU tensors of float32 or float64.

    Symmetric convex maps are min_k max(|u| - shift_k, q_k) on either side of zero, unrolled for a few levels; with many levels,
    where the pieces repeat at one distance, the piece is computed instead of searched for, and so are its numbers where products
    of its place give all of them.
    """
    body, *numbers = _loop(u, table, par)
    at_once([Loop(body, (flat(u), flat(out), *numbers), u.numel())])


def _loop(u: torch.Tensor, table: Breakpoints, par: PAR) -> tuple[Any, ...]:
    """The compiled loop for a table, and its numbers."""
    thresholds, *columns = (c[0].numpy() for c in columns_of([table], u))
    if par.family != "convex" or par.negative is not None:
        return _search, thresholds, *columns
    shifts, lows, highs = (c[np.searchsorted(columns[1], 0.0) :] for c in columns)
    if len(shifts) <= MAX_UNROLLED:
        return _ramps, tuple(shifts), tuple(lows), highs[-1]
    ladder = _ladder(shifts, lows, highs)
    if ladder is None:
        return _search, thresholds, *columns
    if rule := _rule(table, shifts, lows, highs):
        start, rate, last, *_, last_shift = ladder
        return _compute, start, rate, last, *rule, last_shift
    return _climb, *ladder


def _ladder(shifts: Array, lows: Array, highs: Array) -> tuple[Any, ...] | None:
    """What `_climb` needs where levels and shifts are arithmetic progressions, up to rounding."""
    bounded = int(np.isfinite(highs).sum())
    if bounded < 2:
        return None
    step, first, rise = highs[0], shifts[0], shifts[1] - shifts[0]
    k = np.arange(bounded, dtype=shifts.dtype)
    near = np.abs(lows[:bounded] - k * step).max() + np.abs(shifts[:bounded] - (first + k * rise)).max()
    # Zones meet amid a flat part of the map: where it is wide enough, the rounding of the quotient changes nothing.
    if rise < step / 1024 or near > rise / 64:
        return None
    last_shift = shifts.dtype.type(np.inf) if bounded == len(shifts) else shifts[-1]
    return first - rise / 2, 1 / (step + rise), k[-1], shifts, lows, highs, last_shift


def _rule(table: Breakpoints, shifts: Array, lows: Array, highs: Array) -> tuple[Any, ...] | None:
    """(step, start, rise): level k is k step and shift k is (k + start) rise, products of exact numbers rounded to float32.

    `start` is a float32 number; step and rise are sums of two (see `_pair`), and float64 has room for the products. None where
    levels or shifts are other numbers.
    """
    if shifts.dtype != np.float32:
        return None
    middle, bounded = len(table.shifts) - len(shifts), int(np.isfinite(highs).sum())
    spacing = (table.shifts[middle + bounded - 1] - table.shifts[middle]) / (bounded - 1)
    start = round(table.shifts[middle] / spacing * QUARTERS) / QUARTERS
    if start + bounded > COUNTED or min(spacing, table.highs[middle]) < TINY:
        return None
    step, rise = _pair(table.highs[middle]), _pair(spacing)
    levels = (np.arange(bounded + 1) * (np.float64(step[0]) + step[1])).astype(np.float32)
    moves = ((np.arange(bounded) + start) * (np.float64(rise[0]) + rise[1])).astype(np.float32)
    same = np.array_equal(levels[:-1], lows[:bounded]) and np.array_equal(levels[1:], highs[:bounded])
    return (*step, np.float32(start), *rise) if same and np.array_equal(moves, shifts[:bounded]) else None


def _pair(number: float) -> tuple[np.float32, np.float32]:
    """A float32 number and a rest of REST_BITS bits, which together are nearly the given number."""
    high = np.float32(number)
    grain = float(np.spacing(high)) * 2.0**-REST_BITS
    return high, np.float32(np.round((number - float(high)) / grain) * grain)


@numba.njit(nogil=True, cache=True)
def _compute(
    begin: int,
    end: int,
    x: Array,
    y: Array,
    start: float,
    rate: float,
    last: float,
    step: float,
    step_rest: float,
    offset: float,
    rise: float,
    rise_rest: float,
    last_shift: float,
) -> None:  # pragma: no cover
    x, y = x[begin:end], y[begin:end]
    zero, one = np.float32(0), np.float32(1)
    for i in range(len(x)):
        u = x[i]
        v = abs(u)
        zone = (v - start) * rate
        zone = zone if zone < last else last
        zone = zone if zone > zero else zero
        k = np.float32(np.int32(zone))
        above, moved = k + one, k + offset
        w = v - fma(moved, rise, moved * rise_rest)
        low = fma(k, step, k * step_rest)
        high = fma(above, step, above * step_rest)
        # Comparisons with a NaN are false: it passes all of them.
        w = low if w < low else w
        w = high if w > high else w
        beyond = v - last_shift
        # As in `_climb`: an infinite u, whose `beyond` is NaN under an infinite last slope, stays clipped.
        w = beyond if beyond > w else w
        y[i] = np.int32(np.float32(w).view(np.int32) | (np.float32(u).view(np.int32) & SIGN)).view(np.float32) + zero


@numba.njit(nogil=True, cache=True)
def _climb(
    begin: int,
    end: int,
    x: Array,
    y: Array,
    start: float,
    rate: float,
    last: float,
    shifts: Array,
    lows: Array,
    highs: Array,
    last_shift: float,
) -> None:  # pragma: no cover
    x, y = x[begin:end], y[begin:end]
    zero = x.dtype.type(0)
    for i in range(len(x)):
        u = x[i]
        v = abs(u)
        zone = (v - start) * rate
        zone = zone if zone < last else last
        zone = zone if zone > zero else zero
        k = np.uint64(np.int32(zone))
        w = v - shifts[k]
        w = w if w > lows[k] else lows[k]
        w = w if w < highs[k] else highs[k]
        beyond = v - last_shift
        # In this order an infinite u, whose `beyond` is NaN under an infinite last slope, stays clipped.
        w = beyond if beyond > w else w
        w = w if u > zero else zero - w
        y[i] = w if u == u else u


@numba.njit(nogil=True, cache=True)
def _ramps(
    begin: int, end: int, x: Array, y: Array, shifts: tuple[float, ...], lows: tuple[float, ...], top: float
) -> None:  # pragma: no cover
    x, y = x[begin:end], y[begin:end]
    zero = x.dtype.type(0)
    for i in range(len(x)):
        u = x[i]
        v = abs(u)
        w: Any = top
        for k in range(len(shifts)):
            ramp = v - shifts[k]
            ramp = ramp if ramp > lows[k] else lows[k]
            w = ramp if ramp < w else w
        w = w if u > zero else zero - w
        y[i] = w if u == u else u


@numba.njit(nogil=True, cache=True)
def _search(
    begin: int, end: int, x: Array, y: Array, thresholds: Array, shifts: Array, lows: Array, highs: Array
) -> None:  # pragma: no cover
    zero = x.dtype.type(0)
    for block in range(begin, end, BLOCK):
        stop = min(block + BLOCK, end)
        us, ws, pieces = x[block:stop], y[block:stop], np.zeros(BLOCK, np.int32)
        for threshold in thresholds:
            for i in range(len(us)):
                pieces[i] += np.int32(1) if us[i] > threshold else np.int32(0)
        for i in range(len(us)):
            u, k = us[i], np.uint64(pieces[i])
            w = u - shifts[k]
            w = w if w > lows[k] else lows[k]
            w = w if w < highs[k] else highs[k]
            ws[i] = w + zero if u == u else u
