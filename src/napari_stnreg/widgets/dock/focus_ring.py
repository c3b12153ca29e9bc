"""A visible keyboard focus: napari's themes draw none on boxes, buttons and sliders."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QApplication, QWidget

RING_COLOR = "#1f7fd6"
"""A blue with a contrast of at least 3 to the backgrounds of the dark and the light theme."""
_WIDTH_PX = 2


class _Ring(QWidget):
    """A ring just inside a control, which it follows and which ignores the mouse."""

    def __init__(self, control: QWidget) -> None:
        super().__init__(control)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setStyleSheet("background: transparent;")
        self.setGeometry(control.rect())
        control.installEventFilter(self)
        self.show()
        self.raise_()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the size of the control."""
        if watched is self.parent() and event is not None and event.type() == QEvent.Type.Resize:
            self.setGeometry(self.parentWidget().rect())
        return super().eventFilter(watched, event)

    def paintEvent(self, _event: Any) -> None:
        """Draw the ring."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(RING_COLOR), _WIDTH_PX))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), 2, 2)


class FocusRing(QObject):
    """Draw a ring around the control of a panel that has the keyboard focus.

    Parameters
    ----------
    panel
        The panel; controls of other widgets get no ring.

    Attributes
    ----------
    control
        The control with the ring, or ``None``.
    """

    def __init__(self, panel: QWidget) -> None:
        super().__init__(panel)
        self._panel = panel
        self._ring: _Ring | None = None
        self.control: QWidget | None = None
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._on_focus)

    def _on_focus(self, _before: QWidget | None, focus: QWidget | None) -> None:
        if self._ring is not None:
            self._ring.destroyed.disconnect(self._on_destroyed)
            self._ring.hide()
            self._ring.deleteLater()
        self._ring = self.control = None
        if focus is not None and focus is not self._panel and self._panel.isAncestorOf(focus):
            self.control, self._ring = focus, _Ring(focus)
            self._ring.destroyed.connect(self._on_destroyed)  # with its control

    def _on_destroyed(self) -> None:
        self._ring = self.control = None
