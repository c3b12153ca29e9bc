"""Long work is a generator: it yields what it is at, takes ``send("stop")``, and returns its result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def finish(
    steps: Generator[Item, Any, Outcome],
    progress: Callable[[Item], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Run a generator to its end.

    Parameters
    ----------
    steps
        Long work, not begun yet.
    progress
        Called with everything it yields.
    stop
        Asked after every step; once it says yes, the work is told ``"stop"``, which keeps what it has.

    Returns
    -------
    object
        What the generator returned. It is closed in any case.
    """
    with closing(steps):
        try:
            item = next(steps)
            while True:
                if progress is not None:
                    progress(item)
                item = steps.send("stop") if stop is not None and stop() else next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
