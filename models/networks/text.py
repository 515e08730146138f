"""Language models: they map symbols (samples, positions) to scores (samples, positions, vocabulary) of each next symbol."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return y


class Gpt(nn.Module):
    """A causal transformer with the blocks and the initialization of GPT-2, no dropout, and an output layer of its own.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.

    Args:
        vocabulary: number of symbols.
        context: the most positions in an input.
        layers: number of blocks.
        heads: of the attention; they share `width` evenly.
        width: of the residual stream, a multiple of `heads`.
    """

    def __init__(self, vocabulary: int, *, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                ends_a_branch = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ends_a_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of each next symbol."""
        places = torch.arange(symbols.shape[1], device=symbols.device)
        scores: Tensor = self.head(self.norm(self.blocks(self.symbols(symbols) + self.positions(places))))
        return scores


class CharLstm(nn.Module):
    """An embedding, `layers` LSTM layers and a linear layer, all `width` wide; the state starts at zero in every sample."""

    def __init__(self, vocabulary: int, *, layers: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of each next symbol."""
        scores: Tensor = self.head(self.lstm(self.symbols(symbols))[0])
        return scores
