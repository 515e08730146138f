"""Text as int64 symbols: inputs (samples, context), targets the same windows one character further on."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TaskError, nearest
from ..task import Data


def text_of(file: str) -> str:
    """The text of a file in UTF-8, or of Python's help where `file` is empty.

    Raises:
        TaskError: the file is not there, is no UTF-8, or is empty.
    """
    if not file:
        return python_help()
    path = Path(file)
    if not path.is_file():
        beside = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise TaskError(f"file: got {file!r}, which is not there; allowed: a text file{nearest(path.name, beside)}", "file")
    try:
        found = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"file: got {file!r}, which is not UTF-8 at byte {error.start}; allowed: UTF-8", "file") from error
    if not found:
        raise TaskError(f"file: got {file!r}, which is empty; allowed: a text", "file")
    return found


def python_help() -> str:
    """The text of Python's `help()` topics: English and code, about 465,000 characters, of the running Python's version."""
    from pydoc_data.topics import topics

    return "".join(topics.values())


def sentences(text: str, count: int, seed: int) -> list[str]:
    """`count` of the text's distinct sentences of 40 to 200 characters, in an order that the seed decides.

    A sentence ends in `.`, `!` or `?` before white space and a capital letter; white space within it becomes one space.

    Raises:
        TaskError: there are not so many.
    """
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split()))
    distinct = [*dict.fromkeys(sentence for sentence in found if 40 <= len(sentence) <= 200)]
    if count > len(distinct):
        raise TaskError(f"sentences: got {count}; allowed for this text: at most {len(distinct)}", "sentences")
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    return [distinct[number] for number in order[:count].tolist()]


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
