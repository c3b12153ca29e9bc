"""Plot along z of how well each section fits the next, before and after; a click selects the section."""

from __future__ import annotations

from collections.abc import Sequence
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
            "How well each section fits the next, before and after. Dots mark doubtful gaps, red bars mark breaks. "
            "A fit below the dashed line is no better than chance. Click a gap to go there."
        )
        super().__init__(viewer, "section", "correlation", "quality along the stack", tip, heights=(150, 190))
        self._before: Any = None
        self._after: Any = None
        self._doubtful: Any = None
        self._chance: Any = None
        self._here: Any = None
        self._breaks: list[Any] = []

    def show_gaps(
        self, z: Any, before: Any, after: Any, doubtful: Any, breaks: Sequence[float] = (), chance: Any = ()
    ) -> None:
        """Draw the gaps.

        Parameters
        ----------
        z
            Middle of each gap, in sections.
        before, after
            Correlation; NaN where it is not known.
        doubtful
            Which gaps to mark.
        breaks
            Where the stack is broken, in sections.
        chance
            Correlation of each gap that chance reaches; none is drawn if it is empty.
        """
        self.prepare()
        z, before, after = (np.asarray(v, dtype=float) for v in (z, before, after))
        doubtful = np.asarray(doubtful, dtype=bool)
        self._before.setData(z, before, connect="finite")
        self._after.setData(z, after, connect="finite")
        self._chance.setData(z[: len(chance)], np.asarray(chance, dtype=float))
        self._doubtful.setData(z[doubtful], np.nan_to_num(after[doubtful]))
        for bar in self._breaks:
            self._plot.removeItem(bar)
        self._breaks = [self.vertical_line() for _ in breaks]
        for bar, place in zip(self._breaks, breaks, strict=True):
            bar.setValue(place)
        self.style_curves()
        self._plot.enableAutoRange()

    def set_section(self, section: float) -> None:
        """Mark the section that is shown."""
        if self._here is not None:
            self._here.setValue(section)

    def add_curves(self) -> None:
        """Add both curves, the marks and the line at the section that is shown."""
        self._before, self._after = self._plot.plot([], [], name="before"), self._plot.plot([], [], name="after")
        self._chance = self._plot.plot([], [], name="chance")
        self._doubtful = self._plot.plot([], [], pen=None, symbol="o", symbolSize=8, name="doubtful")
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
        self._chance.setPen(pyqtgraph.mkPen(red, width=1, style=Qt.PenStyle.DashLine))
        self._doubtful.setSymbolBrush(red)
        self._doubtful.setSymbolPen(None)
        for bar in self._breaks:
            bar.setPen(pyqtgraph.mkPen(red, width=4))
        self._here.setPen(pyqtgraph.mkPen(self.color("text"), width=1, style=Qt.PenStyle.DotLine))
        self.set_legend((gray, "before"), (self.accent, "after"), (red, "- - chance ● doubtful"))
