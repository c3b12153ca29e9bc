"""The live loss curve. pyqtgraph is imported in the background after the panel has opened."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget


class LossPlot(QWidget):
    """How far the loss has fallen, against steps.

    Levels and stages measure on scales of their own, which cannot be compared. The curve of each therefore begins
    where the one before ended, and dotted lines stand between them.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._plot: Any = None
        self._curve: Any = None
        self._borders: list[Any] = []
        self._steps: list[float] = []
        self._losses: list[float] = []
        self._last: tuple[str, int] | None = None
        self._shift = 0.0
        self.setMinimumHeight(110)
        self.setMaximumHeight(160)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setToolTip(
            "How far the objective has fallen; lower is better. At dotted lines a new level or stage begins."
        )
        self.setAccessibleName("loss curve")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)

    def clear(self) -> None:
        """Begin a new curve."""
        self._steps, self._losses, self._last, self._shift = [], [], None, 0.0
        if self._plot is not None:
            for line in self._borders:
                self._plot.removeItem(line)
            self._curve.setData([], [])
        self._borders = []

    def add(self, losses: list[tuple[str, int, int, float]]) -> None:
        """Append ``(stage, level, step, loss)``; draws once however many there are."""
        self.prepare()
        for stage, level, _step, loss in losses:
            here = len(self._steps)
            if (stage, level) != self._last:
                ended = next((value for value in reversed(self._losses) if np.isfinite(value)), 0.0)
                if self._last is not None:
                    self._shift = ended - loss if np.isfinite(loss) else self._shift
                    self._border(here)
                self._last = (stage, level)
            self._steps.append(here)
            self._losses.append(loss + self._shift if np.isfinite(loss) else np.nan)
        if self._steps:
            self._curve.setData(np.asarray(self._steps), np.asarray(self._losses), connect="finite")

    def prepare(self) -> None:
        """Make the plot, which takes a moment that is better spent before a run than in it."""
        if self._plot is not None:
            return
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._plot.setLabel("bottom", "step")
        self._plot.setLabel("left", "loss")
        self._plot.getAxis("left").enableAutoSIPrefix(False)
        self._plot.getAxis("bottom").enableAutoSIPrefix(False)
        self._curve = self._plot.plot([], [])
        self.layout().addWidget(self._plot)
        self.restyle()

    def _border(self, position: float) -> None:
        import pyqtgraph

        line = pyqtgraph.InfiniteLine(position, angle=90, pen=self._border_pen())
        self._plot.addItem(line)
        self._borders.append(line)

    def _border_pen(self) -> Any:
        import pyqtgraph
        from qtpy.QtCore import Qt

        colour = get_theme(self._viewer.theme).secondary.as_rgb_tuple()[:3]
        return pyqtgraph.mkPen(colour, width=1, style=Qt.PenStyle.DotLine)

    def restyle(self) -> None:
        """Take the colours of the viewer's theme."""
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
        accent = (255, 159, 28) if theme.type == "dark" else (200, 95, 0)
        self._curve.setPen(pyqtgraph.mkPen(accent, width=2))
        for line in self._borders:
            line.setPen(self._border_pen())
