"""Cuts across the sections that follow the cursor, read in a separate thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_stnreg.widgets.align_stack.tasks import Reslices, cut_stack

POLL_MS = 40
"""Interval at which finished cuts are looked for."""


class LiveCuts(QObject):
    """Reads the cuts that were requested last; earlier requests are dropped.

    Signals
    -------
    made(object)
        The :class:`~napari_stnreg.widgets.align_stack.tasks.Reslices`.
    """

    made = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="stnreg-cuts")
        self._running: Future[Reslices] | None = None
        self._next: tuple[Any, Path | None, tuple[int, int]] | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)

    def request(self, raw: Any, output: Path | None, place: tuple[int, int]) -> None:
        """Ask for the cuts of a stack, and of its alignment if there is one, at a row and column."""
        self._next = (raw, output, place)
        self._timer.start()
        self._poll()

    def close(self) -> None:
        """Drop the pending request."""
        self._next = None
        self._timer.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _poll(self) -> None:
        if self._running is not None:
            if not self._running.done():
                return
            done, self._running = self._running, None
            # sections may be unreadable, or an output just being created: the next request tries again
            if done.exception() is None:
                self.made.emit(done.result())
        if self._next is not None:
            wanted, self._next = self._next, None
            self._running = self._executor.submit(cut_stack, *wanted)
        else:
            self._timer.stop()
