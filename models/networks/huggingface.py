"""Networks of the package transformers, made from configurations: nothing is downloaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..optional import optional


class CausalLanguageModel(nn.Module):
    """A language model of transformers, from symbols (samples, positions) to scores (samples, positions, vocabulary)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of each next symbol."""
        scores: Tensor = self.network(symbols, use_cache=False).logits
        return scores


def gpt2(vocabulary: int, *, context: int, layers: int, heads: int, width: int) -> CausalLanguageModel:
    """`GPT2LMHeadModel` without dropout; its embedding is its output layer too.

    Raises:
        TaskError: transformers is not installed.
    """
    package = transformers("'gpt2'", "network")
    configuration = package.GPT2Config(
        vocab_size=vocabulary, n_positions=context, n_layer=layers, n_head=heads, n_embd=width,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return CausalLanguageModel(package.GPT2LMHeadModel(configuration))


def llama(
    vocabulary: int, *, context: int, layers: int, heads: int, key_value_heads: int, width: int, tied: bool
) -> CausalLanguageModel:
    """`LlamaForCausalLM`: rotary positions, RMS norms, gated units of 8/3 the width in steps of 8, grouped key-value heads.

    Raises:
        TaskError: transformers is not installed.
    """
    package = transformers("'char_llama'", "name")
    configuration = package.LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=context, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_value_heads, hidden_size=width, intermediate_size=-(-width // 3) * 8,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return CausalLanguageModel(package.LlamaForCausalLM(configuration))


def transformers(what: str, field: str) -> Any:
    """The package transformers.

    Raises:
        TaskError: it is not installed; `what` of the option `field` needs it.
    """
    return optional("transformers", "transformers", "hf", what, field)
