"""Long-running work in the background: a worker that always ends, and the runner on the GUI thread that owns it.

A *task* is a generator function. It takes a :class:`TaskControl` as its last argument, yields :class:`TaskProgress`
and returns its result, or ``None`` when it was canceled. The generator runs and is closed in one worker thread, so that
a stopped or canceled task frees its memory at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal
from superqt.utils import FunctionWorker, GeneratorWorker, WorkerBase, create_worker

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.progress import StopRequested, StopSignal, listening

UPDATE_SECONDS = 0.1
"""Shortest time between two updates of a panel: each update redraws the whole window, canvas included."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class WorkerError(Exception):
    """A RuntimeError of the task under another type, because superqt swallows RuntimeErrors."""


class _QuietAtExit(WorkerBase[Any]):
    """A worker that ends silently if the program ended first: Qt has deleted its signals then."""

    def run(self) -> None:
        """Run the worker; called by Qt."""
        try:
            super().run()
        except RuntimeError:
            if isalive(self.signals):  # type: ignore[no-untyped-call]
                raise


class BackgroundCall(_QuietAtExit, FunctionWorker[Any]):
    """A function call in a worker thread; connect its signals, then start it."""


class ClosingWorker(_QuietAtExit, GeneratorWorker[Any, Any, Any]):
    """A generator worker that closes its generator in its own thread and reports every error."""

    def work(self) -> Any:
        """Run the generator to its end, close it, and raise the error that superqt returns as a value."""
        try:
            result = super().work()
        finally:
            self._gen.close()
            self._gen = None  # type: ignore[assignment]  # frees what the generator holds
        if isinstance(result, RuntimeError):
            raise WorkerError(str(result)) from result
        return result


class TaskControl:
    """Requests of the window to the worker, as thread-safe events."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Finish soon and return the best result so far."""
        self.cancel = threading.Event()
        """Finish soon without a result."""
        self.pause = threading.Event()
        """Wait until the event is cleared."""
        self.update_shown = threading.Event()
        """The panel has shown the last update; the next one may be made."""
        self.update_shown.set()

    def abort(self, _object: Any = None) -> None:
        """Request the end of the task without a result."""
        self.cancel.set()
        self.stop.set()
        self.update_shown.set()


@dataclass(frozen=True)
class TaskProgress:
    """Progress of a task.

    Parameters
    ----------
    fraction
        Completed fraction, from 0 to 1.
    message
        Text of the status line.
    payload
        Anything else that the panel shows while the task runs.
    """

    fraction: float
    message: str
    payload: Any = None


def relay_progress(
    steps: Generator[Item, Any, Outcome],
    control: TaskControl,
    to_progress: Callable[[Item], TaskProgress],
    on_item: Callable[[Item], None] | None = None,
) -> Generator[TaskProgress, None, Outcome | None]:
    """Run an engine's generator inside a task and pass its progress on at a rate that the window can follow.

    Parameters
    ----------
    steps
        Generator of the engine. It accepts ``send("stop")``, ``send("pause")`` and ``send("resume")``, and is closed
        here in every case.
    control
        The task's control. Stop is sent once, pause and resume as often as they change; cancel ends at the next item.
    to_progress
        Make the progress to show from an item; called only for the items that are shown.
    on_item
        Called with every item.

    Returns
    -------
    object
        The return value of the generator, or ``None`` when canceled.
    """
    last_update, paused = 0.0, False
    signal = StopSignal(control.stop.is_set, control.cancel.is_set)
    try:
        with listening(signal):
            item = next(steps)
        while True:
            if control.cancel.is_set():
                return None
            if on_item is not None:
                on_item(item)
            if time.perf_counter() - last_update >= UPDATE_SECONDS and control.update_shown.is_set():
                progress = to_progress(item)
                control.update_shown.clear()
                yield progress
                last_update = time.perf_counter()
            command = None
            if signal.take():
                command = "stop"
            elif control.pause.is_set() != paused and not signal.delivered:
                paused = not paused
                command = "pause" if paused else "resume"
            with listening(signal):
                item = next(steps) if command is None else steps.send(command)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except StopRequested:
        return None
    finally:
        steps.close()


class TaskRunner(QObject):
    """Own the worker of the running task; lives on the GUI thread.

    Signals
    -------
    updated(object), finished(object), failed(Exception), canceled()
        Emitted on the GUI thread; each task ends with exactly one of the last three.
    """

    updated = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    canceled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._worker: ClosingWorker | None = None
        self._control = TaskControl()

    @property
    def running(self) -> bool:
        """Whether a task is running."""
        return self._worker is not None

    def start_task(self, task: Callable[..., Generator[Any, None, Any]], *arguments: Any) -> None:
        """Start a task; its control is appended to the arguments.

        Raises
        ------
        InputError
            If a task is running already.
        """
        if self.running:
            raise InputError("A task is running already. Wait for it, or stop it first.")
        self._control = TaskControl()
        # The worker is stopped even if the window is destroyed without closing.
        self.destroyed.connect(self._control.abort)
        worker = create_worker(
            task, *arguments, self._control, _start_thread=False, _worker_class=ClosingWorker, _ignore_errors=True
        )
        worker.yielded.connect(self._on_yielded)
        worker.returned.connect(self._on_returned)
        worker.errored.connect(self._on_errored)
        worker.finished.connect(self._on_ended)  # type: ignore[arg-type]
        assert isinstance(worker, ClosingWorker)
        self._worker = worker
        worker.start()

    def stop(self) -> None:
        """Request the end of the task with the best result so far."""
        self._control.stop.set()
        self._control.update_shown.set()

    @property
    def stopping(self) -> bool:
        """Whether a stop of the running task was requested."""
        return self.running and self._control.stop.is_set()

    @property
    def stop_requested(self) -> bool:
        """Whether the running or the last task was to stop; it may be incomplete then."""
        return self._control.stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether a pause of the running task was requested."""
        return self.running and self._control.pause.is_set()

    def pause(self, wait: bool = True) -> None:
        """Request a pause, or with ``False`` that the task resumes."""
        if wait:
            self._control.pause.set()
        else:
            self._control.pause.clear()

    def cancel(self) -> None:
        """Cancel the task: nothing more is shown, and its memory is freed when the current step ends."""
        self._control.abort()
        if self._worker is not None:
            self._worker.quit()

    def _on_yielded(self, update: Any) -> None:
        if self._control.cancel.is_set():
            return
        try:
            self.updated.emit(update)
        finally:
            self._control.update_shown.set()

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
        # A worker that quits returns nothing, but it always ends.
        if self._worker is not None and self._control.cancel.is_set():
            self._worker = None
            self.canceled.emit()
