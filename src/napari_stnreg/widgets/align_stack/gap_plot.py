"""The plot along z: how well each section fits the next, before and after; a click goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal

from napari_stnreg.widgets.common.plot import ThemedPlot

if TYPE_CHECKING:
    from napari.viewer import Viewer


class GapPlot(ThemedPlot):
    """One point for each gap between two sections.

    Signals
    -------
    picked(int)
        The section below the gap that was clicked.
    """

    picked = Signal(int)

    def __init__(self, viewer: Viewer) -> None:
        tip = (
            "How well each section fits the next, before and after; points mark gaps beside weak and failed sections. "
            "Click to go there."
        )
        super().__init__(viewer, "section", "correlation", "quality along the stack", tip, heights=(150, 190))
        self._before: Any = None
        self._after: Any = None
        self._weak: Any = None
        self._here: Any = None

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
        self.prepare()
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

    def add_curves(self) -> None:
        """Add both curves, the marks and the line at the section that is shown."""
        self._before, self._after = self._plot.plot([], [], name="before"), self._plot.plot([], [], name="after")
        self._weak = self._plot.plot([], [], pen=None, symbol="o", symbolSize=8, name="weak")
        self._here = self.vertical_line()
        self._plot.scene().sigMouseClicked.connect(self._on_click)

    def _on_click(self, event: Any) -> None:
        place = self._plot.getPlotItem().vb.mapSceneToView(event.scenePos())
        self.picked.emit(int(np.floor(place.x() + 0.25)))

    def style_curves(self) -> None:
        """Color them."""
        import pyqtgraph

        red = (255, 110, 115) if self.dark else (190, 20, 40)
        gray = (160, 165, 172) if self.dark else (105, 105, 110)
        self._before.setPen(pyqtgraph.mkPen(gray, width=1))
        self._after.setPen(pyqtgraph.mkPen(self.accent, width=2))
        self._weak.setSymbolBrush(red)
        self._weak.setSymbolPen(None)
        self._here.setPen(pyqtgraph.mkPen(self.color("text"), width=1, style=Qt.PenStyle.DotLine))
        self.set_legend((gray, "before"), (self.accent, "after"), (red, "● weak or failed"))
