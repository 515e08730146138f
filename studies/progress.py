"""What a user sees while a study runs: a live line, a line of JSON for each event, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .worker import Finished

Tell = Callable[[Finished], None]


class Progress(Protocol):
    """Shows how a study comes along."""

    def of(self, total: int, already: int, workers: int) -> AbstractContextManager[Tell]:
        """For a study of `total` runs, of which `already` are finished, on so many workers: what to call for each that ends."""
        ...


class Live:
    """One line that is drawn anew: runs done, running, failed, and the time left. Failures are told as they come."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def of(self, total: int, already: int, workers: int) -> Iterator[Tell]:
        """See `Progress.of`."""
        columns = [SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        with Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(_words(workers, 0, 0), total=total, completed=already)
            counts = {"done": already, "diverged": 0, "failed": 0, "elsewhere": 0}

            def tell(result: Finished) -> None:
                counts[result.status] += 1
                running = min(workers, total - sum(counts.values()))
                bar.update(task, advance=1, description=_words(running, counts["diverged"], counts["failed"]))
                if result.status == "failed":
                    bar.console.print(f"[red]failed[/red] {result.id}: {escape(result.error)}", highlight=False)

            yield tell


class Events:
    """A line of JSON for the start, each run that ends, and the end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    @contextmanager
    def of(self, total: int, already: int, workers: int) -> Iterator[Tell]:
        """See `Progress.of`."""
        counts = {"done": 0, "diverged": 0, "failed": 0, "elsewhere": 0}
        started = time.monotonic()
        self._event(event="start", total=total, already=already, workers=workers)

        def tell(result: Finished) -> None:
            counts[result.status] += 1
            ended = sum(counts.values())
            left = total - already - ended
            event = {"event": "run", "id": result.id, "status": result.status, "seconds": round(result.seconds, 3)}
            event |= {**counts, "running": min(workers, left), "left": left}
            event["seconds_left"] = round((time.monotonic() - started) / ended * left, 1)
            self._event(**event, **({"error": result.error} if result.error else {}))

        yield tell
        self._event(event="end", **counts)

    def _event(self, **fields: object) -> None:
        self.write(json.dumps(fields))


class Quiet:
    """Says nothing but what failed."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    @contextmanager
    def of(self, total: int, already: int, workers: int) -> Iterator[Tell]:
        """See `Progress.of`."""

        def tell(result: Finished) -> None:
            if result.status == "failed":
                self.write(f"failed {result.id}: {result.error}")

        yield tell


def _words(running: int, diverged: int, failed: int) -> str:
    words = [f"{running} running"]
    words += [f"{diverged} diverged"] if diverged else []
    words += [f"[red]{failed} failed[/red]"] if failed else []
    return ", ".join(words)
