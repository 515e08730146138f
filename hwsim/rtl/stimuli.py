"""What circuits are tried on: codes that make roundings hard, and what the emulator makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsim.casting import parts
from hwsim.casts import Cast
from hwsim.formats import Draw, Float, Format
from hwsim.formats.philox import words
from hwsim.macs import Mac, Scaled, matmul
from hwsim.macs.operands import flushed
from hwsim.macs.orders import Chunked, Fused
from hwsim.macs.record import CInput, Operands, Rounded

from .circuit import Circuit
from .units import Unit

Codes = NDArray[np.int64]
SIDE = 1024


@dataclass(frozen=True)
class Stimuli:
    """Inputs of a circuit by port, and the output that the emulator gives for them."""

    given: Mapping[str, Codes]
    wanted: Mapping[str, Codes]

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return len(next(iter(self.wanted.values())))


def encoded(fmt: Format, values: Tensor) -> Codes:
    """The codes of values, as numbers from 0."""
    found: Codes = fmt.encode(values.double()).numpy()
    return found & ((1 << fmt.bits) - 1) if fmt.bits < 64 else found


def random_values(fmt: Format, shape: tuple[int, ...], rng: torch.Generator, specials: bool) -> Tensor:
    """Values of random codes, float64: a quarter near the smallest ones, a quarter near one; NaN and infinities if wanted."""
    high = 1 << min(fmt.bits, 63)
    codes = torch.randint(0, high - 1, shape, generator=rng) if fmt.bits > 62 else torch.randint(0, high, shape, generator=rng)
    values = fmt.decode(codes).double()
    if isinstance(fmt, Float):
        exponent = torch.tensor(2.0, dtype=torch.float64) ** fmt.grid.smallest_exponent
        low = torch.randint(0, 2 << fmt.mantissa_bits, shape, generator=rng).double() * exponent
        sign = torch.randint(0, 2, shape, generator=rng) * 2.0 - 1.0 if fmt.signed else 1.0
        plain = fmt.subnormals and fmt.zero and fmt.max >= float(low.max())
        kind = torch.randint(0, 4, shape, generator=rng)
        near = parts(Cast(format=fmt, nan="zero"), torch.randn(shape, generator=rng, dtype=torch.float64).abs()).elements.double()
        values = torch.where((kind == 0) & plain, low * sign, torch.where(kind == 1, near * sign, values))
    return values if specials else torch.where(values.isfinite(), values, torch.zeros_like(values))


def addends(fmt: Format, exact: Tensor, rng: torch.Generator, specials: bool) -> Tensor:
    """What is added to exact sums: half of it nearly cancels them or meets them at a tie, the rest is random."""
    shape = tuple(exact.shape)
    tiny = torch.randint(-60, 4, shape, generator=rng).double().exp2() * torch.randn(shape, generator=rng, dtype=torch.float64)
    cancelling = -exact * (1 + tiny)
    scale = torch.randint(-28, 29, shape, generator=rng).double().exp2()
    beside = exact * scale * (1 + torch.randint(0, 8, shape, generator=rng).double() / 8)
    wanted = torch.where(torch.rand(shape, generator=rng) < 0.5, cancelling, beside)
    near = parts(Cast(format=fmt, nan="zero"), torch.where(wanted.isfinite(), wanted, 0.0)).elements.double()
    return torch.where(torch.rand(shape, generator=rng) < 0.6, near, random_values(fmt, shape, rng, specials))


def step_machine(mac: Mac) -> Mac:
    """The unit that a step alone is: no outer sums, C entering first and past its port; operands come to it flushed."""
    order = mac.order
    if isinstance(order, Chunked):
        order = order.inner
    if isinstance(order, Fused) and order.fused.grouping == "alternate_pairs":
        order = Fused(fused=order.fused.model_copy(update={"grouping": "consecutive"}))
    outer = bool(mac.levels(1 << 40))
    c_format = mac.c_format if mac.fused or not outer else None
    change = {"promote": None, "split_k": 1, "order": order, "c": CInput(format=c_format), "flush_inputs": "none"}
    if mac.scales and mac.scales.applied == "promotion":
        change["scales"] = None
    return mac.model_copy(update=change)


def of_step(mac: Mac, unit: Unit, side: int = SIDE, seed: int = 0) -> Stimuli:
    """side^2 vectors of a unit's innermost step: `side` rows of A by as many columns of B, and a C for each."""
    rng, (fa, fb), terms = torch.Generator().manual_seed(seed), unit.operands, unit.terms
    a, b = random_values(fa, (side, terms), rng, False), random_values(fb, (terms, side), rng, False)
    some = max(side // 16, 1)
    takes_nan = mac.accumulator.format.has_nan
    a[:some] = random_values(fa, (some, terms), rng, takes_nan)
    given: dict[str, Codes] = {"a": _rows(encoded(fa, a), side), "b": _columns(encoded(fb, b), side)}
    x, y = through_port(a, fa, mac), through_port(b, fb, mac)
    exact = a.nan_to_num(0, 0, 0) @ b
    scaled: tuple[Tensor | Scaled, Tensor | Scaled] = x, y
    scales = next((port.count for port in unit.step.inputs if port.name == "scale_a"), 0)
    if scales and mac.scales is not None:
        fmt = mac.scales.format
        sa, sb = (_near_one(fmt, shape, rng) for shape in ((side, scales), (scales, side)))
        given |= {"scale_a": _rows(encoded(fmt, sa), side), "scale_b": _columns(encoded(fmt, sb), side)}
        scaled = Scaled(x, sa), Scaled(y, sb)
        exact = exact * sa[:, :1] * sb[:1]
    c = None
    if any(port.name == "c" for port in unit.step.inputs):
        c = addends(unit.state, exact, rng, takes_nan)
        given["c"] = encoded(unit.state, c).reshape(-1)
    draw = Draw(seed)
    given |= _random(unit.step, mac, side * side, draw)
    wanted = matmul(*scaled, step_machine(mac), c, draw)
    return Stimuli(given, {"d": encoded(mac.accumulator.format, wanted).reshape(-1)})


def _near_one(fmt: Format, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    wide = torch.randn(shape, generator=rng, dtype=torch.float64).mul(4).exp2()
    return parts(Cast(format=fmt, nan="zero"), wide).elements.double()


def _rows(codes: Codes, side: int) -> Codes:
    return np.repeat(codes, side, axis=0)


def _columns(codes: Codes, side: int) -> Codes:
    return np.tile(codes.T, (side, 1))


def _random(circuit: Circuit, mac: Mac, outputs: int, draw: Draw) -> dict[str, Codes]:
    """The random words of one step, by `Draw`: level 0 the accumulator's, 1 the products'."""
    found = {}
    for port in circuit.inputs:
        if port.name not in ("random", "random_product"):
            continue
        if port.count > 1:
            raise NotImplementedError("random words of several additions in one step")
        level = int(port.name == "random_product")
        every = words(outputs * (level + 1), draw.numbers)[outputs * level :]
        found[port.name] = (every >> (32 - port.width)).numpy()
    return found


def of_unit(mac: Mac, unit: Unit, side: int = SIDE) -> Iterator[tuple[Circuit, Stimuli]]:
    """Each circuit of a unit with side^2 vectors."""
    yield unit.step, of_step(mac, unit, side)
    levels, count = mac.levels(1 << 40), side * side
    places = [mac.accumulator, *(level.into for level in levels)]
    for n, (circuit, level) in enumerate(zip(unit.outer, levels, strict=True)):
        first = unit.total if n == len(levels) - 1 else level.into.format
        yield circuit, of_sum(circuit, first, places[n].format, level.into, mac, count)
    if unit.last is not None:
        yield unit.last, of_sum(unit.last, mac.outermost.format, mac.c_format, mac.outermost, mac, count)
    if unit.port is not None:
        yield unit.port, of_port(unit.port, mac, count)
    if unit.scale is not None:
        yield unit.scale, of_scale(unit.scale, mac, count)


def of_port(circuit: Circuit, mac: Mac, count: int, seed: int = 0) -> Stimuli:
    """Vectors of the port of C."""
    fmt = mac.c_format
    x = random_values(fmt, (count,), torch.Generator().manual_seed(seed), fmt.has_nan)
    return Stimuli({"x": encoded(fmt, x)}, {"d": encoded(fmt, through_port(x, fmt, mac))})


def through_port(x: Tensor, fmt: Format, mac: Mac) -> Tensor:
    """Values of a format as they come out of a port of the unit."""
    if mac.flush_inputs == "none":
        return x
    return torch.from_numpy(flushed(x.numpy(), fmt.smallest_normal, mac.flush_inputs))


def of_scale(circuit: Circuit, mac: Mac, count: int, seed: int = 0) -> Stimuli:
    """Vectors of the product of two scales, both positive; its exact value fits float64 for scales of up to 26 bits."""
    if mac.scales is None:
        raise ValueError("a unit without scales")
    rng, fmt, to = torch.Generator().manual_seed(seed), mac.scales.format, mac.outermost.format
    a, b = (random_values(fmt, (count,), rng, False).abs() for _ in "ab")
    exact = parts(Cast(format=to, overflow=Rounded(format=to).projection.overflow), a * b).elements
    return Stimuli({"scale_a": encoded(fmt, a), "scale_b": encoded(fmt, b)}, {"d": encoded(to, exact)})


def of_sum(circuit: Circuit, first: Format, second: Format, place: Rounded, mac: Mac, count: int, seed: int = 0) -> Stimuli:
    """Vectors of an outer sum, c + a or c + a scale; the emulator's twin is a unit of one product.

    Where there is a scale, `count` is a square: as many values of a, each with every scale, and a C for each pair.
    """
    rng, scaled = torch.Generator().manual_seed(seed), any(port.name == "scale" for port in circuit.inputs)
    columns = round(count**0.5) if scaled else 1  # of a scale each
    a = random_values(second, (count // columns, 1), rng, True)
    scale = _near_one(place.format, (1, columns), rng) if scaled else torch.ones(1, 1, dtype=torch.float64)
    c = addends(first, a.nan_to_num(0, 0, 0) * scale, rng, True)
    sums = Rounded(format=place.format, rounding=place.rounding, overflow=place.overflow, nan=place.nan)
    twin = Mac(
        accumulator=sums, order="sequential", c=CInput(format=first), flush_results=mac.flush_results,
        operands=Operands(input=(second,), weight=(place.format,)),
    )  # fmt: skip
    draw = Draw(seed)
    given = {"a": encoded(second, a.expand_as(c)).reshape(-1), "c": encoded(first, c).reshape(-1)}
    if scaled:
        given["scale"] = encoded(place.format, scale.expand_as(c)).reshape(-1)
    given |= _random(circuit, mac, c.numel(), draw)
    wanted = matmul(a, scale, twin, c, draw)
    return Stimuli(given, {"d": encoded(place.format, wanted).reshape(-1)})


def of_converter(cast: Cast, circuit: Circuit, count: int, seed: int = 0) -> Stimuli:
    """Vectors of a converter: float32 patterns of every exponent with tie patterns, specials, random bits."""
    rng = torch.Generator().manual_seed(seed)
    exponents = torch.arange(256).repeat_interleave(256)
    tops = (torch.arange(256).repeat(256) << 15) & 0x7FFFFF
    structured = (exponents << 23) | tops
    structured = torch.cat([structured + d for d in (-1, 0, 1)]).clamp(0, 0x7FFFFFFF)
    structured = torch.cat([structured, structured | (1 << 31)])[:count]
    patterns = torch.cat([structured, torch.randint(0, 1 << 32, (max(count - len(structured), 0),), generator=rng)])
    return of_patterns(cast, circuit, patterns, seed)


def of_patterns(cast: Cast, circuit: Circuit, patterns: Tensor, seed: int = 0) -> Stimuli:
    """The same of given float32 patterns (int64, 0 .. 2^32 - 1)."""
    x = torch.where(patterns >= 1 << 31, patterns - (1 << 32), patterns).to(torch.int32).view(torch.float32)
    draw, given = Draw(seed), {"x": patterns.numpy()}
    if cast.rounding.is_stochastic:
        given["random"] = (words(len(x), draw.numbers) >> (32 - cast.rounding.random_bits)).numpy()
    refused = any(port.name == "invalid" for port in circuit.outputs)
    accepting = cast.model_copy(update={"nan": "max"}) if refused else cast
    wanted = {"y": encoded(cast.format, parts(accepting, x, draw).elements)}
    if refused:
        wanted["invalid"] = x.isnan().numpy().astype(np.int64)
    return Stimuli(given, wanted)
