"""What the tests of recipes share: small tensors, a small network, and one layer run on a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.casting import Quantized, parts
from hwsim.casts import Cast
from hwsim.catalogue import shipped
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import Machine, emulate
from hwsim.fields import format_record
from hwsim.formats import Draw

RECIPES = sorted(shipped("datapaths"))
TRAINED = [name for name in RECIPES if name.endswith(("_lsq", "_pact", "_dorefa"))]
PLAIN = [name for name in RECIPES if name not in TRAINED]
SEED = 3


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers with a few large ones, so that scales differ."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * (1 + 9 * (torch.arange(x.numel()).reshape(shape) % 37 == 0))


def everywhere(name: str) -> Datapath:
    """The recipe for every layer, the first and the last ones too."""
    return datapath(name).model_copy(update={"first": None, "last": None})


def run_layer(layer: nn.Module, x: Tensor, grad: Tensor, machine: Datapath) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input gradient and weight gradient of a layer; its site is `0`."""
    x = x.clone().requires_grad_()
    with emulate(nn.Sequential(layer), machine, seed=SEED):
        y = layer(x)
        y.backward(grad)
    return y.detach(), x.grad, layer.weight.grad


def given(cast: Cast | None, x: Tensor, where: str, axis: int) -> Quantized:
    """What a port is given: its cast at the first call of the first step, blocks along an axis; without a cast the tensor."""
    cast = cast or Cast(format=format_record("fp32"))
    kept = torch.ones(()) if cast.kept else None
    return parts(cast, x, Draw(SEED, where), axis, kept=kept)


class Net(nn.Module):
    """Convolutions (plain, and strided, padded and grouped), batch norm, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.qkv, self.project, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return self.head(self.project(F.scaled_dot_product_attention(q, k, v)).mean(1))


def train(model: nn.Module, x: Tensor, machine: Machine, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The losses of some steps against classes that count up."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = model(x)
        outputs = outputs.reshape(-1, outputs.shape[-1])
        loss = F.cross_entropy(outputs, torch.arange(len(outputs)) % outputs.shape[-1])
        machine.scale(loss).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fresh(make: Any) -> Any:
    """A network with the same initial weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()
