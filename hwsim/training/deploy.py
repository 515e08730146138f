"""From trained weights to what the hardware stores, with proof, and from there back to the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import elements
from hwsim.casts import Cast, Channel, Granularity, Group
from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.errors import ConfigError
from hwsim.formats import Format
from hwsim.macs import Mac, mac, matmul

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
        names: parameters; the weights that `split_parameters` finds unless given.

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
    model: nn.Module,
    weights: Mapping[str, HardwareWeight],
    inputs: torch.Tensor,
    layer: HardwareLayer | None = None,
    datapath: Datapath | str | Mapping[str, Any] | None = None,
) -> DeploymentCheck:
    """Whether the network gives the same outputs, bit for bit, with its layers computed from codes and scales.

    Linear and convolution layers are computed anew; what `to_hardware` stored of others (attention's projections) is equal to
    training's, bit for bit, and is left where it is.

    Args:
        model: as trained; it is run in its present mode, without gradients.
        weights: from `to_hardware`.
        inputs: one batch.
        layer: computes a layer from its stored weight: `unscaled_layer` unless given, `unit_layer` for a dot-product unit.
        datapath: the machine that training was emulated on; what the hardware is held against is then the emulated network, and
            all but the stored layers runs on that machine in both.
    """
    stored = {path: weight for path, own, weight in ((*_split(name), w) for name, w in weights.items()) if own == "weight"}
    modules = {name: module for name, module in model.named_modules() if name in stored}
    trained: dict[str, torch.Tensor] = {}
    deployed: dict[str, torch.Tensor] = {}
    compute = layer or unscaled_layer
    expected = _run(model, modules, inputs, lambda name, _, output: trained.update({name: output.clone()}), datapath)

    computing: set[str] = set()

    def replace(name: str, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if name in computing:
            return output
        computing.add(name)
        with _disable_current_modes():
            deployed[name] = compute(modules[name], stored[name], given)
            # In place: an emulator knows the output by its storage.
            output.copy_(deployed[name])
        computing.remove(name)
        return output

    logits = _run(model, modules, inputs, replace, datapath)
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


def unit_layer(cast: Cast, unit: Mac | str) -> HardwareLayer:
    """Linear and convolution layers as an accelerator computes them: codes in, one dot-product unit, scales and bias at the end.

    The input goes through `cast`; the unit multiplies its elements with the weight's, in the unit's own order and accumulator;
    the sums are multiplied by the input's scale, then by the weight's, and the bias is added.

    Args:
        cast: of the input, with one scale a tensor or none.
        unit: a dot-product unit or its name; its operand formats hold the elements of both.
    """
    chosen = mac(unit)

    def compute(module: nn.Module, weight: HardwareWeight, x: torch.Tensor) -> torch.Tensor:
        if isinstance(weight.share, Group) or (isinstance(weight.share, Channel) and weight.share.channel != 0):
            raise ConfigError(f"unit_layer: got scales per {weight.share}; allowed: one a tensor, or one an output channel")
        codes, scale = elements(cast, x)
        columns, shape = _columns(module, codes)
        sums = matmul(columns, weight.elements().flatten(1).T.contiguous(), chosen)
        sums = sums.to(x.dtype) * (1.0 if scale is None else scale) * weight.scales.reshape(1, -1)
        bias = getattr(module, "bias", None)
        return shape(sums if bias is None else sums + bias)

    return compute


def _columns(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """The rows of a layer's matrix product, and how its result becomes the layer's output."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1]), lambda y: y.reshape(*x.shape[:-1], -1)
    if (
        not isinstance(module, nn.Conv2d)
        or module.groups != 1
        or module.padding_mode != "zeros"
        or isinstance(module.padding, str)
    ):
        raise ConfigError(
            f"unit_layer: got {module}; allowed: Linear, and Conv2d in one group with a padding of zeros in numbers"
        )
    patches = unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    windows = zip(x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True)
    size = [(n + 2 * pad - gap * (k - 1) - 1) // stride + 1 for n, pad, gap, k, stride in windows]
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return rows, lambda y: y.reshape(len(x), -1, y.shape[-1]).transpose(1, 2).reshape(len(x), -1, *size)


def _split(name: str) -> tuple[str, str]:
    path, _, own = name.rpartition(".")
    return path, own


def _called(module: nn.Module, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = torch.func.functional_call(module, parameters, (x,))
    return output


def _run(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: torch.Tensor,
    see: Callable[[str, torch.Tensor, torch.Tensor], Any],
    datapath: Datapath | str | Mapping[str, Any] | None,
) -> torch.Tensor:
    machine = nullcontext() if datapath is None else emulate(model, datapath)
    handles = [m.register_forward_hook(lambda _, args, output, n=n: see(n, args[0], output)) for n, m in modules.items()]
    try:
        with machine, torch.no_grad():
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
