"""What a format looks like: the bits of its code, and where its values lie on the number line, as text and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log2

from hwsim.formats import Block, Fixed, Float, Format, Integer
from hwsim.formats.base import MAX_LISTED_BITS
from hwsim.formats.logarithmic import Logarithmic
from hwsim.formats.posit import Posit

HEIGHTS = " ▁▂▃▄▅▆▇█"
COLUMNS = 64
BOX, LINE, MARGIN = 26, 900, 20


@dataclass(frozen=True)
class Part:
    """A run of bits of a code; `most` says that it is as long as the value needs, up to `bits`."""

    name: str
    bits: int
    most: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'up to ' if self.most else ''}{self.bits}"


@dataclass(frozen=True)
class Line:
    """Values along a line: `places` from 0 to 1, between two labelled ends."""

    name: str
    low: str
    high: str
    places: tuple[float, ...]


def layout(fmt: Format) -> tuple[Part, ...]:
    """The parts of a code, most significant first; one part where a code is only a number in a list."""
    sign = (Part("sign", 1),) if fmt.signed else ()
    match fmt:
        case Block():
            return layout(fmt.element)
        case Float():
            parts = (*sign, Part("exponent", fmt.exponent_bits), Part("fraction", fmt.mantissa_bits))
        case Integer():
            parts = (Part("two's complement" if fmt.signed else "binary", fmt.bits),)
        case Fixed() if 0 < fmt.fraction_bits < fmt.bits:
            parts = (Part("integer", fmt.bits - fmt.fraction_bits), Part("fraction", fmt.fraction_bits))
        case Posit():
            free = max(fmt.bits - 3 - fmt.es, 0)
            parts = (*sign, Part("regime", fmt.bits - 1, True), Part("exponent", fmt.es, True), Part("fraction", free, True))
        case Logarithmic():
            parts = (*sign, Part("log2, integer", fmt.bits - 1 - fmt.fraction_bits), Part("log2, fraction", fmt.fraction_bits))
        case _:
            parts = (Part("code", fmt.bits),)
    return tuple(part for part in parts if part.bits)


def number_lines(fmt: Format) -> tuple[Line, ...]:
    """All values on a linear line, and the positive ones on a logarithmic one; none for formats of more than 16 bits."""
    shown = fmt.element if isinstance(fmt, Block) else fmt
    if shown.bits > MAX_LISTED_BITS:
        return ()
    values: list[float] = shown.values().tolist()
    linear = Line("values", f"{values[0]:g}", f"{values[-1]:g}", _places(values))
    logarithms = [log2(v) for v in values if v > 0]
    if len(logarithms) < 2:
        return (linear,)
    ends = (f"2^{logarithms[0]:.4g}", f"2^{logarithms[-1]:.4g}")
    return linear, Line("log2 of the positive values", *ends, _places(logarithms))


def _places(values: Sequence[float]) -> tuple[float, ...]:
    low, high = values[0], values[-1]
    return tuple((v / 2 - low / 2) / (high / 2 - low / 2) for v in values)


def as_text(fmt: Format) -> str:
    """The layout in boxes and each line as a bar of densities."""
    parts = layout(fmt)
    boxes = [str(part) for part in parts]
    rules = ["─" * (len(box) + 2) for box in boxes]
    lines = [f"┌{'┬'.join(rules)}┐", "│" + "│".join(f" {box} " for box in boxes) + "│", f"└{'┴'.join(rules)}┘"]
    if isinstance(fmt, Block):
        inside = " and one of the tensor" if fmt.tensor_scale else ""
        lines.append(f"each of {fmt.elements} elements; one scale of {fmt.scale.bits} bits ({fmt.scale}) a block{inside}")
    for line in number_lines(fmt):
        lines += ["", f"{line.name}, from {line.low} to {line.high}", _densities(line.places)]
    return "\n".join(lines)


def _densities(places: Sequence[float]) -> str:
    counts = [0] * COLUMNS
    for place in places:
        counts[min(int(place * COLUMNS), COLUMNS - 1)] += 1
    most = max(counts)
    return "├" + "".join(HEIGHTS[-(-count * (len(HEIGHTS) - 1) // most)] for count in counts) + "┤"


def as_svg(fmt: Format) -> str:
    """The layout with a box for each bit (one for a part of varying length), and each line with a tick for each value."""
    shapes, x, y = [_text(MARGIN, 20, str(fmt), "start")], MARGIN, 34
    for part, colour in zip(layout(fmt), ("#d9d9d9", "#9ecae1", "#a1d99b", "#fdd0a2"), strict=False):
        start, widths = x, [4 * BOX] if part.most else [BOX] * part.bits
        for width in widths:
            shapes.append(f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" fill="{colour}" stroke="#444"/>')
            x += width
        shapes.append(_text((start + x) / 2, y + BOX + 15, str(part)))
    y += BOX + 40
    for line in number_lines(fmt):
        ticks = " ".join(f"M{MARGIN + place * LINE:.2f} {y}v14" for place in line.places)
        shapes.append(_text(MARGIN, y - 6, f"{line.name}, from {line.low} to {line.high}", "start"))
        shapes.append(f'<path d="M{MARGIN} {y + 14}h{LINE} {ticks}" stroke="#08519c" stroke-width="0.8" fill="none"/>')
        y += 50
    full = max(x, LINE + MARGIN) + MARGIN
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{y}" {style}>{"".join(shapes)}</svg>\n'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
