"""The prox map of a PAR in closed form: a table of breakpoints, compiled once for a regularizer and a strength."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, nextafter, sqrt

import torch

from hwsim.errors import ConfigError
from hwsim.formats.backends.memory import empty_like

from .par import PAR

KERNEL_SIZE = 1 << 12


@dataclass(frozen=True)
class Breakpoints:
    """A monotone map w(u) = clamp(u - shift_i, low_i, high_i) for threshold_(i-1) < u <= threshold_i.

    Every piece is an affine piece of the regularizer with its two ends, so that a map is constant at the levels, has slope 1
    between, and jumps where a concave kink is passed over. In hardware it is a comparison, a subtraction and a clamp.
    """

    thresholds: tuple[float, ...]
    shifts: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def prox(u: torch.Tensor, par: PAR, strength: float | torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """argmin_w strength psi(w) + (w - u)^2 / 2, element by element.

    Where two minimisers tie, `par.ties` decides. NaN stays NaN; infinities go to the last level where the last slope is
    infinite, and stay otherwise; -0 is taken as 0. The result has u's dtype; half precision is computed in float32.

    Args:
        u: any shape, floating point.
        par: the regularizer.
        strength: finite, >= 0; or one a problem, a tensor whose shape is u's without its last axis.
        out: where the result goes, of u's shape and dtype; may be u itself.

    Raises:
        ConfigError: a strength that is negative, NaN or infinite, or of another shape.

    Source: Jin et al. 2025, equation 7, for convex regularizers; for the others the upper envelope of the pieces' conjugates.
    """
    if u.dtype not in (torch.float32, torch.float64):
        result = prox(u.float(), par, strength).to(u.dtype)
    elif isinstance(strength, torch.Tensor) and strength.ndim:
        result = _prox_rows(u, par, strength)
    else:
        return _prox_alike(u, par, float(strength), out)
    return result if out is None else out.copy_(result)


def _prox_alike(u: torch.Tensor, par: PAR, strength: float, out: torch.Tensor | None) -> torch.Tensor:
    plain = u.device.type == "cpu" and u.is_contiguous() and (out is None or out.is_contiguous()) and not watched()
    if plain and u.numel() >= KERNEL_SIZE:
        from .kernels import apply_table

        out = empty_like(u) if out is None else out
        apply_table(u, breakpoints(par, strength), par, out)
        return out
    columns = row_columns(par, torch.tensor([strength], dtype=torch.float64, device=u.device), u)
    result = evaluate(u.reshape(1, -1), *columns).reshape(u.shape)
    return result if out is None else out.copy_(result)


def watched() -> bool:
    """Whether a dispatch mode, such as the emulator's, has to see every operation: kernels hide theirs."""
    return torch._C._len_torch_dispatch_stack() > 0


def _prox_rows(u: torch.Tensor, par: PAR, strength: torch.Tensor) -> torch.Tensor:
    if strength.shape != u.shape[:-1]:
        raise ConfigError(
            f"prox strength: got shape {tuple(strength.shape)}; allowed: one number, or shape {tuple(u.shape[:-1])}"
        )
    return evaluate(u.reshape(-1, u.shape[-1]), *row_columns(par, strength.reshape(-1), u)).reshape(u.shape)


def row_columns(par: PAR, strengths: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tables of one strength a row, as `evaluate` takes them."""
    if par.family == "convex" and bool(((strengths >= 0) & strengths.isfinite()).all()):
        return _convex_columns(par, strengths, like)
    return columns_of([breakpoints(par, t) for t in strengths.tolist()], like)


def evaluate(
    u: torch.Tensor, thresholds: torch.Tensor, shifts: torch.Tensor, lows: torch.Tensor, highs: torch.Tensor
) -> torch.Tensor:
    """The maps of one table a row: u (rows, n), thresholds (rows, pieces - 1), the others (rows, pieces)."""
    piece = torch.searchsorted(thresholds, u.contiguous())
    # min and max in this order keep NaN; adding 0 takes the sign off a zero.
    moved = u - shifts.gather(-1, piece)
    return torch.minimum(torch.maximum(moved, lows.gather(-1, piece)), highs.gather(-1, piece)) + 0.0


def columns_of(tables: list[Breakpoints], like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tables as four tensors (tables, pieces) in a tensor's dtype, so rounded that comparisons keep their outcome.

    Shorter tables are filled up with pieces that no number reaches.
    """
    width = max(len(t.shifts) for t in tables)

    def padded(name: str, last: float | None = None) -> torch.Tensor:
        columns = [getattr(t, name) for t in tables]
        length = width - (name == "thresholds")
        full = [c + (c[-1] if last is None else last,) * (length - len(c)) for c in columns]
        return torch.tensor(full, dtype=torch.float64, device=like.device).reshape(len(tables), length)

    thresholds = round_down(padded("thresholds", inf), like.dtype)
    return (thresholds, *(padded(name).to(like.dtype) for name in ("shifts", "lows", "highs")))


def round_down(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest value of `dtype` that is <= x."""
    rounded = x.to(dtype)
    return torch.where(rounded.double() > x, torch.nextafter(rounded, torch.full_like(rounded, -inf)), rounded)


def _convex_columns(par: PAR, strengths: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The closed form: pieces meet amid the flat part of the kink between them."""
    slopes, lows, highs = (torch.tensor(c, dtype=torch.float64, device=like.device) for c in zip(*_pieces(par), strict=True))
    tau = strengths.double().unsqueeze(-1)
    thresholds = highs[:-1] + tau * (slopes[:-1] + slopes[1:]) / 2
    rows = (len(tau), -1)
    return (
        thresholds.to(like.dtype),
        (tau * slopes).to(like.dtype),
        lows.to(like.dtype).expand(rows),
        highs.to(like.dtype).expand(rows),
    )


def _pieces(par: PAR) -> list[tuple[float, float, float]]:
    """Slope and ends of every piece on which psi is finite."""
    edges = (-inf, *par.knots, inf)
    pieces = [piece for piece in zip(par.piece_slopes, edges, edges[1:], strict=False) if isfinite(piece[0])]
    return pieces or [(0.0, par.knots[0], par.knots[0])]


@dataclass(frozen=True)
class _Piece:
    """strength psi(w) + w^2/2 = constant + slope w + w^2/2 on [low, high]."""

    slope: float
    low: float
    high: float
    constant: float

    def minimiser(self, u: float) -> float:
        return min(max(u - self.slope, self.low), self.high)

    def conjugate(self, u: float) -> tuple[float, float, float]:
        """max_w u w - (...) around u, as the coefficients of 1, u and u^2."""
        if self.low < u - self.slope < self.high:
            return self.slope * self.slope / 2 - self.constant, -self.slope, 0.5
        w = self.low if u - self.slope <= self.low else self.high
        return -(self.constant + self.slope * w + w * w / 2), w, 0.0


@lru_cache(maxsize=256)
def breakpoints(par: PAR, strength: float) -> Breakpoints:
    """The closed form of prox for one strength.

    The conjugates of the pieces cross once for each pair, in the pieces' order; a scan keeps those of the upper envelope.

    Raises:
        ConfigError: a strength that is negative, NaN or infinite.
    """
    if not (strength >= 0 and isfinite(strength)):
        raise ConfigError(f"prox strength: got {strength}; allowed: a finite number >= 0")
    kept: list[_Piece] = []
    starts: list[float] = []
    for piece in _strengthened(par, strength):
        while kept:
            start = _crossing(kept[-1], piece)
            if len(kept) == 1 or start > starts[-1]:
                starts.append(start)
                break
            kept.pop()
            starts.pop()
        kept.append(piece)
    thresholds = tuple(_tied(t, a, b, par) for t, a, b in zip(starts, kept, kept[1:], strict=False))
    return Breakpoints(thresholds, tuple(p.slope for p in kept), tuple(p.low for p in kept), tuple(p.high for p in kept))


def _strengthened(par: PAR, strength: float) -> list[_Piece]:
    heights = dict(zip(par.knots, par.heights, strict=True))
    pieces = []
    for slope, low, high in _pieces(par):
        end = low if isfinite(low) else high
        pieces.append(_Piece(strength * slope, low, high, strength * (heights[end] - slope * end)))
    return pieces


def _crossing(left: _Piece, right: _Piece) -> float:
    """Where the conjugate of the right piece overtakes that of the left one."""
    if left.high == right.low and left.slope <= right.slope:
        return left.high + (left.slope + right.slope) / 2
    marks = sorted(p for piece in (left, right) for p in (piece.low + piece.slope, piece.high + piece.slope) if isfinite(p))
    low = -inf
    for high in (*marks, inf):
        c, b, a = _difference(left, right, _between(low, high))
        if high == inf or c + high * (b + high * a) >= 0:
            break
        low = high
    return _root(c, b, a, low, high)


def _difference(left: _Piece, right: _Piece, u: float) -> tuple[float, float, float]:
    c, b, a = (x - y for x, y in zip(right.conjugate(u), left.conjugate(u), strict=True))
    return c, b, a


def _between(low: float, high: float) -> float:
    if low == -inf:
        return high - 1
    return low + 1 if high == inf else (low + high) / 2


def _root(c: float, b: float, a: float, low: float, high: float) -> float:
    """The root of c + b u + a u^2, non-decreasing on [low, high]."""
    if a == 0:
        return min(max(-c / b, low), high) if b else _between(low, high)
    # The larger product first: the quadratic formula without cancellation.
    half = -(b + (sqrt(max(b * b - 4 * a * c, 0.0)) if b >= 0 else -sqrt(max(b * b - 4 * a * c, 0.0)))) / 2
    roots = [half / a, *([c / half] if half else [])]
    return min((min(max(r, low), high) for r in roots), key=lambda r: abs(c + r * (b + r * a)))


def _tied(threshold: float, left: _Piece, right: _Piece, par: PAR) -> float:
    """The threshold, moved down by one ulp where a tie on it belongs to the piece above."""
    below, above = left.minimiser(threshold), right.minimiser(threshold)
    upper = {
        "lower": False,
        "upper": True,
        "toward_zero": abs(above) < abs(below),
        "away": abs(above) > abs(below),
        "even": _index(above, par) % 2 == 0,
    }[par.ties]
    return nextafter(threshold, -inf) if upper and below != above else threshold


def _index(w: float, par: PAR) -> int:
    """The index k of the target nearest to w: targets are counted outwards from zero on either side."""
    nearest = min(par.targets, key=lambda q: abs(q - w), default=0.0)
    return sum(min(nearest, 0) <= q <= max(nearest, 0) and q != 0 for q in par.targets)
