"""One element of a GEMM's result on an emulated unit: its dot product, and what follows the unit's sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hwsim.casts import Cast
from hwsim.emulator.observing import Dots
from hwsim.formats import Draw
from hwsim.macs import Mac, Operands, Scaled
from hwsim.macs.matmul import result_shape
from hwsim.macs.operands import port
from hwsim.macs.quantized import SIDES, Fed, epilogue, fed, narrowed
from hwsim.macs.trace import Trace, as_text, trace


@dataclass(frozen=True)
class Taken:
    """The operands of a GEMM as its unit takes them, and the rest of its `Dots`, which nothing writes any more."""

    a: Fed
    b: Fed
    mac: Mac
    dots: Dots

    @classmethod
    def of(cls, dots: Dots) -> Taken:
        """Copies of what the unit was given: the program may write its weights, and in place its activations."""
        a, b = (_copied(fed(x, dots.mac, side)) for x, side in zip((dots.a, dots.b), SIDES, strict=True))
        addend = None if dots.addend is None else dots.addend.detach().clone()
        factors = tuple(factor.clone() for factor in dots.factors)
        rest = replace(dots, a=a.values, b=b.values, factors=factors, addend=addend)
        return cls(a, b, narrowed(dots.mac, dots.a, dots.b), rest)

    def dot(self, out: Tensor, element: tuple[int, ...], cast: Cast | None) -> Dot:
        """The dot product behind an element of the result that was handed on, after its cast where there is one."""
        shape = result_shape(self.a.values, self.b.values)
        count = shape.numel()
        output = int(self.dots.fold(torch.arange(count, dtype=torch.float64).reshape(shape))[element])
        *batch, i, j = (int(n) for n in torch.unravel_index(torch.tensor(output), shape))

        def lane(x: Tensor, side: int) -> Tensor:
            matrix = x.expand(*shape[:-2], *x.shape[-2:])[tuple(batch)]
            return (matrix[i] if side == 0 else matrix[:, j]).detach().cpu()

        operands: list[Tensor | Scaled] = []
        formats = []
        for side, (name, given) in enumerate(zip(SIDES, (self.a, self.b), strict=True)):
            values = lane(given.values, side)
            formats.append(port(self.mac, name, given.values.detach().cpu(), None).format)
            if self.a.scales is None and self.b.scales is None:
                operands.append(values)
            else:
                block = self.mac.scales.block if self.mac.scales is not None else 1
                ones = torch.ones(-(-len(values) // block))
                operands.append(Scaled(values, ones if given.scales is None else lane(given.scales, side)))
        mac = self.mac
        if mac.operands is not None:
            # The format that holds all of the operand, which may not be the first that holds this row.
            ports = {name: (fmt,) for name, fmt in zip(SIDES, formats, strict=True)}
            mac = mac.model_copy(update={"operands": Operands.model_validate(ports)})
        of_unit = tuple(float(f.expand(shape).reshape(-1)[output]) for f in (*self.a.factors, *self.b.factors))
        of_fold = tuple(float(f.expand(out.shape)[element]) for f in self.dots.factors)
        addend = None if self.dots.addend is None else self.dots.addend.expand(out.shape)[element].reshape(1).cpu()
        factors = tuple(stage for stage in (of_unit, of_fold) if stage)
        a, b = operands
        return Dot(a, b, mac, self.dots.draw, (output, count), factors, self.dots.alpha, addend, out.dtype, cast)


@dataclass(frozen=True)
class Dot:
    """One dot product of an emulated unit, and what its sum goes through until it is handed on.

    Args:
        a, b: (K,) elements, with their scales where the unit takes any.
        mac, draw: the unit, and its random words.
        output: the row-major index among how many results.
        factors: scales that multiply the sum, as `hwsim.macs.quantized.epilogue` does, one epilogue after another.
        alpha: what multiplies it then.
        addend: what is added last, (1,), or None.
        dtype: of the result.
        cast: that of the result, or None.
    """

    a: Tensor | Scaled
    b: Tensor | Scaled
    mac: Mac
    draw: Draw
    output: tuple[int, int]
    factors: tuple[tuple[float, ...], ...]
    alpha: float
    addend: Tensor | None
    dtype: torch.dtype
    cast: Cast | None

    def text(self, handed_on: float) -> str:
        """The unit's steps bit by bit, what follows them, and the result; what was handed on where a cast follows that.

        A product of torch's own has no steps.
        """
        if self.mac.is_native:
            return NATIVE
        found = trace(self.a, self.b, self.mac, None, self.draw, self.output)
        return as_text(found, self._afterwards(found, handed_on))

    def _afterwards(self, found: Trace, handed_on: float) -> Sequence[str]:
        x = torch.tensor([found.result], dtype=self.mac.outermost.format.carrier)
        lines = [f"sum {found.result!r}"]
        for stage in self.factors:
            x = epilogue(x, [torch.tensor(factor, dtype=x.dtype) for factor in stage], None)
            lines.append(f"  times the scales {' x '.join(map(repr, stage))}: {float(x)!r}")
        if self.alpha != 1:
            x = x * self.alpha
            lines.append(f"  times alpha {self.alpha!r}: {float(x)!r}")
        if self.addend is not None:
            x = x + self.addend
            lines.append(f"  plus C {float(self.addend)!r}: {float(x)!r}")
        result = f"result {float(x.to(self.dtype))!r}"
        if self.cast is None:
            return [*lines, result] if len(lines) > 1 else [result]
        return [*lines, result, f"handed on {handed_on!r}, after its cast to {self.cast}"]


NATIVE = "torch's own product, whose order of summation is not defined"


def _copied(x: Fed) -> Fed:
    scales = None if x.scales is None else x.scales.clone()
    return Fed(x.values.detach().clone(), scales, tuple(factor.clone() for factor in x.factors))
