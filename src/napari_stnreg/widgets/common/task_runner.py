"""Long work in the background: one worker that always ends, and a runner on the GUI thread that owns it.

A *task* is a generator function that takes a :class:`Control` last, yields whatever its panel shows, and returns its
result, or ``None`` when it was canceled. It runs in one thread, and is closed in that thread, so that a stopped or
canceled task gives its memory back at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Signal
from superqt.utils import GeneratorWorker, create_worker

from napari_stnreg.core.errors import InputError

UPDATE_SECONDS = 0.1
"""At least this long between two updates of a panel: each lets Qt draw the whole window again, canvas and all."""


class WorkerError(Exception):
    """A RuntimeError of the task; superqt would swallow it under its own name."""


class ClosingWorker(GeneratorWorker):
    """A generator worker that closes its generator in its own thread and lets no error vanish."""

    def work(self) -> Any:
        """Run the generator to its end, close it, and raise what superqt hands back as a value."""
        try:
            result = super().work()
        finally:
            self._gen.close()
            self._gen = None
        if isinstance(result, RuntimeError):
            raise WorkerError(str(result)) from result
        return result


class Control:
    """What the window tells the worker; plain events, so that it is safe from any thread."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.cancel = threading.Event()
        self.pause = threading.Event()
        self.shown = threading.Event()
        self.shown.set()

    def give_up(self, _object: Any = None) -> None:
        """End the task without a result."""
        self.cancel.set()
        self.stop.set()
        self.shown.set()


@dataclass(frozen=True)
class Step:
    """How far a task is, for a progress bar and a status line."""

    fraction: float
    message: str
    what: Any = None
    """Anything else that the panel shows on the way."""


def relay(
    steps: Generator[Any, Any, Any],
    control: Control,
    show: Callable[[Any], Step],
    note: Callable[[Any], None] | None = None,
) -> Generator[Step, None, Any]:
    """Run an engine's generator inside a task, passing on what it yields at a pace that a window can follow.

    Parameters
    ----------
    steps
        Yields progress and takes ``send("stop")``; it is closed here whatever happens.
    control
        The task's control: stop is passed on once, pause and its end as often as they change, and cancel ends at the
        next step.
    show
        What the panel shows of one item; not every item is shown.
    note
        Called with every item, for what must not be missed.

    Returns
    -------
    object
        What the generator returned; ``None`` when canceled.
    """
    last, told, paused = 0.0, False, False
    try:
        item = next(steps)
        while True:
            if control.cancel.is_set():
                return None
            if note is not None:
                note(item)
            if time.perf_counter() - last >= UPDATE_SECONDS and control.shown.is_set():
                control.shown.clear()
                yield show(item)
                last = time.perf_counter()
            if control.stop.is_set() and not told:
                told = True
                item = steps.send("stop")
            elif control.pause.is_set() != paused and not told:
                paused = not paused
                item = steps.send("pause" if paused else "resume")
            else:
                item = next(steps)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


class TaskRunner(QObject):
    """Owns the worker of the task in progress; lives on the GUI thread.

    Signals
    -------
    updated(object), finished(object), failed(Exception), canceled()
        Emitted on the GUI thread; exactly one of the last three ends a task.
    """

    updated = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    canceled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._worker: ClosingWorker | None = None
        self._control = Control()

    @property
    def running(self) -> bool:
        """Whether a worker is at work."""
        return self._worker is not None

    def start_task(self, task: Callable[..., Generator[Any, None, Any]], *arguments: Any) -> None:
        """Start a task; its control is added to the arguments.

        Raises
        ------
        InputError
            If one is running already.
        """
        if self.running:
            raise InputError("Something is being computed already; wait for it, or stop it first.")
        self._control = Control()
        # Should the window be destroyed without a word, the worker still hears of it.
        self.destroyed.connect(self._control.give_up)
        worker = create_worker(
            task, *arguments, self._control, _start_thread=False, _worker_class=ClosingWorker, _ignore_errors=True
        )
        worker.yielded.connect(self._on_yielded)
        worker.returned.connect(self._on_returned)
        worker.errored.connect(self._on_errored)
        worker.finished.connect(self._on_ended)
        self._worker = worker
        worker.start()

    def stop(self) -> None:
        """Ask the task to finish with the best so far."""
        self._control.stop.set()
        self._control.shown.set()

    @property
    def stopping(self) -> bool:
        """Whether the task was asked to finish."""
        return self.running and self._control.stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether the task was asked to wait."""
        return self.running and self._control.pause.is_set()

    def pause(self, wait: bool = True) -> None:
        """Ask a task that can pause to wait, or to go on."""
        if wait:
            self._control.pause.set()
        else:
            self._control.pause.clear()

    def cancel(self) -> None:
        """Give the task up: nothing more is shown, and its memory is freed as soon as the current step is done."""
        self._control.give_up()
        if self._worker is not None:
            self._worker.quit()

    def _on_yielded(self, update: Any) -> None:
        if self._control.cancel.is_set():
            return
        try:
            self.updated.emit(update)
        finally:
            self._control.shown.set()

    def _on_returned(self, outcome: Any) -> None:
        self._worker = None
        if outcome is None or self._control.cancel.is_set():
            self.canceled.emit()
        else:
            self.finished.emit(outcome)

    def _on_errored(self, error: Exception) -> None:
        self._worker = None
        if self._control.cancel.is_set():
            self.canceled.emit()
        else:
            self.failed.emit(error)

    def _on_ended(self) -> None:
        # A worker that was told to quit returns nothing, but it always ends.
        if self._worker is not None and self._control.cancel.is_set():
            self._worker = None
            self.canceled.emit()
