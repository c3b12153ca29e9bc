"""Run generators of progress: long work yields its progress, accepts commands, and returns its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Converted = TypeVar("Converted")
ReturnType = TypeVar("ReturnType")


class StopRequested(Exception):
    """Raised by :func:`check_stop` inside long operations when a stop was requested."""


class StopSignal:
    """A request to stop, which interrupts long operations once.

    A generator receives ``"stop"`` only when it yields. An operation on a large image takes longer than a user waits,
    so it checks in between (:func:`check_stop`).

    Parameters
    ----------
    stop
        Whether a stop was requested. It is passed on once: as ``"stop"`` or as :class:`StopRequested`.
    cancel
        Whether everything shall end without a result. It is passed on at every check.
    """

    def __init__(self, stop: Callable[[], bool], cancel: Callable[[], bool] = lambda: False) -> None:
        self._stop, self._cancel, self.delivered = stop, cancel, False

    def take(self) -> bool:
        """Return whether a stop was requested and not passed on yet, and mark it as passed on."""
        if self.delivered or not self._stop():
            return False
        self.delivered = True
        return True

    def check(self) -> None:
        """Raise :class:`StopRequested` if a stop is to be passed on."""
        if self._cancel() or self.take():
            raise StopRequested


class _State(threading.local):
    signal: StopSignal | None = None
    allowed: bool = False


_state = _State()


@contextmanager
def listening(signal: StopSignal) -> Iterator[None]:
    """Let a signal interrupt the operations of this thread that are :func:`interruptible`."""
    before, _state.signal = _state.signal, signal
    try:
        yield
    finally:
        _state.signal = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Allow :func:`check_stop` to raise inside the block, whose caller handles :class:`StopRequested`."""
    before, _state.allowed = _state.allowed, True
    try:
        yield
    finally:
        _state.allowed = before


def check_stop() -> None:
    """Raise :class:`StopRequested` if a stop of this thread was requested; cheap, for loops of long operations."""
    if _state.allowed and _state.signal is not None:
        _state.signal.check()


def stop_was_delivered() -> bool:
    """Return whether a stop of this thread was passed on; an operation may have ended early without saying so."""
    return _state.signal is not None and _state.signal.delivered


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
        Called after every item and inside long operations. Once it returns true, the generator receives ``"stop"``,
        which ends it with the best result so far.

    Returns
    -------
    object
        The return value of the generator.

    Raises
    ------
    KeyboardInterrupt
        If it was stopped before there was a result.
    """
    signal = StopSignal(stop or (lambda: False))
    with closing(steps), listening(signal):
        try:
            item = next(steps)
            while True:
                if progress is not None:
                    progress(item)
                item = steps.send("stop") if signal.take() else next(steps)
        except StopIteration as end:
            result: ReturnType = end.value
            return result
        except StopRequested:
            raise KeyboardInterrupt from None


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
