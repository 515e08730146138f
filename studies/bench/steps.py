"""What emulating a training step costs: ResNet-18 and a small GPT on several machines, beside the same step elsewhere."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.emulator import emulate
from hwsim.formats.backends import backends

from .measurement import Measurement

PLAIN = "plain fp32"
OPERANDS: Mapping[str, Any] = {
    "input": {"format": "fp8_e4m3fn", "scaling": "absmax"},
    "weight": {"format": "fp8_e4m3fn", "scaling": "absmax"},
    "grad_output": {"format": "fp8_e5m2", "scaling": "absmax"},
}
MACHINES: Mapping[str, Any] = {
    "identity casts": "fp32",
    "FP8 operands": {"gemm": {"all": OPERANDS}},
    "FP8 operands, bf16 vector unit": {"gemm": {"all": OPERANDS}, "vector": "bf16"},
    "MXFP8": "mxfp8",
}
WATCHED = "FP8 operands, watched for NaN as studies do"
TARGETS = {
    "resnet18": {"FP8 operands": 1.6, "FP8 operands, bf16 vector unit": 1.8, "MXFP8": 2.2},
    "gpt": {"FP8 operands": 1.8},
    "memory": {"FP8 operands": 1.3, "FP8 operands, bf16 vector unit": 1.3, "MXFP8": 1.3},
}
TRIMMED = {"MALLOC_TRIM_THRESHOLD_": str(1 << 17)}
"""glibc gives freed memory back at once, so that what is resident is what is in use."""
STEPS = 2
"""Steps that are timed in each turn, after one that is not."""


@dataclass(frozen=True)
class Measurements:
    """Several, shown one after the other."""

    parts: tuple[Measurement, ...]

    def as_dict(self) -> list[dict[str, Any]]:
        """Everything, for machines."""
        return [part.as_dict() for part in self.parts]

    def as_text(self) -> str:
        """A line a case."""
        return "\n\n".join(part.as_text() for part in self.parts)


def measure(rounds: int) -> Measurements:
    """A training step of ResNet-18 (batch 32, 32x32) and of two GPTs, and its memory."""
    threads = f"{torch.get_num_threads()} threads"
    parts = (
        timed(f"ResNet-18 step, batch 32, 32x32, {threads}", "resnet18", {**emulated(resnet18), **peers(resnet18)}, rounds),
        timed(f"GPT step, 6 layers of 384, batch 2 of 256 tokens, {threads}", "gpt", emulated(character_gpt), rounds),
        timed(f"GPT step, 4 layers of 128, batch 8 of 64 tokens, {threads}", "gpt", emulated(small_gpt), rounds),
        memory("peak memory of the ResNet-18 step", TRIMMED, TARGETS["memory"]),
        memory("the same with what glibc keeps of freed memory by default", {}, {}),
    )
    return Measurements(parts)


@dataclass(frozen=True)
class Trainee:
    """A model with its inputs and labels."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        outputs = self.model(self.inputs)
        F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


Make = Callable[[], Trainee]
Running = Callable[[], Any]
"""Opens a context in which steps run, and gives the step."""


def resnet18() -> Trainee:
    """torchvision's, on random images."""
    from torchvision.models import resnet18 as make

    torch.manual_seed(0)
    model = make(num_classes=10)
    return _trainee(model, torch.randn(32, 3, 32, 32), torch.arange(32) % 10)


def character_gpt() -> Trainee:
    """The size of nanoGPT's model of characters: 6 layers of 384, 256 tokens; a batch of 2."""
    return gpt(layers=6, heads=6, width=384, tokens=256, batch=2)


def small_gpt() -> Trainee:
    """About the size that nanoGPT proposes for a laptop's CPU, where Python takes a good part of the time."""
    return gpt(layers=4, heads=4, width=128, tokens=64, batch=8)


def gpt(*, layers: int, heads: int, width: int, tokens: int, batch: int) -> Trainee:
    """transformers' GPT-2 on random tokens of 256 kinds."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    kinds: dict[str, Any] = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_positions=tokens, n_embd=width, n_layer=layers, n_head=heads, **kinds)
    given = torch.randint(0, 256, (batch, tokens))
    return _trainee(_Logits(GPT2LMHeadModel(config)), given, given.roll(-1, 1).reshape(-1))


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens).logits
        return logits


def _trainee(model: nn.Module, inputs: Tensor, labels: Tensor) -> Trainee:
    return Trainee(model, inputs, labels, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


def emulated(make: Make) -> dict[str, Running]:
    """The plain step, the step on each machine, and what watching adds to it."""
    cases = {PLAIN: lambda: _running(make(), None), **{name: _on(make, machine) for name, machine in MACHINES.items()}}
    return cases | {WATCHED: lambda: _running(make(), MACHINES["FP8 operands"], watch=True)}


def _on(make: Make, machine: Any) -> Running:
    return lambda: _running(make(), machine)


@contextmanager
def _running(trainee: Trainee, machine: Any, watch: bool = False) -> Iterator[Callable[[], None]]:
    block = nullcontext() if machine is None else emulate(trainee.model, machine, optimizer=trainee.optimizer, watch=watch)
    with block:
        yield trainee.step


def peers(make: Make) -> dict[str, Running]:
    """The step with FP8 operands by what is installed of qtorch, torchao and Brevitas."""
    found: dict[str, Running] = {}
    if backends()["qtorch"] == "available":
        found["qtorch Quantizer modules"] = lambda: _running(_replaced(make(), _qtorch), None)
    if find_spec("torchao"):
        found["torchao fake quantization (operands of the forward pass)"] = lambda: _running(_replaced(make(), _torchao), None)
    if find_spec("brevitas"):
        found["Brevitas (operands of the forward pass)"] = lambda: _running(_replaced(make(), _brevitas), None)
    return found


class _Quantized(nn.Module):
    """A layer whose input and weight, and the gradient of whose output, go through modules."""

    def __init__(self, layer: nn.Module, operand: Callable[[], Any], gradient: Callable[[], Any]) -> None:
        super().__init__()
        self.layer, self.of_input, self.of_weight, self.of_gradient = layer, operand(), operand(), gradient()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.of_weight(self.layer.weight)
        y = torch.func.functional_call(self.layer, {"weight": weight}, self.of_input(x))
        result: Tensor = self.of_gradient(y)
        return result


def _replaced(trainee: Trainee, quantized: Callable[[nn.Module], nn.Module]) -> Trainee:
    for module in list(trainee.model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d | nn.Linear):
                setattr(module, name, quantized(child))
    return _trainee(trainee.model, trainee.inputs, trainee.labels)


def _qtorch(layer: nn.Module) -> nn.Module:
    from qtorch import FloatingPoint
    from qtorch.quant import Quantizer

    def operand() -> nn.Module:
        made: nn.Module = Quantizer(forward_number=FloatingPoint(exp=4, man=3), forward_rounding="nearest")
        return made

    def gradient() -> nn.Module:
        made: nn.Module = Quantizer(backward_number=FloatingPoint(exp=5, man=2), backward_rounding="nearest")
        return made

    return _Quantized(layer, operand, gradient)


def _torchao(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.granularity import PerTensor
        from torchao.quantization.qat import Float8FakeQuantizeConfig
        from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

    config = Float8FakeQuantizeConfig(torch.float8_e4m3fn, PerTensor())
    return _Quantized(layer, lambda: FakeQuantizerBase.from_config(config), nn.Identity)


def _brevitas(layer: nn.Module) -> nn.Module:
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant.experimental.float_quant_ocp import Fp8e4m3OCPActPerTensorFloat, Fp8e4m3OCPWeightPerTensorFloat

    quantizers = {"weight_quant": Fp8e4m3OCPWeightPerTensorFloat, "input_quant": Fp8e4m3OCPActPerTensorFloat}
    made: nn.Module
    if isinstance(layer, nn.Conv2d):
        keys = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")
        made = QuantConv2d(**{key: getattr(layer, key) for key in keys}, bias=layer.bias is not None, **quantizers)
    else:
        made = QuantLinear(layer.in_features, layer.out_features, layer.bias is not None, **quantizers)
    return made


def timed(title: str, kind: str, cases: Mapping[str, Running], rounds: int) -> Measurement:
    """The shortest step of interleaved turns: a machine's block is entered anew in each, and its first step not counted."""
    times: dict[str, float] = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, running in cases.items():
            with running() as step:
                step()
                for _ in range(STEPS):
                    start = time.perf_counter()
                    step()
                    times[name] = min(times[name], time.perf_counter() - start)
    base = times[PLAIN]
    return Measurement(title, PLAIN, base, {name: spent / base for name, spent in times.items()}, TARGETS[kind])


def memory(title: str, environment: Mapping[str, str], targets: Mapping[str, float]) -> Measurement:
    """The peak of two steps in a fresh process for each machine, in ratios."""
    names = [PLAIN, *MACHINES]
    peaks = {name: _peak(name, environment) for name in names}
    ratios = {name: peak / peaks[PLAIN] for name, peak in peaks.items()}
    return Measurement(title, PLAIN, peaks[PLAIN] / 2**20 / 1e3, ratios, targets, unit="MiB")


def _peak(name: str, environment: Mapping[str, str]) -> int:
    command = [sys.executable, "-m", "hwsim.studies.bench.steps", json.dumps({"machine": MACHINES.get(name)})]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return int(done.stdout)


def _report_peak(machine: Any) -> None:
    """Print by how many bytes the resident set grew at most in two training steps, from before the model was made (Linux)."""
    import torchvision.models  # noqa: F401  (what it loads is no part of the step)

    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    small = _trainee(nn.Sequential(*layers), torch.randn(2, 3, 8, 8), torch.arange(2))
    with _running(small, machine) as step:  # kernels are compiled or loaded
        step()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
        refs.write("5")  # the peak starts again at what is resident now
    before = _resident("VmRSS")
    with _running(resnet18(), machine) as step:
        step()
        step()
    print(_resident("VmHWM") - before)


def _resident(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(key))


if __name__ == "__main__":
    _report_peak(json.loads(sys.argv[1])["machine"])
