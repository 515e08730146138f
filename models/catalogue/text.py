"""Prediction of the next character, in the text of Python's own help or in a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from ..datasets.text import text_of, vocabulary, windows
from ..errors import TaskError
from ..measures import accuracy, bits_per_symbol, cross_entropy
from ..networks.huggingface import gpt2, llama
from ..networks.text import CharLstm, Gpt
from ..registry import CATALOGUE, Count, OneOf
from ..task import Data, Task

NETWORKS = {"gpt2": gpt2, "torch": Gpt}
HELP = "pydoc_data.topics of the running Python (PSF-2.0); it differs between Python versions, and so does its checksum"


@CATALOGUE.register
def char_gpt(
    *,
    network: Annotated[str, OneOf(tuple(NETWORKS))] = "gpt2",
    layers: Count = 2,
    heads: Count = 4,
    width: Count = 64,
    context: Count = 64,
    file: str = "",
) -> Task:
    """A small causal transformer on text: GPT-2 of the package transformers, or its blocks in plain `torch`."""
    _check_multiple("width", width, heads, f"{heads} heads")
    make = partial(NETWORKS[network], context=context, layers=layers, heads=heads, width=width)
    return _language_model(make, context, file)


@CATALOGUE.register
def char_llama(
    *,
    layers: Count = 2,
    heads: Count = 4,
    key_value_heads: Count = 2,
    width: Count = 64,
    context: Count = 64,
    tied: bool = False,
    file: str = "",
) -> Task:
    """A small Llama of the package transformers on text: rotary positions, RMS norms, gated units, grouped key-value heads."""
    _check_multiple("width", width, 2 * heads, f"{heads} heads, whose positions turn pairs of numbers")
    _check_multiple("heads", heads, key_value_heads, f"{key_value_heads} key-value heads")
    make = partial(llama, context=context, layers=layers, heads=heads, key_value_heads=key_value_heads, width=width, tied=tied)
    return _language_model(make, context, file)


@CATALOGUE.register
def char_lstm(*, layers: Count = 1, width: Count = 128, context: Count = 64, file: str = "") -> Task:
    """An LSTM on text, whose state starts at zero in every window."""
    return _language_model(partial(CharLstm, layers=layers, width=width), context, file)


def _check_multiple(option: str, given: int, divisor: int, what: str) -> None:
    if given % divisor:
        raise TaskError(f"{option}: got {given} for {what}; allowed: a multiple of {divisor}", option)


def _language_model(network: Callable[[int], nn.Module], context: int, file: str) -> Task:
    metrics = {"bits_per_character": bits_per_symbol, "accuracy": accuracy}
    source = f"the user's {file}" if file else HELP
    return Task(partial(_model, network, file), partial(_data, context, file), cross_entropy, metrics, source)


def _model(network: Callable[[int], nn.Module], file: str) -> nn.Module:
    return network(len(vocabulary(text_of(file))))


def _data(context: int, file: str) -> Data:
    return windows(text_of(file), context)
