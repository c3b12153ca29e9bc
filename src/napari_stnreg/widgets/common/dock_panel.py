"""What every panel of ours shares: it watches the viewer while it is docked, and lets go when the dock is closed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QMainWindow, QWidget


class DockPanel(QWidget):
    """A widget in one of the viewer's docks.

    Parameters
    ----------
    napari_viewer
        The napari viewer, or the proxy of it that napari hands to plugins. The name matters: napari fills a parameter
        of this name.

    Notes
    -----
    Subclasses say what they watch (:meth:`viewer_events`), what to do when layers change (:meth:`refresh`, called once
    when several change together) and what to give up when the dock or the viewer is closed (:meth:`close_down`).
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        # A proxy wraps every layer anew, so that `is`, weak references and dict keys fail: use the viewer behind it.
        self._viewer = inspect.unwrap(napari_viewer)
        self._connected = False
        self._window: QMainWindow | None = None
        self._refresh_soon = self._timer(self._refresh)
        self._closing = self._timer(self._on_window_closed)

    def _timer(self, slot: Any) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(0)
        timer.timeout.connect(slot)
        return timer

    # -- for subclasses

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """Pairs of a viewer's event and the bound method that hears it."""
        events = self._viewer.layers.events
        return [(event, self._on_layers) for event in (events.inserted, events.removed, events.reordered,
                                                       events.renamed)]  # fmt: skip

    def refresh(self) -> None:
        """Take up the viewer's layers."""

    def close_down(self) -> None:
        """End what is running and let go of the viewer; the dock is closed."""

    def shortcut(self, keys: str, slot: Callable[[], Any]) -> QShortcut:
        """A key that works while the panel or something in it has the focus."""
        made = QShortcut(QKeySequence(keys), self)
        made.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        made.activated.connect(slot)
        return made

    def run_shortcut(self, slot: Callable[[], Any]) -> None:
        """Ctrl and either Enter key begin the panel's work."""
        for keys in ("Ctrl+Return", "Ctrl+Enter"):
            self.shortcut(keys, slot)

    # -- the viewer around it

    def connect_viewer(self) -> None:
        """Begin to hear of the viewer's layers."""
        if not self._connected:
            for event, method in self.viewer_events():
                event.connect(method)
            self._connected = True

    def disconnect_viewer(self) -> None:
        """Hear no more of them."""
        if self._connected:
            for event, method in self.viewer_events():
                event.disconnect(method)
            self._connected = False

    def _on_layers(self, _event: Any = None) -> None:
        self._refresh_soon.start()

    def _refresh(self) -> None:
        self.refresh()

    def event(self, event: Any) -> bool:
        """Notice when the dock is closed: napari takes the widget out of it, and sends no close event."""
        if event.type() == QEvent.Type.ParentChange and hasattr(self, "_closing"):
            if self.parent() is None:
                self._close()
            else:
                self.connect_viewer()
                self._refresh()
                self._watch_window()
        return super().event(event)

    def _watch_window(self) -> None:
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QMainWindow):
            parent = parent.parentWidget()
        if parent is not None and parent is not self._window:
            self._window = parent
            parent.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Notice that the viewer closes, of which docks are told nothing."""
        if watched is self._window and event.type() == QEvent.Type.Close:
            self._closing.start()  # whether the person said yes is known afterward
        return super().eventFilter(watched, event)

    def _on_window_closed(self) -> None:
        if self._window is not None and not self._window.isVisible():
            self._close()

    def _close(self) -> None:
        self._refresh_soon.stop()
        self.close_down()
        self.disconnect_viewer()
