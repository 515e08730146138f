"""What a run prints, kept in a file of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

Say = Callable[[str], None]


@contextmanager
def logged(path: Path) -> Iterator[Say]:
    """Append to a file what the block prints, what it warns of, and what it is told to say, each line of that with the time.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:

        def say(text: str) -> None:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

        def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
            say(f"{category.__name__}: {message}")

        with redirect_stdout(file), redirect_stderr(file), warnings.catch_warnings():
            warnings.showwarning = show
            yield say
