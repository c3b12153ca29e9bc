"""The choice of the device, and the search for devices in the background, since that imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

from qtpy.QtCore import QObject, QTimer, Signal

from napari_stnreg.widgets.common.forms import Combo
from napari_stnreg.widgets.common.task_runner import BackgroundCall

IDLE_BEFORE_TORCH_MS = 1500
"""Time after opening a panel before torch is imported."""


class DeviceCombo(Combo):
    """A combo box of compute devices; more are listed when they have been found."""

    def __init__(self) -> None:
        super().__init__("Where to compute. 'auto' uses a graphics card if there is one.", "device")
        self.set_items([("auto", "auto"), ("CPU", "cpu")], "auto")

    def set_current(self, data: object) -> bool:
        """Select a device; one that is not listed yet is added, since it may be found later."""
        if not super().set_current(data):
            self.addItem(str(data), data)
            super().set_current(data)
        return True

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """List the devices that were found, as ``(name, description)``."""
        best = next((text for name, text in devices if name != "cpu"), devices[0][1] if devices else "")
        items = [(f"auto ({best})" if best else "auto", "auto"), *((text, name) for name, text in devices)]
        self.set_items(items, self.currentData())

    @property
    def device(self) -> str:
        """The selected device, where ``"auto"`` is the first graphics card that was found, or the CPU."""
        names = [str(self.itemData(i)) for i in range(self.count())]
        chosen = str(self.currentData())
        return next((name for name in names if name not in ("auto", "cpu")), "cpu") if chosen == "auto" else chosen


def find_devices() -> list[tuple[str, str]]:
    """Import what a run needs and list the devices as ``(name, description)``."""
    import pandas  # noqa: F401 - napari imports it with the first layer that has features
    import pyqtgraph  # noqa: F401

    import napari_stnreg as sr

    return sr.available_devices()


class DeviceSearch(QObject):
    """Search for devices once, soon after a panel was opened and while it is idle.

    Parameters
    ----------
    parent
        The panel.
    busy
        Whether the panel runs a task; a run imports torch itself, so that the search waits.

    Signals
    -------
    found(list)
        The devices as ``(name, description)``; all modules that a run needs are imported by then.
    """

    found = Signal(list)

    def __init__(self, parent: QObject, busy: Callable[[], bool]) -> None:
        super().__init__(parent)
        self._busy, self._stopped = busy, False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._start)
        self._timer.start(0 if "torch" in sys.modules else IDLE_BEFORE_TORCH_MS)

    def _start(self) -> None:
        if self._busy():
            self._timer.start(IDLE_BEFORE_TORCH_MS)
            return
        worker = BackgroundCall(find_devices)
        worker.returned.connect(self._on_returned)  # a method of this object, so that it is disconnected with it
        worker.start()

    def _on_returned(self, devices: list[tuple[str, str]]) -> None:
        if not self._stopped:
            self.found.emit(devices)

    def stop(self) -> None:
        """Start no search and report none that is running."""
        self._stopped = True
        self._timer.stop()
