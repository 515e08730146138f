"""From trained weights to what the hardware stores, with proof that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from hwsim.casts import Granularity
from hwsim.errors import ConfigError
from hwsim.formats import Format

from .parq import split_parameters
from .rows import from_rows, granularity, to_rows


@dataclass(frozen=True)
class HardwareWeight:
    """A weight as the hardware stores it: value = scale * decoded code, rounded once to the weight's dtype.

    Attributes:
        format: what the codes mean. codes: int64, the weight's shape.
        scales: (rows, 1), the weight's dtype. share: what shares a scale.
    """

    format: Format
    codes: torch.Tensor
    scales: torch.Tensor
    share: Granularity

    def elements(self) -> torch.Tensor:
        """The decoded codes, not scaled, in the scales' dtype."""
        table = torch.tensor([float(self.format.decode_code(c)) for c in range(1 << self.format.bits)], dtype=torch.float64)
        return table.to(self.scales)[self.codes]

    def values(self) -> torch.Tensor:
        """The weight, contiguous: a product's last bits may depend on how its operands lie in memory."""
        return from_rows(to_rows(self.elements(), self.share) * self.scales, self.codes.shape, self.share).contiguous()


def to_hardware(
    model: nn.Module, fmt: Format, share: Any = "tensor", names: Iterable[str] | None = None
) -> dict[str, HardwareWeight]:
    """The weights as codes of a format and scales, with proof that each is exactly a value of the format times its scale.

    The scale of a row is its largest magnitude over a value of the format, the largest value that fits every element.

    Args:
        model: trained; its weights are read. A parametrized weight, as LSQ makes one, is read as the network computes with it.
        fmt: at most 16 bits.
        share: what shares a scale: "tensor", {"channel": axis} or {"group": size}.
        names: parameters and parametrized tensors; the weights that `split_parameters` finds and parametrized ones unless given.

    Raises:
        ConfigError: a weight off the grid (the text has its quantization rate and first such element), an unknown name, no weight
            at all, a wider format.
    """
    if fmt.bits > 16:
        raise ConfigError(f"to_hardware format: got {fmt} of {fmt.bits} bits; allowed: at most 16")
    made = dict(parametrized(model))
    tensors = {**dict(model.named_parameters()), **made}
    found = {*map(id, split_parameters(model)[0]), *(id(tensor) for name, tensor in made.items() if _is_weight(name, tensor))}
    chosen = [name for name, tensor in tensors.items() if id(tensor) in found] if names is None else list(names)
    unknown = [name for name in chosen if name not in tensors]
    if unknown:
        raise ConfigError(f"to_hardware names: got {unknown[0]!r}; allowed: {', '.join(tensors)}")
    if not chosen:
        raise ConfigError("to_hardware: got no weight; allowed: a model or names with at least one matrix of a layer")
    return {name: _stored(name, tensors[name].detach(), fmt, granularity(share)) for name in chosen}


def parametrized(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and values of tensors that parametrizations make."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for own in module.parametrizations:
                yield f"{path}.{own}".lstrip("."), getattr(module, own)


def _is_weight(name: str, tensor: torch.Tensor) -> bool:
    return "weight" in name.rpartition(".")[2] and tensor.ndim >= 2


def _stored(name: str, weight: torch.Tensor, fmt: Format, share: Granularity) -> HardwareWeight:
    codes = {float(fmt.decode_code(code)) + 0.0: code for code in reversed(range(1 << fmt.bits))}
    values = fmt.values().to(weight)
    rows = to_rows(weight, share).contiguous()
    best, scales = _best_fit(rows, values)
    fits = rows == best
    if not bool(fits.all()):
        at = int((~fits).flatten().nonzero()[0])
        raise ConfigError(
            f"to_hardware {name}: got a quantization rate of {fits.double().mean().item():.2%} on {fmt}, first off the grid: "
            f"{rows.flatten()[at].item()!r} in row {at // rows.shape[1]}; allowed: values of the format times the row's scale"
        )
    table = torch.tensor([codes[v] for v in fmt.values().double().tolist()], device=weight.device)
    codes_of_rows = table[_places(rows, scales, values)]
    return HardwareWeight(fmt, from_rows(codes_of_rows, weight.shape, share).contiguous(), scales, share)


def _best_fit(rows: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's nearest elements (a value times a scale, rounded), for the scale that leaves fewest off the grid."""
    amax = rows.abs().amax(-1, keepdim=True)
    best, scales = torch.zeros_like(rows), torch.ones_like(amax)
    fewest = (rows != best).sum(-1, keepdim=True)
    for magnitude in sorted({abs(v) for v in values.tolist() if v}, reverse=True):
        first = amax / magnitude
        for scale in (first, torch.nextafter(first, first.new_zeros(())), torch.nextafter(first, first.new_full((), torch.inf))):
            on_grid = values[_places(rows, scale, values)] * scale
            off = (rows != on_grid).sum(-1, keepdim=True)
            better = off < fewest
            best, scales = torch.where(better, on_grid, best), torch.where(better, scale, scales)
            fewest = torch.minimum(fewest, off)
        if not bool(fewest.any()):
            break
    return best, scales


def _places(rows: torch.Tensor, scale: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Which of the values is nearest to each element over its scale."""
    # In double: quotients rounded to bfloat16 lie half a step and more from the values of 8 bits.
    wide = values.double()
    return torch.bucketize(rows.double() / scale.double(), (wide[1:] + wide[:-1]) / 2)
