"""Text as int64 symbols: inputs (samples, context), targets the same windows one character further on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import TaskError
from ..task import Data


def python_help() -> str:
    """The text of Python's `help()` topics: English and code, about 465,000 characters, of the running Python's version."""
    from pydoc_data.topics import topics

    return "".join(topics.values())


def vocabulary(text: str) -> list[str]:
    """The characters of `text`, each once, in code-point order: a character's symbol is its place here."""
    return sorted(set(text))


def windows(text: str, context: int) -> Data:
    """Consecutive windows of `context` characters: the first nine tenths of the text for training, the rest for testing.

    Raises:
        TaskError: a part is shorter than one window and the character after it.
    """
    symbol = {character: number for number, character in enumerate(vocabulary(text))}
    symbols = torch.tensor([symbol[character] for character in text])
    cut = len(text) * 9 // 10
    most = len(text) - cut - 1
    if context > most:
        raise TaskError(f"context: got {context}; allowed for a text of {len(text)} characters: at most {most}", "context")
    return Data(*_windows(symbols[:cut], context), *_windows(symbols[cut:], context))


def _windows(symbols: Tensor, context: int) -> tuple[Tensor, Tensor]:
    whole = (len(symbols) - 1) // context * context
    return symbols[:whole].view(-1, context), symbols[1 : whole + 1].view(-1, context)
