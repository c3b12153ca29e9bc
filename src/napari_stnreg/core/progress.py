"""Run generators of progress: long work yields its progress, accepts commands, and returns its result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

Item = TypeVar("Item")
Converted = TypeVar("Converted")
ReturnType = TypeVar("ReturnType")


def run_to_completion(
    steps: Generator[Item, Any, ReturnType],
    progress: Callable[[Item], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ReturnType:
    """Run a generator to its end and return its result.

    Parameters
    ----------
    steps
        A generator that was not started yet. It is closed in any case.
    progress
        Called with every yielded item.
    stop
        Called after every item. Once it returns true, the generator receives ``"stop"``, which ends it with the best
        result so far.

    Returns
    -------
    object
        The return value of the generator.
    """
    with closing(steps):
        try:
            item = next(steps)
            while True:
                if progress is not None:
                    progress(item)
                item = steps.send("stop") if stop is not None and stop() else next(steps)
        except StopIteration as end:
            result: ReturnType = end.value
            return result


def map_progress(
    steps: Generator[Item, Any, ReturnType], convert: Callable[[Item], Converted]
) -> Generator[Converted, Any, ReturnType]:
    """Convert every item of a generator; commands are passed on and the result is returned unchanged.

    Parameters
    ----------
    steps
        A generator that was not started yet. It is closed in any case.
    convert
        Called with every item; its return value is yielded instead.
    """
    with closing(steps):
        try:
            item = next(steps)
            while True:
                command = yield convert(item)
                item = next(steps) if command is None else steps.send(command)
        except StopIteration as end:
            result: ReturnType = end.value
            return result
