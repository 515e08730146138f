"""What holds of every format and every backend: the suite that a plug-in passes before it registers, and its definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from .backends import block_reference, vector
from .backends.reference import quantize as by_reference
from .backends.registry import Backend, Quantize, lowered
from .base import Format
from .block import Block
from .codebook import Codebook
from .codes import int64_code
from .errors import FormatError
from .float import Float
from .grid import Grid
from .integer import Integer
from .levels import Levels
from .philox import Draw
from .posit import Posit
from .rounding import MODES, Projection, Rounding
from .scaled import PER_TENSOR
from .tiling import tiling

Round = Callable[[Tensor, str], Tensor]
"""Rounds float64 numbers to a format in a mode."""
Broken = Iterator[tuple[str, Tensor]]
"""A mode, and for each number whether the property fails there."""

DIRECTED = ("toward_positive", "toward_negative")
MIRRORED = ("nearest_away", "nearest_zero", "toward_zero")
BY_CODE = ("nearest_even", "to_odd", "stochastic")
SAMPLED_CODES = 256
COMPARED, SPREAD = 24, 16
SPECIAL = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
DRAW = Draw(seed=11)


def keeps_values(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """Rounding what is rounded changes nothing."""
    for mode in MODES:
        once = rounded(x, mode)
        yield mode, ~same(rounded(once, mode), once)


def stays_in_the_value_set(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """Every result has a code, and the code's value is the result."""
    for mode in MODES:
        once = rounded(x, mode)
        yield mode, ~same(fmt.decode(fmt.encode(once)).to(once), once)


def keeps_the_order(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """A larger number never becomes a smaller value; not asked of stochastic rounding."""
    order = x.argsort()
    for mode in MODES[:-1]:
        falls = torch.zeros_like(x, dtype=torch.bool)
        falls[order[1:]] = rounded(x, mode)[order].diff() < 0
        yield mode, falls


def is_odd(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """-x becomes minus what x becomes, where values are symmetric; on levels not by the codes' parity nor at zero."""
    if symmetric(fmt):
        on_levels = isinstance(fmt.lattice, Levels)
        for mode in MIRRORED if on_levels else (*MIRRORED, *BY_CODE):
            yield mode, (rounded(-x, mode) != -rounded(x, mode)) & ~((x == 0) & on_levels)


def is_a_neighbour(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """Within the range, the directed modes enclose the number, and every mode gives one of their two results."""
    low, high = rounded(x, "toward_negative"), rounded(x, "toward_positive")
    inside = (x >= fmt.min) & (x <= fmt.max)
    yield "toward_negative", inside & (low > x)
    yield "toward_positive", inside & (high < x)
    for mode in MODES:
        once = rounded(x, mode)
        yield mode, inside & (once != low) & (once != high)


def equals_the_reference(x: Tensor, fmt: Format, rounded: Round) -> Broken:
    """The bits are those of the backend `reference`, which is slow: some numbers, evenly over all, are compared."""
    places = slice(None, None, max(1, x.numel() // COMPARED))
    for mode in MODES:
        differ = torch.zeros_like(x, dtype=torch.bool)
        differ[places] = ~same(rounded(x[places], mode), by_reference(x[places], fmt, _projection(fmt, mode), draw=DRAW))
        yield mode, differ


ROUNDING: Mapping[str, Callable[[Tensor, Format, Round], Broken]] = MappingProxyType(
    {
        "keeps values": keeps_values,
        "stays in the value set": stays_in_the_value_set,
        "keeps the order": keeps_the_order,
        "is odd": is_odd,
        "is a neighbour": is_a_neighbour,
        "equals the reference": equals_the_reference,
    }
)
"""The properties of rounding by name."""


def canonical_codes(codes: Tensor, values: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """The code that `encode` gives for what each code decodes to, and of which codes it does: each comes back as itself.

    There are these exceptions, and no other:

    - a NaN comes back as the canonical NaN;
    - in a format that has a sign bit and no -0 the second code of zero, the other one with its top bit flipped, comes back as
      the first;
    - in a float without subnormals a fraction beside exponent field 0 is dropped;
    - `encode` refuses what is no value of the format: beyond `min` and `max` (the lowest code of a symmetric integer), and NaN
      where the format has none (codes past the last level of a codebook).
    """
    lattice, zero, canonical = fmt.lattice, values == 0, codes
    if isinstance(lattice, Grid) and not lattice.subnormals:
        canonical = torch.where(zero, codes >> lattice.mantissa_bits << lattice.mantissa_bits, codes)
    if fmt.signed and not fmt.has_negative_zero:
        first = dict(zip(lattice.values, lattice.codes, strict=True)).get(0.0, 0) if isinstance(lattice, Levels) else 0
        below_the_top = (1 << (fmt.bits - 1)) - 1
        canonical = torch.where(zero & ((canonical ^ first) & below_the_top == 0), first, canonical)
    if lattice.nan_code is not None:
        canonical = torch.where(values.isnan(), int64_code(lattice.nan_code), canonical)
    known = torch.where(values.isfinite(), (values >= fmt.min) & (values <= fmt.max), values.isinf() | fmt.has_nan)
    return canonical, known


def same(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors agree bitwise, NaN being NaN."""
    return (a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())


def symmetric(fmt: Format) -> bool:
    """Whether the negative of every value is one."""
    if isinstance(fmt.lattice, Levels):
        return all(a == -b for a, b in zip(fmt.lattice.values, reversed(fmt.lattice.values), strict=True))
    return fmt.min == -fmt.max


def first_broken(x: Tensor, fmt: Format, rounded: Round, properties: Mapping[str, Callable[..., Broken]] = ROUNDING) -> str:
    """The first property that fails, with its mode and number; an empty string if all hold."""
    known: dict[str, Tensor] = {}

    def remembered(given: Tensor, mode: str) -> Tensor:
        if given is not x:
            return rounded(given, mode)
        if mode not in known:
            known[mode] = rounded(x, mode)
        return known[mode]

    for name, holds in properties.items():
        for mode, broken in holds(x, fmt, remembered):
            if bool(broken.any()):
                given = x[broken][0]
                return f"{name!r} fails in the mode {mode!r} at {given.item()!r}, which becomes {rounded(given, mode).item()!r}"
    return ""


def probes(fmt: Format) -> Tensor:
    """Numbers (float64) that tell: values, what lies between and beside them, the ends, and beyond."""
    values = fmt.values().double() if fmt.bits <= 8 else fmt.decode(_codes(fmt)).double()
    values = distinct(values[values.isfinite()])[:: max(1, values.numel() // SPREAD)]
    between = [values[:-1] + (values[1:] - values[:-1]) * share for share in (0.25, 0.5, 0.75)]
    ends = torch.tensor([0.0, fmt.max, fmt.min, 1.5 * fmt.max, 1.5 * fmt.min, fmt.smallest_subnormal / 2], dtype=torch.float64)
    points = torch.cat([values, *between, ends[ends.isfinite()]])
    away = torch.full_like(points, torch.inf)
    return distinct(torch.cat([points, points.nextafter(away), points.nextafter(-away)]))


def distinct(x: Tensor) -> Tensor:
    """The numbers once each, ascending."""
    ascending = x.sort().values
    return ascending[torch.cat([torch.ones(1, dtype=torch.bool), ascending.diff() != 0])]


def check_format(fmt: Format) -> None:
    """Put a format through the suite: its codes (see `canonical_codes`), then what holds of rounding (see `ROUNDING`).

    Raises:
        FormatError: a property fails; its name and the number or code at fault are told.
    """
    codes = _codes(fmt)
    expected = torch.tensor([float(fmt.decode_code(code)) for code in codes.tolist()], dtype=torch.float64)
    values = fmt.decode(codes).double()
    _check(~same(values, expected), codes, f"{fmt}: 'decodes alike' fails at code")
    canonical, known = canonical_codes(codes, values, fmt)
    _check(fmt.encode(values[known]) != canonical[known], codes[known], f"{fmt}: 'a code comes back' fails at code")
    _raise(fmt, first_broken(probes(fmt), fmt, _round_by(lowered(vector.round_tensor), fmt)))


def check_kind(name: str, kind: type[Format]) -> None:
    """Put the examples of a kind through the suite: what its class method `examples()` gives, else the record of its defaults.

    Raises:
        FormatError: a property fails, or there is no example.
    """
    examples = getattr(kind, "examples", None)
    if examples is None and any(f.default is MISSING and f.default_factory is MISSING for f in fields(kind)):
        raise FormatError(
            f"kind: {name!r} has fields without defaults; allowed: those, or a class method `examples()` of formats"
        )
    for fmt in examples() if examples is not None else (kind(),):
        check_format(fmt)


@cache
def sample_formats() -> tuple[Format, ...]:
    """What a backend is tried on."""
    return (
        *(Float(4, 3, specials="fn"), Float(5, 2), Float(2, 1, specials="finite"), Integer(4)),
        *(Posit(6, 1), Codebook((-1.0, -0.3, 0.0, 0.5, 1.0))),
    )


def check_backend(plugin: Backend) -> None:
    """Compare a backend with the reference, bitwise, on every sample format that it takes; it may refuse by FormatError.

    Raises:
        FormatError: a result differs, or every format is refused.
    """
    taken = 0
    for fmt in sample_formats():
        x = probes(fmt)
        rounded = _round_by(plugin.quantize, fmt)
        try:
            rounded(x[:1], MODES[0])
        except FormatError:
            continue
        taken += 1
        for some in (SPECIAL, x):
            text = first_broken(some, fmt, rounded, {"equals the reference": equals_the_reference})
            _raise(f"backend {plugin.name!r} on {fmt}", text)
    if not taken:
        raise FormatError(f"backend: {plugin.name!r} refuses every format; allowed: backends that take one", "backend")
    _check_blocks(plugin)


def _check_blocks(plugin: Backend) -> None:
    fmt = Block(Float(2, 1, specials="finite"), Float(8, 0, 127, "fn", subnormals=False, signed=False, zero=False), size=8)
    x = torch.linspace(-3, 5, 28)
    where, _ = tiling(x.shape, fmt, -1)
    try:
        given = plugin.quantize_block(x, fmt, Projection(), where, DRAW, True)
    except FormatError:
        return
    expected = block_reference.quantize_block(x, fmt, Projection(), where, DRAW, True)
    for part, right in zip(given, expected, strict=True):
        text = "" if bool(same(part, right).all()) else "'equals the reference' fails in blocks"
        _raise(f"backend {plugin.name!r} on {fmt}", text)


def _round_by(quantize: Quantize, fmt: Format) -> Round:
    def rounded(x: Tensor, mode: str) -> Tensor:
        return quantize(x, fmt, _projection(fmt, mode), None, PER_TENSOR, DRAW, True)

    return rounded


def _projection(fmt: Format, mode: str) -> Projection:
    return Projection(Rounding.parse(mode), nan="error" if fmt.has_nan else "zero")


def _codes(fmt: Format) -> Tensor:
    """Every code of a format of up to 8 bits, else some evenly over all."""
    if fmt.bits <= 8:
        return torch.arange(1 << fmt.bits)
    step = (1 << min(fmt.bits, 62)) // SAMPLED_CODES + 1
    return torch.arange(SAMPLED_CODES) * step % (1 << min(fmt.bits, 62))


def _check(broken: Tensor, codes: Tensor, text: str) -> None:
    if bool(broken.any()):
        raise FormatError(f"{text} {int(codes[broken][0])}")


def _raise(what: object, text: str) -> None:
    if text:
        raise FormatError(f"{what}: {text}")
