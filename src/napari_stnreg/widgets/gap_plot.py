"""The plot along z: how well each section fits the next, before and after; a click goes there."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget


class GapPlot(QWidget):
    """One point for each gap between two sections.

    Signals
    -------
    picked(int)
        The section below the gap that was clicked.
    """

    picked = Signal(int)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._plot: Any = None
        self._before: Any = None
        self._after: Any = None
        self._weak: Any = None
        self._here: Any = None
        self.setMinimumHeight(130)
        self.setMaximumHeight(170)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setToolTip("How well each section fits the next: before (thin) and after. Click to go there.")
        self.setAccessibleName("quality along the stack")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)

    def show_gaps(self, z: Any, before: Any, after: Any, weak: Any) -> None:
        """Draw the gaps.

        Parameters
        ----------
        z
            Middle of each gap, in sections.
        before, after
            Correlation; NaN where it is not known.
        weak
            Which gaps to mark.
        """
        if self._plot is None:
            self._make()
        z, before, after = (np.asarray(v, dtype=float) for v in (z, before, after))
        weak = np.asarray(weak, dtype=bool)
        self._before.setData(z, before, connect="finite")
        self._after.setData(z, after, connect="finite")
        self._weak.setData(z[weak], np.nan_to_num(after[weak]))
        self._plot.enableAutoRange()

    def set_section(self, section: float) -> None:
        """Mark the section that is shown."""
        if self._here is not None:
            self._here.setValue(section)

    def _make(self) -> None:
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._plot.setLabel("bottom", "section")
        self._plot.setLabel("left", "correlation")
        for side in ("left", "bottom"):
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self._before, self._after = self._plot.plot([], []), self._plot.plot([], [])
        self._weak = self._plot.plot([], [], pen=None, symbol="o", symbolSize=8)
        self._here = pyqtgraph.InfiniteLine(0, angle=90)
        self._plot.addItem(self._here, ignoreBounds=True)
        self._plot.scene().sigMouseClicked.connect(self._on_click)
        self.layout().addWidget(self._plot)
        self.restyle()

    def _on_click(self, event: Any) -> None:
        place = self._plot.getPlotItem().vb.mapSceneToView(event.scenePos())
        self.picked.emit(int(np.floor(place.x() + 0.25)))

    def restyle(self) -> None:
        """Take the colours of the viewer's theme."""
        if self._plot is None:
            return
        import pyqtgraph

        theme = get_theme(self._viewer.theme)
        self._plot.setBackground(theme.background.as_rgb_tuple()[:3])
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            axis.setPen(pyqtgraph.mkPen(theme.secondary.as_rgb_tuple()[:3]))
            axis.setTextPen(pyqtgraph.mkPen(theme.text.as_rgb_tuple()[:3]))
        dark = theme.type == "dark"
        accent = (255, 159, 28) if dark else (200, 95, 0)
        text = theme.text.as_rgb_tuple()[:3]
        self._before.setPen(pyqtgraph.mkPen(theme.secondary.as_rgb_tuple()[:3], width=1))
        self._after.setPen(pyqtgraph.mkPen(accent, width=2))
        self._weak.setSymbolBrush((230, 80, 90) if dark else (190, 20, 40))
        self._weak.setSymbolPen(None)
        self._here.setPen(pyqtgraph.mkPen(text, width=1, style=Qt.PenStyle.DotLine))
