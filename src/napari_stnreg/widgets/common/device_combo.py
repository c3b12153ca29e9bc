"""Which devices there are, asked in the background while the program is idle, for that imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker

IDLE_BEFORE_TORCH = 1500
"""Milliseconds after opening before torch is imported."""


def find_devices() -> list[tuple[str, str]]:
    """Import what a run needs and list the devices."""
    import pandas  # noqa: F401 - napari imports it with the first layer that has features
    import pyqtgraph  # noqa: F401

    import napari_stnreg as sr

    return sr.available_devices()


class DeviceSearch(QObject):
    """Looks for the devices once, soon after a panel was opened, and not while it works.

    Parameters
    ----------
    parent
        The panel.
    busy
        Whether the panel works; a run imports torch itself, so the search waits.

    Signals
    -------
    found(list)
        The devices, as ``(name, title)``; everything a run imports is there now.
    """

    found = Signal(list)

    def __init__(self, parent: QObject, busy: Callable[[], bool]) -> None:
        super().__init__(parent)
        self._busy, self._stopped = busy, False
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._look)
        self._later.start(0 if "torch" in sys.modules else IDLE_BEFORE_TORCH)

    def _look(self) -> None:
        if self._busy():
            self._later.start(IDLE_BEFORE_TORCH)
            return
        worker = create_worker(find_devices, _start_thread=False, _ignore_errors=True)
        worker.returned.connect(self._on_returned)  # a method of this object, so that it goes with it
        worker.start()

    def _on_returned(self, devices: list[tuple[str, str]]) -> None:
        if not self._stopped:
            self.found.emit(devices)

    def stop(self) -> None:
        """Do not begin any more, and tell nothing that comes late."""
        self._stopped = True
        self._later.stop()
