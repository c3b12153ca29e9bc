"""Several curves over the same steps, side by side in one plot; pyqtgraph is imported when the first is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

_COLORS = ("#2ec4f3", "#ff9f1c", "#e83f6f", "#7bd389")
_DARKER = ("#0b7fab", "#b86200", "#b3133f", "#2b8a3e")


class Curves(QWidget):
    """Draws curves by name, with a line where a slider stands."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._plot: Any = None
        self._line: Any = None
        self._items: dict[str, Any] = {}
        self._legend: Any = None
        self.setMinimumHeight(130)
        self.setMaximumHeight(190)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setAccessibleName("curves")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)

    def show_curves(self, curves: dict[str, np.ndarray]) -> None:
        """Draw curves ``(N, 2)`` by name; those of before go."""
        if self._plot is None:
            self._make()
        if list(curves) != list(self._items):
            self._plot.clear()
            self._legend.clear()
            self._items = {name: self._plot.plot([], [], name=name) for name in curves}
            self._line = None
            self.restyle()
        for name, points in curves.items():
            points = np.asarray(points, dtype=float).reshape(-1, 2)
            self._items[name].setData(points[:, 0], points[:, 1], connect="finite")

    def mark(self, time: float) -> None:
        """Put the line at a time."""
        import pyqtgraph

        if self._plot is None:
            return
        if self._line is None:
            self._line = pyqtgraph.InfiniteLine(angle=90, pen=pyqtgraph.mkPen("#808080", width=1))
            self._plot.addItem(self._line)
        self._line.setValue(time)

    def _make(self) -> None:
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._legend = self._plot.addLegend(offset=(8, 8))  # rising curves leave this corner free
        for side in ("bottom", "left"):
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self.layout().addWidget(self._plot)

    def restyle(self) -> None:
        """Take the colors of the viewer's theme."""
        if self._plot is None:
            return
        import pyqtgraph

        theme = get_theme(self._viewer.theme)
        text = theme.text.as_rgb_tuple()[:3]
        self._plot.setBackground(theme.background.as_rgb_tuple()[:3])
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            axis.setPen(pyqtgraph.mkPen(theme.secondary.as_rgb_tuple()[:3]))
            axis.setTextPen(pyqtgraph.mkPen(text))
        self._legend.setLabelTextColor(text)
        colors = _COLORS if theme.type == "dark" else _DARKER
        for i, item in enumerate(self._items.values()):
            item.setPen(pyqtgraph.mkPen(colors[i % len(colors)], width=2))
