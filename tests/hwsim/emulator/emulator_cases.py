"""Small networks, losses and optimizers that the emulator's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(8, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 12, bias=False), nn.SiLU(), nn.Linear(12, 4)
        )


class DigitsCnn(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )


class Residual(nn.Module):
    """A strided residual block, as ResNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(2, 4, 1, stride=2, bias=False)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(y + self.shortcut(x)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    """Causal self-attention by scaled_dot_product_attention, or written out."""

    def __init__(self, width: int = 8, heads: int = 2, written_out: bool = False) -> None:
        super().__init__()
        self.heads, self.written_out = heads, written_out
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.written_out:
            y = (q @ k.transpose(-1, -2) / (c // self.heads) ** 0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.RMSNorm(8)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Two blocks over token embeddings; the head shares the embedding's weight."""

    def __init__(self, checkpointing: bool | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight
        self.checkpointing = checkpointing

    def forward(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x) if self.checkpointing is None else checkpoint(block, x, use_reentrant=self.checkpointing)
        return self.head(x)


class Conv1D(nn.Module):
    """A linear layer that stores (input, output) features, as GPT-2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4) / 3)
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)


class Encoder(nn.Module):
    """torch's own encoder layer, with its fast path in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Strided(nn.Module):
    """Convolutions in 1, 2 and 3 dimensions, grouped, dilated and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 4, 3, stride=2, padding=2, dilation=2, groups=2)
        self.plane = nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.space = nn.Conv3d(2, 2, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(x)
        x = self.plane(x.view(x.shape[0], 2, 2, -1))
        return self.space(x.view(x.shape[0], 2, 2, x.shape[2], -1)).flatten(1)


def _inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (Mlp, lambda: _inputs(6, 8)),
    "digits_cnn": (DigitsCnn, lambda: _inputs(6, 1, 8, 8)),
    "residual": (Residual, lambda: _inputs(5, 2, 8, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: _inputs(4, 3, 5)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: _inputs(4, 3, 5)),
    "transformer": (Transformer, lambda: torch.arange(12).view(2, 6) % 11),
    "written_out_attention": (lambda: Attention(written_out=True), lambda: _inputs(2, 4, 8)),
    "encoder": (Encoder, lambda: _inputs(2, 4, 8)),
    "conv1d_layer": (Conv1D, lambda: _inputs(6, 8)),
    "strided": (Strided, lambda: _inputs(2, 4, 12)),
}

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "sgd_momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    "adam_foreach": (torch.optim.Adam, {"lr": 0.01, "foreach": True}),
    "adamw_fused": (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    "sgd_fused": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
}


def model_of(name: str) -> nn.Module:
    """A freshly initialised network, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name][0]()


def input_of(name: str) -> Tensor:
    """Its input, the same at every call."""
    return MODELS[name][1]()


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    kind, options = OPTIMIZERS[name]
    return kind(model.parameters(), **options)


def loss_of(output: Tensor) -> Tensor:
    """A cross entropy against classes that count up."""
    rows = output.reshape(-1, output.shape[-1])
    return F.cross_entropy(rows, torch.arange(len(rows)) % rows.shape[1])


def train(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 2) -> list[float]:
    """The losses of some training steps."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model(x))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@contextmanager
def unfused(recurrent: bool) -> Iterator[None]:
    """Plain torch with the kernels that the emulator uses."""
    fast, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = mkldnn and not recurrent
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = mkldnn


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """Parameters, buffers, gradients and optimizer states by name."""
    found = dict(model.state_dict())
    found |= {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    for i, state in enumerate(optimizer.state.values() if optimizer else ()):
        found |= {f"state{i}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    return {name: x.detach().clone() for name, x in found.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The names whose tensors differ in any bit."""
    return [name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]


def on_grid(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a dtype holds every element."""
    return torch.equal(x.to(dtype).to(x.dtype), x)
