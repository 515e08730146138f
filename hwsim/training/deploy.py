"""From what the hardware stores back to the network's outputs: whether they are those of the trained network, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import _disable_current_modes

from hwsim.casting import elements
from hwsim.casts import Cast, Channel, Granularity, Group
from hwsim.datapaths import Datapath
from hwsim.emulator import emulate
from hwsim.errors import ConfigError
from hwsim.macs import Mac, mac, matmul

from .hardware import HardwareWeight, parametrized


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


def check_deployment(
    model: nn.Module,
    weights: Mapping[str, HardwareWeight],
    inputs: torch.Tensor,
    layer: HardwareLayer | None = None,
    datapath: Datapath | str | Mapping[str, Any] | None = None,
) -> DeploymentCheck:
    """Whether the network gives the same outputs, bit for bit, with its layers computed from codes and scales.

    Every layer called with one input whose `weight` was stored is computed anew, also where it shares it with others; what
    `to_hardware` stored beyond them (attention's projections, a table of embeddings) is equal to training's, bit for bit, and is
    left where it is.

    Args:
        model: as trained; it is run in its present mode, without gradients.
        weights: from `to_hardware`.
        inputs: one batch.
        layer: computes a layer from its stored weight: `unscaled_layer` unless given, `unit_layer` for a dot-product unit.
        datapath: the machine that training was emulated on; what the hardware is held against is then the emulated network, and
            all but the stored layers runs on that machine in both.

    Raises:
        ConfigError: a weight that the model lacks, or none of a layer that runs: nothing would be compared.
    """
    stored = _stored_layers(model, weights)
    modules = {name: module for name, module in model.named_modules() if name in stored}
    trained: dict[str, torch.Tensor] = {}
    deployed: dict[str, torch.Tensor] = {}
    compute = layer or unscaled_layer
    expected = _run(model, modules, inputs, lambda name, _, output: trained.update({name: output.clone()}), datapath)
    if not trained:
        given = ", ".join(weights) or "none"
        raise ConfigError(f"check_deployment weights: got {given}; allowed: at least one `weight` of a layer that the model runs")

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
    """A layer as an accelerator computes it: on unscaled elements, its result scaled once, then the bias.

    This holds for linear layers and convolutions of a batch whose scales are one a tensor or one an output channel, the weight's
    first axis. For other scales, which are shared along the contracted axis, and for other layers the scales are multiplied into
    the elements beforehand.
    """
    if not (_scales_outputs(weight.share) and _has_outputs_first(module, x)):
        return _called(module, {"weight": weight.values()}, x)
    bias = getattr(module, "bias", None)
    no_bias = {} if bias is None else {"bias": torch.zeros_like(bias)}
    product = _called(module, {"weight": weight.elements(), **no_bias}, x)
    shape = (-1,) if isinstance(module, nn.Linear) else (-1, *[1] * (product.ndim - 2))
    scaled = product * weight.scales.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def _scales_outputs(share: Granularity) -> bool:
    return not isinstance(share, Group) and not (isinstance(share, Channel) and share.channel != 0)


def _has_outputs_first(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether the weight's first axis is the outputs' last (linear layers) or second one (convolutions of a batch)."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return x.ndim == len(module.kernel_size) + 2
    return isinstance(module, nn.Linear)


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
        if not _scales_outputs(weight.share):
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
        or x.ndim != 4
    ):
        raise ConfigError(
            f"unit_layer: got {module} with an input of {x.ndim} axes; allowed: Linear, and Conv2d in one group with a padding "
            "of zeros in numbers and an input of 4"
        )
    patches = unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    windows = zip(x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True)
    size = [(n + 2 * pad - gap * (k - 1) - 1) // stride + 1 for n, pad, gap, k, stride in windows]
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return rows, lambda y: y.reshape(len(x), -1, y.shape[-1]).transpose(1, 2).reshape(len(x), -1, *size)


def _stored_layers(model: nn.Module, weights: Mapping[str, HardwareWeight]) -> dict[str, HardwareWeight]:
    """The stored `weight` of each layer by the layer's name; a weight that layers share has one name, and goes to all of them."""
    parameters = dict(model.named_parameters())
    known = {*parameters, *(name for name, _ in parametrized(model))}
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise ConfigError(f"check_deployment weights: got {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
    shared = {id(parameters[name]): weight for name, weight in weights.items() if name in parameters}
    layers = {}
    for path, module in model.named_modules():
        own = weights.get(f"{path}.weight".lstrip("."), shared.get(id(module._parameters.get("weight"))))
        if own is not None and not isinstance(module, nn.Embedding):
            layers[path] = own
    return layers


def _called(module: nn.Module, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = torch.func.functional_call(_without_parametrizations(module), parameters, (x,))
    return output


def _without_parametrizations(module: nn.Module) -> nn.Module:
    """The module itself, or one that shares all with it but has plain tensors: a parametrization would change those put in."""
    if not parametrize.is_parametrized(module):
        return module
    plain: nn.Module = object.__new__(parametrize.type_before_parametrizations(module))
    made = {own: getattr(module, own).detach() for own in module.parametrizations}  # type: ignore[union-attr]
    children = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    plain.__dict__.update(module.__dict__, _parameters={**module._parameters, **made}, _modules=children)
    return plain


def _run(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    inputs: torch.Tensor,
    see: Callable[[str, torch.Tensor, torch.Tensor], Any],
    datapath: Datapath | str | Mapping[str, Any] | None,
) -> torch.Tensor:
    machine = nullcontext() if datapath is None else emulate(model, datapath)
    handles = [
        m.register_forward_hook(lambda _, args, output, n=n: see(n, args[0], output) if len(args) == 1 else None)
        for n, m in modules.items()
    ]
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
