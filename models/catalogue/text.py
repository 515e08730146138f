"""Prediction of the next character in the text of Python's own help."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from ..datasets.text import python_help, vocabulary, windows
from ..errors import TaskError
from ..measures import accuracy, bits_per_symbol, cross_entropy
from ..networks.text import CharLstm, Gpt, HuggingFaceGpt2
from ..registry import CATALOGUE, Count, OneOf
from ..task import Data, Task

NETWORKS = {"torch": Gpt, "huggingface": HuggingFaceGpt2}
HELP = "pydoc_data.topics of the running Python (PSF-2.0); it differs between Python versions, and so does its checksum"


@CATALOGUE.register
def char_gpt(
    *,
    network: Annotated[str, OneOf(tuple(NETWORKS))] = "torch",
    layers: Count = 2,
    heads: Count = 4,
    width: Count = 64,
    context: Count = 64,
) -> Task:
    """A small causal transformer; `huggingface` takes GPT-2 of the package transformers instead of plain torch."""
    if width % heads:
        raise TaskError(f"width: got {width} for {heads} heads; allowed: a multiple of {heads}", "width")
    return _language_model(partial(NETWORKS[network], context=context, layers=layers, heads=heads, width=width), context)


@CATALOGUE.register
def char_lstm(*, layers: Count = 1, width: Count = 128, context: Count = 64) -> Task:
    """An LSTM whose state starts at zero in every window."""
    return _language_model(partial(CharLstm, layers=layers, width=width), context)


def _language_model(network: Callable[[int], nn.Module], context: int) -> Task:
    metrics = {"bits_per_character": bits_per_symbol, "accuracy": accuracy}
    return Task(partial(_model, network), partial(_data, context), cross_entropy, metrics, HELP)


def _model(network: Callable[[int], nn.Module]) -> nn.Module:
    return network(len(vocabulary(python_help())))


def _data(context: int) -> Data:
    return windows(python_help(), context)
