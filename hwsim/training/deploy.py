"""From trained weights to what the hardware stores, with proof, and from there back to the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hwsim.casts import Channel, Granularity, Group
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
        """The weight."""
        return from_rows(to_rows(self.elements(), self.share) * self.scales, self.codes.shape, self.share)


@dataclass(frozen=True)
class LayerCheck:
    """A layer's output on the hardware against training's: elements that differ in any bit, and the largest difference."""

    name: str
    elements: int
    different: int
    largest: float

    def __str__(self) -> str:
        verdict = "equal" if not self.different else f"{self.different} of {self.elements} differ, by {self.largest:g} at most"
        return f"{self.name}: {verdict}"


@dataclass(frozen=True)
class DeploymentCheck:
    """The layers in the order in which they ran, then the logits."""

    layers: tuple[LayerCheck, ...]
    logits: LayerCheck

    @property
    def exact(self) -> bool:
        """Whether the logits are equal bit for bit."""
        return not self.logits.different

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.layers, self.logits)))


HardwareLayer = Callable[[nn.Module, HardwareWeight, torch.Tensor], torch.Tensor]


def to_hardware(
    model: nn.Module, fmt: Format, share: Any = "tensor", names: Iterable[str] | None = None
) -> dict[str, HardwareWeight]:
    """The weights as codes of a format and scales, with proof that each is exactly a value of the format times its scale.

    The scale of a row is its largest magnitude over a value of the format, the largest value that fits every element.

    Args:
        model: trained; its weights are read.
        fmt: at most 16 bits.
        share: what shares a scale: "tensor", {"channel": axis} or {"group": size}.
        names: parameters; the weights of all linear and convolution layers unless given.

    Raises:
        ConfigError: a weight off the grid (the text has its quantization rate and first such element), an unknown name.
    """
    parameters = dict(model.named_parameters())
    weights = {id(w) for w in split_parameters(model)[0]}
    chosen = [n for n, p in parameters.items() if id(p) in weights] if names is None else list(names)
    unknown = [name for name in chosen if name not in parameters]
    if unknown:
        raise ConfigError(f"to_hardware names: got {unknown[0]!r}; allowed: {', '.join(parameters)}")
    return {name: _stored(name, parameters[name].detach(), fmt, granularity(share)) for name in chosen}


def check_deployment(
    model: nn.Module, weights: Mapping[str, HardwareWeight], inputs: torch.Tensor, layer: HardwareLayer | None = None
) -> DeploymentCheck:
    """Whether the network gives the same outputs, bit for bit, with its layers computed from codes and scales.

    Args:
        model: as trained; it is run in its present mode, without gradients.
        weights: from `to_hardware`.
        inputs: one batch.
        layer: computes a layer from its stored weight; `unscaled_layer` unless given.
    """
    stored = {name.rpartition(".")[0]: weight for name, weight in weights.items()}
    modules = {name: module for name, module in model.named_modules() if name in stored}
    trained: dict[str, torch.Tensor] = {}
    deployed: dict[str, torch.Tensor] = {}
    compute = layer or unscaled_layer
    expected = _run(model, modules, inputs, lambda name, _, output: trained.update({name: output}))

    computing: set[str] = set()

    def replace(name: str, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if name in computing:
            return output
        computing.add(name)
        deployed[name] = compute(modules[name], stored[name], given)
        computing.remove(name)
        return deployed[name]

    logits = _run(model, modules, inputs, replace)
    layers = tuple(_compare(name, trained[name], deployed[name]) for name in trained)
    return DeploymentCheck(layers, _compare("logits", expected, logits))


def unscaled_layer(module: nn.Module, weight: HardwareWeight, x: torch.Tensor) -> torch.Tensor:
    """A linear or convolution layer as an accelerator computes it: on unscaled elements, its result scaled once, then the bias.

    Scales that are shared along the contracted axis are multiplied into the elements beforehand.
    """
    bias = getattr(module, "bias", None)
    if isinstance(weight.share, Group) or (isinstance(weight.share, Channel) and weight.share.channel != 0):
        return _called(module, {"weight": weight.values()}, x)
    no_bias = {} if bias is None else {"bias": torch.zeros_like(bias)}
    product = _called(module, {"weight": weight.elements(), **no_bias}, x)
    shape = (-1, *[1] * (product.ndim - 2)) if not isinstance(module, nn.Linear) else (-1,)
    scaled = product * weight.scales.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def _called(module: nn.Module, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = torch.func.functional_call(module, parameters, (x,))
    return output


def _run(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: torch.Tensor,
    see: Callable[[str, torch.Tensor, torch.Tensor], Any],
) -> torch.Tensor:
    handles = [m.register_forward_hook(lambda _, args, output, n=n: see(n, args[0], output)) for n, m in modules.items()]
    try:
        with torch.no_grad():
            return model(inputs)  # type: ignore[no-any-return]
    finally:
        for handle in handles:
            handle.remove()


def _compare(name: str, expected: torch.Tensor, given: torch.Tensor) -> LayerCheck:
    different = ~((expected == given) | (expected.isnan() & given.isnan()))
    largest = (expected - given).abs()[different].max().item() if bool(different.any()) else 0.0
    return LayerCheck(name, expected.numel(), int(different.sum()), largest)


def _stored(name: str, weight: torch.Tensor, fmt: Format, share: Granularity) -> HardwareWeight:
    codes = {float(fmt.decode_code(code)) + 0.0: code for code in reversed(range(1 << fmt.bits))}
    values = fmt.values().to(weight)
    rows = to_rows(weight, share)
    best, scales = _best_fit(rows, values)
    fits = rows == best
    if not bool(fits.all()):
        at = int((~fits).flatten().nonzero()[0])
        raise ConfigError(
            f"to_hardware {name}: got a quantization rate of {fits.double().mean().item():.2%} on {fmt}, first off the grid: "
            f"{rows.flatten()[at].item()!r} in row {at // rows.shape[1]}; allowed: values of the format times the row's scale"
        )
    place = (rows / scales).unsqueeze(-1).sub(values).abs().argmin(-1) if rows.numel() else rows.long()
    table = torch.tensor([codes[v] for v in fmt.values().double().tolist()], device=weight.device)
    return HardwareWeight(fmt, from_rows(table[place], weight.shape, share), scales, share)


def _best_fit(rows: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's nearest elements (a value times a scale, rounded), for the scale that leaves fewest off the grid."""
    amax = rows.abs().amax(-1, keepdim=True)
    middles = (values[1:] + values[:-1]) / 2
    best, scales = torch.zeros_like(rows), torch.ones_like(amax)
    fewest = (rows != best).sum(-1, keepdim=True)
    for magnitude in sorted({abs(v) for v in values.tolist() if v}, reverse=True):
        first = amax / magnitude
        for scale in (first, torch.nextafter(first, first.new_zeros(())), torch.nextafter(first, first.new_full((), torch.inf))):
            on_grid = values[torch.bucketize(rows / scale, middles)] * scale
            off = (rows != on_grid).sum(-1, keepdim=True)
            better = off < fewest
            best, scales = torch.where(better, on_grid, best), torch.where(better, scale, scales)
            fewest = torch.minimum(fewest, off)
        if not bool(fewest.any()):
            break
    return best, scales
