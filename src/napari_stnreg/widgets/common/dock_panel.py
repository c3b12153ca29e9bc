"""The base class of all panels: it follows the viewer while it is docked, and shuts down when the dock is closed."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_stnreg.widgets.common.preferences import prefer_own_reader
from napari_stnreg.widgets.dock.before_after import KEY_TEXT, claim_key, release_key
from napari_stnreg.widgets.dock.docking import arrange, dock_of, remember_width
from napari_stnreg.widgets.dock.focus_ring import FocusRing

if TYPE_CHECKING:
    from napari.viewer import Viewer


_WIDTH_MS = 500
"""After this time without another change the width of a dock is kept."""


class DockPanel(QWidget):
    """A widget in one of the viewer's docks.

    Parameters
    ----------
    napari_viewer
        The napari viewer, or the proxy of it that napari passes to plugins. The name matters: napari fills a parameter
        of this name.

    Notes
    -----
    Subclasses override :meth:`viewer_events` (events to follow), :meth:`refresh` (layers have changed; called once
    for several changes) and :meth:`close_down` (the dock or the viewer was closed).
    """

    title: ClassVar[str] = ""
    """Name of the panel in the manifest and on its dock."""
    help_page: ClassVar[str] = "index.html"
    """Page of the documentation."""
    introduction: ClassVar[tuple[str, ...]] = ()
    """What to do first, one sentence each."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # A proxy wraps each layer in a new object, so that `is`, weak references and dict keys fail: use the viewer.
        self._viewer: Viewer = inspect.unwrap(napari_viewer)
        prefer_own_reader()
        self._connected = self._has_switch_key = False
        self._window: Callable[[], QMainWindow | None] = lambda: None  # a weak reference: the window owns the panel
        self._watches_dock = self._is_behind = self._was_hidden = False
        self._refresh_timer = self._timer(self.refresh)
        self._close_timer = self._timer(self._on_window_closed)
        self._arrange_timer = self._timer(self._arrange)
        self._raise_timer = self._timer(self._raise_dock)
        self._again_timer = self._timer(self._show_again)
        self._width_timer = self._timer(self._remember_width, _WIDTH_MS)
        self.focus_ring = FocusRing(self)

    def _timer(self, slot: Callable[[], Any], milliseconds: int = 0) -> QTimer:
        """Make a single-shot timer that calls a slot."""
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(slot)
        return timer

    # -- for subclasses

    def viewer_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """Pairs of an event emitter and the bound method to connect to it while the panel is docked."""
        events = self._viewer.layers.events
        return [(event, self._on_layers) for event in (events.inserted, events.removed, events.reordered,
                                                       events.renamed)]  # fmt: skip

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""

    def close_down(self) -> None:
        """Cancel running work and release the viewer; called when the dock is closed."""

    def shortcut(self, keys: str, slot: Callable[[], Any]) -> QShortcut:
        """Add a key that works while the panel or one of its children has the focus."""
        made = QShortcut(QKeySequence(keys), self)
        made.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        made.activated.connect(slot)
        return made

    def run_shortcut(self, slot: Callable[[], Any]) -> None:
        """Start the panel's main task with Ctrl and either Enter key."""
        for keys in ("Ctrl+Return", "Ctrl+Enter"):
            self.shortcut(keys, slot)

    def claim_before_after(self, switch: Callable[[], Any]) -> None:
        """Let the key for before and after call a function, in the viewer and in the panel."""
        claim_key(self._viewer, self, switch)
        if not self._has_switch_key:
            self._has_switch_key = True
            self.shortcut(KEY_TEXT, switch)

    # -- connection to the viewer

    def connect_viewer(self) -> None:
        """Connect the viewer's events."""
        if not self._connected:
            for event, method in self.viewer_events():
                event.connect(method)
            self._connected = True

    def disconnect_viewer(self) -> None:
        """Disconnect the viewer's events."""
        if self._connected:
            for event, method in self.viewer_events():
                event.disconnect(method)
            self._connected = False

    def _on_layers(self, _event: Any = None) -> None:
        self._refresh_timer.start()

    def event(self, event: QEvent | None) -> bool:
        """Detect that the dock is closed: napari reparents the widget and sends no close event."""
        if event is not None and event.type() == QEvent.Type.ParentChange and hasattr(self, "_close_timer"):
            if self.parent() is None:
                self._close()
            else:
                self.connect_viewer()
                self.refresh()
                self._watch_window()
                self._arrange_timer.start()  # the dock is not in the window yet
        return super().event(event)

    def resizeEvent(self, event: Any) -> None:
        """Keep the width that the user gives the dock."""
        super().resizeEvent(event)
        self._width_timer.start()

    def _remember_width(self) -> None:
        dock = dock_of(self)
        if dock is not None and not dock.isFloating():
            remember_width(self.width())

    def _arrange(self) -> None:
        arrange(self, self.title, lambda other: isinstance(other, DockPanel))
        self._watch_window()  # not found before if the dock was not in the window yet
        self._watch_dock()
        self._order_focus()
        first = next((one for one in self._focusable() if one.isEnabled() and one.isVisibleTo(self)), None)
        if first is not None and self.isVisible():  # the keyboard reaches a panel that was opened
            first.setFocus(Qt.FocusReason.OtherFocusReason)

    def _focusable(self) -> list[QWidget]:
        """List the controls that take the keyboard focus, in the order of the form."""
        # PySide6 never frees the widgets that nextInFocusChain returns, and with them the window.
        return [
            widget
            for widget in self.findChildren(QWidget)
            if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.focusProxy() is None
        ]

    def _order_focus(self) -> None:
        """Set the order of the tab key where that of creation differs from what is seen."""

    def _watch_window(self) -> None:
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QMainWindow):
            parent = parent.parentWidget()
        if parent is not None and parent is not self._window():
            self._window = weakref.ref(parent)
            parent.installEventFilter(self)

    def _watch_dock(self) -> None:
        dock = dock_of(self)
        if dock is not None and not self._watches_dock:
            self._watches_dock = True
            dock.installEventFilter(self)
            dock.visibilityChanged.connect(self._on_in_front)

    def _on_in_front(self, in_front: bool) -> None:
        dock = dock_of(self)
        if dock is not None and not dock.isHidden():
            self._is_behind = not in_front

    def _on_dock_event(self, dock: QDockWidget, kind: QEvent.Type) -> None:
        """Follow napari's menu entry, which hides an open dock and shows a hidden one, behind another tab too."""
        if kind == QEvent.Type.Hide and dock.isHidden():
            self._was_hidden = True
            if self._is_behind:
                self._again_timer.start()
        elif kind == QEvent.Type.Show and self._was_hidden:
            self._was_hidden = False
            self._raise_timer.start()

    def _show_again(self) -> None:
        """Show a panel that was behind another tab when its menu entry was chosen: the user looks for it."""
        dock = dock_of(self)
        window = None if dock is None else dock.parentWidget()
        if dock is None or window is None or not dock.isHidden():
            return
        others = (one for one in window.findChildren(QDockWidget) if one is not dock)
        if any(isinstance(one.widget(), DockPanel) and one.isVisible() for one in others):  # not all were hidden
            dock.show()

    def _raise_dock(self) -> None:
        dock = dock_of(self)
        if dock is not None and not dock.isHidden():
            dock.raise_()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Detect that the dock is hidden or shown, and that the viewer is closed; docks receive no event for that."""
        if event is None or not hasattr(self, "_close_timer"):
            return False
        if isinstance(watched, QDockWidget):
            if event.type() in (QEvent.Type.Hide, QEvent.Type.Show):
                self._on_dock_event(watched, event.type())
        elif watched is self._window() and event.type() == QEvent.Type.Close:
            self._close_timer.start()  # only afterward is it known whether the user confirmed
        return super().eventFilter(watched, event)

    def _on_window_closed(self) -> None:
        window = self._window()
        if window is not None and not window.isVisible():
            self._close()

    def _close(self) -> None:
        self._refresh_timer.stop()
        self._arrange_timer.stop()
        self._width_timer.stop()
        self._raise_timer.stop()
        self._again_timer.stop()
        release_key(self._viewer, self)
        self.close_down()
        self.disconnect_viewer()
