"""What an executor is: it takes runs and hands back what came of each, in the order in which they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..schema import Run
from ..worker import Finished

Work = Callable[[Run], Finished]
"""Performs one run and stores its result; it can be pickled, and may be called in any process."""

Handle = TypeVar("Handle", bound=Hashable)


class Executor(Protocol):
    """Performs runs somewhere.

    Args of an executor's constructor: `workers`, how many runs at a time, or None for its own choice; `needs`, what one of
    them takes.
    """

    workers: int

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """Perform the runs; results come as they are ready. Closing the generator ends the workers.

        A run whose worker dies is `failed`, and the others go on.
        """
        ...


def kept_busy(
    runs: Sequence[Run],
    width: int,
    start: Callable[[Run], Handle],
    ended: Callable[[Mapping[Handle, Run]], tuple[Handle, Finished]],
) -> Generator[Finished, None, None]:
    """Perform runs with at most `width` of them under way: an engine holds no queue that a dying worker could take along.

    Args:
        runs: to perform.
        width: from 1 on.
        start: begins a run.
        ended: waits for one of those under way and says what came of it.
    """
    waiting, under_way = deque(runs), dict[Handle, Run]()
    while waiting or under_way:
        while waiting and len(under_way) < width:
            run = waiting.popleft()
            under_way[start(run)] = run
        handle, finished = ended(under_way)
        del under_way[handle]
        yield finished
