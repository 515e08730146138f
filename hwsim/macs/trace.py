"""One dot product step by step: recorded by the reference, shown bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from hwsim.casting import Quantized
from hwsim.errors import FormatError
from hwsim.formats import Draw, Format

from . import reference
from .operands import port
from .products import entering
from .quantized import OPERANDS, SIDES, Scaled, block_scales, check_real, fed, narrowed, transposed
from .record import Mac
from .reference import finite, sign
from .steps import Real, Step
from .units import mac as unit

MAX_BITS = 80


@dataclass(frozen=True)
class Trace:
    """One dot product: its unit, operands (scales None where there are none), the steps that rounded, and the result."""

    mac: Mac
    a: torch.Tensor
    b: torch.Tensor
    scale_a: torch.Tensor | None
    scale_b: torch.Tensor | None
    c: float | None
    steps: tuple[Step, ...]
    result: float


def trace(
    a: torch.Tensor | Scaled | Quantized,
    b: torch.Tensor | Scaled | Quantized,
    mac: Mac | str | Mapping[str, Any],
    c: float | None = None,
    draw: Draw = Draw(),
    output: tuple[int, int] = (0, 1),
) -> Trace:
    """c + a . b by the scalar reference, every rounding recorded.

    Args:
        a, b: (K,), values of the unit's `input` and `weight` formats, a Scaled of (K,) values and (ceil(K / block),) scales, or a
            Quantized vector with such scales or none; as `matmul` takes them.
        output: the result's row-major index, and of how many: they number a stochastic rounding's random words.

    Raises:
        FormatError: `native`, which has no steps; operands of unlike lengths, or no values of their formats; scales that `matmul`
            refuses; scales of a whole vector, which act on the unit's result.
    """
    mac = unit(mac)
    if mac.is_native:
        raise FormatError("trace: got `native`, whose order is not defined; allowed: any other unit")
    x, y = (_vector(given, side) for given, side in zip((a, b), SIDES, strict=True))
    if x.dim() != 1 or x.shape != y.shape:
        raise FormatError(f"trace: got operands of shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed: two of one length")
    given_a, given_b = fed(_row(a), mac, "input"), fed(_column(b), mac, "weight")
    if given_a.factors or given_b.factors:
        raise FormatError("trace: got a scale of a whole operand, which acts on the unit's result; allowed: scales of blocks")
    scales_a, scales_b = block_scales(given_a, given_b, mac)
    mac = narrowed(mac, a, b)
    pa, pb = port(mac, "input", given_a.values, scales_a), port(mac, "weight", given_b.values, scales_b)
    x, y = given_a.values[0], given_b.values[:, 0]
    scale_a, scale_b = None if scales_a is None else scales_a[0], None if scales_b is None else scales_b[:, 0]
    terms = reference.Terms(
        pa.values[0].tolist(), pb.values[:, 0].tolist(),
        None if pa.scales is None else pa.scales[0].tolist(), None if pb.scales is None else pb.scales[:, 0].tolist(),
        pa.min_exponent, pb.min_exponent, *output, draw,
    )  # fmt: skip
    start = None if c is None else float(entering(torch.tensor([[c]], dtype=torch.float64), mac)[0, 0])
    steps: list[Step] = []
    result = reference.dot(terms, start, mac, steps.append)
    return Trace(mac, x, y, scale_a, scale_b, start, tuple(steps), result)


def as_text(found: Trace, afterwards: Sequence[str] = ()) -> str:
    """The trace for a terminal: of every step the addends, what was cut (right of the bar), the sum, and the rounded result.

    `afterwards` are the lines that end it, where the unit's sum is not the result yet.
    """
    lines = [f"{found.mac.name or 'unit'}: {len(found.a)} terms" + ("" if found.c is None else f", C = {found.c!r}")]
    for k, (x, y) in enumerate(zip(found.a.tolist(), found.b.tolist(), strict=True)):
        lines.append(f"  k = {k}: {x!r} x {y!r} = {x * y!r}")
    for scales, name in ((found.scale_a, "A"), (found.scale_b, "B")):
        if scales is not None:
            lines.append(f"  scales of {name}: {', '.join(map(repr, scales.tolist()))}")
    for step in found.steps:
        lines += ["", *_step(step, found.mac)]
    return "\n".join([*lines, "", *(afterwards or [f"result {found.result!r}"])])


def _vector(operand: torch.Tensor | Scaled | Quantized, side: str) -> torch.Tensor:
    values = operand.values if isinstance(operand, Scaled | Quantized) else operand
    check_real(values, f"{side} operand", OPERANDS)
    return values


def _row(x: torch.Tensor | Scaled | Quantized) -> torch.Tensor | Scaled | Quantized:
    """A vector as a matrix of one row."""
    if isinstance(x, torch.Tensor):
        return x[None]
    if isinstance(x, Scaled):
        return Scaled(x.values[None], x.scales[None])
    scale = x.scale[None] if x.scale is not None and x.scale.dim() else x.scale
    layout = x.layout if x.layout.axis is None else replace(x.layout, axis=-1)
    return replace(x, values=x.values[None], elements=x.elements[None], scale=scale, layout=layout)


def _column(x: torch.Tensor | Scaled | Quantized) -> torch.Tensor | Scaled | Quantized:
    """A vector as a matrix of one column."""
    row = _row(x)
    return Scaled(row.values.mT, row.scales.mT) if isinstance(row, Scaled) else transposed(row)


def _step(step: Step, mac: Mac) -> Iterator[str]:
    yield _title(step, mac)
    ulp = step.place.format.grid.ulp_exponent(abs(Fraction(step.exact))) if finite(step.exact) else None
    rows = [(part.name, part.value, step.unit) for part in step.parts]
    rows += [(f"{part.name}, cut", part.kept, None) for part in step.parts if finite(part.kept) and part.kept != part.value]
    rounding = f"{step.place.rounding} to {step.place.format}"
    rows += [("sum", step.exact, ulp), (rounding, step.result, None)]
    low, high = _range([value for _, value, _ in rows])
    width = max(len(name) for name, _, _ in rows)
    for name, value, bar in rows:
        yield f"  {name:{width}s}  {float(value):<24.17g} {_bits(value, low, high, bar)}".rstrip()
    code = code_of(step.result, step.place.format)
    yield f"  {'code':{width}s}  {code}" + ("" if step.word is None else f", random word {step.word:#010x}")


def _title(step: Step, mac: Mac) -> str:
    if step.level == 1:
        return f"product {step.k}"
    if step.level >= 2:
        return f"outer sum {step.level - 1}, from k = {step.k}"
    if step.unit is None or mac.fused is None:
        return f"sum, from k = {step.k}"
    top = step.unit + int(mac.fused.fraction_bits)
    return f"group from k = {step.k}: largest exponent {top}, {mac.fused.alignment} at 2^{step.unit}"


def code_of(value: Real, fmt: Format) -> str:
    """The code of a value in hex, as many digits as the format is wide; `-` for a NaN in a format that has none."""
    return "-" if value != value and not fmt.has_nan else codes_of(torch.tensor([float(value)], dtype=torch.float64), fmt)[0]


def codes_of(values: torch.Tensor, fmt: Format) -> list[str]:
    """The codes of a vector of values in hex, as many digits as the format is wide."""
    mask, digits = (1 << fmt.bits) - 1, -(-fmt.bits // 4)
    return [f"{code & mask:0{digits}x}" for code in fmt.encode(values).tolist()]


def _range(values: list[Real]) -> tuple[int, int]:
    """The exponents of the last and the first bit of any of the values."""
    exact = [abs(Fraction(value)) for value in values if finite(value) and value != 0]
    lows = [_last(x) for x in exact]
    highs = [_last(x) + (x.numerator // (x.numerator & -x.numerator)).bit_length() - 1 for x in exact]
    return min(lows, default=0), max(highs, default=0)


def _last(x: Fraction) -> int:
    """The exponent of the last bit that is set."""
    return (x.numerator & -x.numerator).bit_length() - x.denominator.bit_length()


def _bits(value: Real, low: int, high: int, bar: int | None) -> str:
    """The bits from 2^high to 2^low, with a point after 2^0 and a bar after 2^bar."""
    if not finite(value) or high - low >= MAX_BITS:
        return ""
    digits = f"{int(abs(Fraction(value)) * Fraction(2) ** -low):0{high - low + 1}b}"
    marks = [digit + ("." if e == 0 and low < 0 else "") + ("|" if e == bar else "")
             for e, digit in zip(range(high, low - 1, -1), digits, strict=True)]  # fmt: skip
    return ("-" if sign(value) < 0 else "+") + "".join(marks)
