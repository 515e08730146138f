"""Golden vectors for hardware: what a unit or a format converter is given and must give, as hex codes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hwsim.casting import parts
from hwsim.casts import Cast
from hwsim.errors import FormatError, not_allowed
from hwsim.formats import Block, Draw, Float, Format
from hwsim.formats.philox import word

from . import block_vectors
from .quantized import Scaled
from .record import Mac, Operands
from .trace import Trace, code_of, codes_of, trace

SPECIAL = (0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF)


@dataclass(frozen=True)
class Vectors:
    """A table of cases; a cell is a hex code or a list of them, `header` says what made them."""

    header: Mapping[str, Any]
    rows: tuple[Mapping[str, str | list[str]], ...]

    def as_json(self) -> str:
        """One object: the header's entries and `vectors`, a list of objects."""
        return json.dumps({**self.header, "vectors": list(self.rows)}, indent=1)

    def as_csv(self) -> str:
        """The header as `# key: value` lines, then one line a case; codes of a list are separated by spaces."""
        out = io.StringIO()
        for key, value in self.header.items():
            out.write(f"# {key}: {value if isinstance(value, str | int) else json.dumps(value)}\n")
        writer = csv.DictWriter(out, list(self.rows[0]) if self.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in self.rows)
        return out.getvalue()


def unit_vectors(
    mac: Mac, count: int = 100, terms: int = 16, seed: int = 0, operands: tuple[Format, Format] | None = None
) -> Vectors:
    """Random dot products of a unit with every partial sum.

    Of four cases one has operands of any code, special values included where the unit takes NaN; one of any finite code; two of
    normally distributed values, every tenth of them zero. Partial sums are those of the accumulator and the outer sums, in the
    order in which the unit makes them, each by the code of its own format. Case n draws its random words from step n.

    Args:
        operands: the formats of A and B, of those that the unit takes; the first of each, unless said.

    Raises:
        FormatError: `native`, a unit without declared operand formats, or formats that are none of them.
    """
    rng, formats = torch.Generator().manual_seed(seed), _formats(mac, operands)
    mac = mac.model_copy(update={"operands": Operands(input=formats[:1], weight=formats[1:])})
    rows = tuple(_unit_row(mac, formats, terms, n, rng, Draw(seed, step=n)) for n in range(count))
    header = {
        "unit": mac.name, "input": str(formats[0]), "weight": str(formats[1]), "c": str(mac.c_format),
        "result": str(mac.outermost.format), "terms": terms, "seed": seed, "codes": "hex", "source": mac.source,
    }  # fmt: skip
    if mac.scales:
        header |= {"scale": str(mac.scales.format), "block": mac.scales.block}
    return Vectors(header, rows)


def operand_values(mac: Mac, terms: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normally distributed operands of a unit, (terms,) each.

    Raises:
        FormatError: `native`, or a unit without declared operand formats.
    """
    rng = torch.Generator().manual_seed(seed)
    a, b = (_values(fmt, terms, 2, False, rng) for fmt in _formats(mac))
    return a, b


def _formats(mac: Mac, given: tuple[Format, Format] | None = None) -> tuple[Format, Format]:
    if mac.operands is None or mac.is_native:
        raise FormatError(f"got {mac.name or 'a unit'}; allowed: a unit with declared `operands` and a defined order")
    if given is None:
        return mac.operands.input[0], mac.operands.weight[0]
    for side, fmt, allowed in zip("ab", given, (mac.operands.input, mac.operands.weight), strict=True):
        if fmt not in allowed:
            named = f"operands of {mac.name or 'the unit'}, {side}"
            raise FormatError(not_allowed(named, str(fmt), map(str, allowed)), "operands")
    return given


def _unit_row(
    mac: Mac, formats: tuple[Format, Format], terms: int, n: int, rng: torch.Generator, draw: Draw
) -> dict[str, str | list[str]]:
    a, b = (_values(fmt, terms, n, mac.accumulator.format.has_nan, rng) for fmt in formats)
    c = _values(mac.c_format, 1, max(n % 4, 1), False, rng).item()
    if mac.scales is None:
        found = trace(a, b, mac, c, draw)
    else:
        blocks = -(-terms // mac.scales.block)
        near = torch.randint(-3, 4, (2, blocks), generator=rng).double().exp2()
        found = trace(Scaled(a, near[0]), Scaled(b, near[1]), mac, c, draw)
    return {**_operand_cells(found, formats), "c": code_of(c, mac.c_format), **_sum_cells(found)}


def _operand_cells(found: Trace, formats: tuple[Format, Format]) -> dict[str, str | list[str]]:
    cells: dict[str, str | list[str]]
    cells = {name: codes_of(x, fmt) for name, x, fmt in zip("ab", (found.a, found.b), formats, strict=True)}
    scales = found.mac.scales
    if scales is not None and found.scale_a is not None and found.scale_b is not None:
        sides = (("scale_a", found.scale_a), ("scale_b", found.scale_b))
        cells |= {name: codes_of(scale, scales.format) for name, scale in sides}
    return cells


def _sum_cells(found: Trace) -> dict[str, str | list[str]]:
    sums = [step for step in found.steps if step.level != 1]
    cells: dict[str, str | list[str]] = {"partial": [code_of(step.result, step.place.format) for step in sums]}
    if any(step.word is not None for step in found.steps):
        cells["random"] = [f"{step.word:08x}" for step in found.steps if step.word is not None]
    return cells | {"result": code_of(found.result, found.mac.outermost.format)}


def _values(fmt: Format, count: int, kind: int, specials: bool, rng: torch.Generator) -> Tensor:
    """Values of a format, float64 (see `unit_vectors`)."""
    if kind % 4 >= 2:
        wide = torch.randn(count, generator=rng, dtype=torch.float64) * min(1.0 if isinstance(fmt, Float) else fmt.max / 2, 100.0)
        near = wide * (torch.rand(count, generator=rng) > 0.1)
        return parts(Cast(format=fmt), near).elements.double()
    sign = torch.randint(0, 2, (count,), generator=rng) * -2.0 + 1.0 if fmt.bits == 64 else 1.0
    values = fmt.decode(_codes(min(fmt.bits, 63), count, rng)).double() * sign
    return values if kind % 4 == 0 and specials else torch.where(values.isfinite(), values, torch.zeros_like(values))


def _codes(bits: int, count: int, rng: torch.Generator) -> Tensor:
    """Codes of up to 63 bits, in two draws where one draw's bound is no int64."""
    if bits < 63:
        return torch.randint(0, 1 << bits, (count,), generator=rng)
    low = torch.randint(0, 1 << 32, (count,), generator=rng)
    return low | torch.randint(0, 1 << (bits - 32), (count,), generator=rng) << 32


def converter_vectors(cast: Cast, count: int = 1000, seed: int = 0) -> Vectors:
    """Inputs of a converter, as float32 bit patterns, and the codes they become.

    The inputs are zeros, infinities, a NaN where the format has one, subnormals, for formats of up to 8 bits every value, every
    midpoint and their float32 neighbours, and random bit patterns up to `count`. Of a block format each case is one block, 1-D or
    a tile, with the code of its scale; where the whole tensor has a scale beside the blocks', it is a tensor of four blocks with
    their scales and its own. Of a stochastic rounding each case has its 32-bit random word, one for each element of blocks.

    Raises:
        FormatError: a cast that scales tensors itself.
    """
    if cast.scaled:
        raise FormatError(f"scaling: got {cast.scaling}; allowed in vectors: none, or a block format, whose scales they show")
    rng = torch.Generator().manual_seed(seed)
    fmt = cast.format
    header = {"format": str(fmt), "rounding": str(cast.rounding), "overflow": cast.projection.overflow, "seed": seed,
              "input": "fp32", "codes": "hex"}  # fmt: skip
    if isinstance(fmt, Block):
        return Vectors(header | block_vectors.header(fmt), tuple(block_vectors.rows(cast, fmt, count, rng, Draw(seed))))
    x, draw = _inputs(fmt, count, rng), Draw(seed)
    columns = {"input": _patterns(x)}
    if cast.rounding.is_stochastic:
        columns["random"] = [f"{word(n, draw):08x}" for n in range(len(x))]
    columns["output"] = codes_of(parts(cast, x, draw).elements, fmt)
    return Vectors(header, tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)))


def _inputs(fmt: Format, count: int, rng: torch.Generator) -> Tensor:
    pieces = [_from_patterns(torch.tensor(SPECIAL))]
    if fmt.bits <= 8:
        values = fmt.values().double()
        middles = (values[1:] + values[:-1]) / 2
        edge = torch.cat([values, middles, fmt.max * torch.tensor([1.25, -1.25], dtype=torch.float64)]).float()
        pieces += [edge, edge.nextafter(torch.tensor(torch.inf)), edge.nextafter(torch.tensor(-torch.inf))]
    left = max(0, count - sum(len(piece) for piece in pieces))
    pieces.append(_from_patterns(torch.randint(0, 1 << 32, (left,), generator=rng)))
    x = torch.cat(pieces)
    return x if fmt.has_nan else x[~x.isnan()]


def _from_patterns(patterns: Tensor) -> Tensor:
    return torch.where(patterns >= 1 << 31, patterns - (1 << 32), patterns).to(torch.int32).view(torch.float32)


def _patterns(x: Tensor) -> list[str]:
    return [f"{pattern & 0xFFFFFFFF:08x}" for pattern in x.view(torch.int32).tolist()]
