"""CPU kernels of the maps to levels, alone and after a step of SGD: one pass over memory, the bits of torch's operations.

They lie in one file: numba takes kept machine code for current while the file of the kept function is unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from hwsim.formats.backends.compiling import fma

from .loops import Array

BLOCK = 1024
PIECE = 1 << 14
"""Elements of a piece: four float32 arrays of them are 256 KiB."""


@njit(nogil=True, cache=True)
def nearest_of_few(
    low: int, high: int, x: Array, y: Array, levels: tuple[float, ...], middles: tuple[float, ...]
) -> None:  # pragma: no cover
    """The nearest of a few levels of a whole tensor."""
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        u = x[i]
        w = levels[0]
        for k in range(len(middles)):
            w = levels[k + 1] if u > middles[k] else w
        y[i] = w if u == u else u


# Python's division would check for zero and keep these loops from being vectorised.
@njit(nogil=True, cache=True, error_model="numpy")
def cells_of_few(
    low: int, high: int, x: Array, y: Array, levels: tuple[float, ...], slope: float, half: float
) -> None:  # pragma: no cover
    """The PARQ map with a few levels of a whole tensor."""
    x, y = x[low:high], y[low:high]
    count = len(levels)
    for i in range(len(x)):
        u = x[i]
        q = levels[0]
        r = levels[0]
        for k in range(count - 1):
            if u > levels[k]:
                q = levels[k]
                r = levels[k + 1]
        if u > levels[count - 1]:
            q = levels[count - 1]
            r = q
        centre = (q + r) * half
        w = centre + (u - centre) / slope
        w = w if w > q else q
        w = w if w < r else r
        y[i] = w if u == u else u


@njit(nogil=True, cache=True)
def nearest_in_rows(low: int, high: int, x: Array, y: Array, n: int, levels: Array, middles: Array) -> None:  # pragma: no cover
    """The nearest of the levels of each element's row."""
    while low < high:
        row = low // n
        end = min(low + BLOCK, (row + 1) * n, high)
        us, ws, values = x[low:end], y[low:end], levels[row]
        places = _count_below(us, middles[row])
        for i in range(len(us)):
            u = us[i]
            ws[i] = values[np.uint64(places[i])] if u == u else u
        low = end


@njit(nogil=True, cache=True, error_model="numpy")
def cells_in_rows(
    low: int, high: int, x: Array, y: Array, n: int, levels: Array, slope: float, half: float
) -> None:  # pragma: no cover
    """The PARQ map with the levels of each element's row."""
    while low < high:
        row = low // n
        end = min(low + BLOCK, (row + 1) * n, high)
        us, ws, values = x[low:end], y[low:end], levels[row]
        lows, highs = np.append(values[:1], values), np.append(values, values[-1:])
        places = _count_below(us, values)
        for i in range(len(us)):
            u, k = us[i], np.uint64(places[i])
            q, r = lows[k], highs[k]
            centre = (q + r) * half
            w = centre + (u - centre) / slope
            w = w if w > q else q
            w = w if w < r else r
            ws[i] = w if u == u else u
        low = end


@njit(inline="always")
def _count_below(us: Array, marks: Array) -> npt.NDArray[np.int32]:  # pragma: no cover
    places = np.zeros(len(us), np.int32)
    for mark in marks:
        for i in range(len(us)):
            places[i] += np.int32(1) if us[i] > mark else np.int32(0)
    return places


@njit(nogil=True, cache=True)
def sgd(
    low: int,
    high: int,
    u: Array,
    g: Array,
    b: Array,
    decay: float,
    momentum: float,
    share: float,
    rate: float,
    decays: bool,
    nesterov: bool,
    maximize: bool,
) -> None:  # pragma: no cover
    """A step of SGD on u with gradient g and, where there is momentum, its buffer b."""
    u, g, b = u[low:high], g[low:high], b[low:high]
    if momentum == 0:
        for i in range(len(u)):
            slope = -g[i] if maximize else g[i]
            if decays:
                slope = fma(u[i], decay, slope)
            u[i] = fma(slope, rate, u[i])
        return
    for i in range(len(u)):
        slope = -g[i] if maximize else g[i]
        if decays:
            slope = fma(u[i], decay, slope)
        moved = fma(slope, share, b[i] * momentum)
        b[i] = moved
        u[i] = fma(fma(moved, momentum, slope) if nesterov else moved, rate, u[i])


# One compiled loop for each map, with all pieces in it: a call from Python for each costs a hand-over of the interpreter's lock
# between threads, and a function made from two others is not found again in numba's cache.
@njit(nogil=True, cache=True)
def _sgd_nearest_of_few(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        nearest_of_few(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_nearest_in_rows(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        nearest_in_rows(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_cells_of_few(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        cells_of_few(start, end, *draw)


@njit(nogil=True, cache=True)
def _sgd_cells_in_rows(low: int, high: int, step: Any, draw: Any) -> None:  # pragma: no cover
    for start in range(low, high, PIECE):
        end = min(start + PIECE, high)
        sgd(start, end, *step)
        cells_in_rows(start, end, *draw)


AFTER_SGD: dict[Any, Any] = {
    nearest_of_few: _sgd_nearest_of_few,
    nearest_in_rows: _sgd_nearest_in_rows,
    cells_of_few: _sgd_cells_of_few,
    cells_in_rows: _sgd_cells_in_rows,
}
"""The same after a step of SGD."""
