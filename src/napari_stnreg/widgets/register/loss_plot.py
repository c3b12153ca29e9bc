"""The live loss curve. pyqtgraph is imported in the background after the panel has opened."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_stnreg.widgets.common.plot import ThemedPlot


class LossPlot(ThemedPlot):
    """How far the loss has fallen, against steps.

    Levels and stages measure on scales of their own, which cannot be compared. The curve of each therefore begins
    where the one before ended, and dotted lines stand between them.
    """

    def __init__(self, viewer: Any) -> None:
        tip = "How far the objective has fallen; lower is better. At dotted lines a new level or stage begins."
        super().__init__(viewer, "step", "loss", "loss curve", tip)
        self._curve: Any = None
        self._borders: list[Any] = []
        self._steps: list[float] = []
        self._losses: list[float] = []
        self._last: tuple[str, int] | None = None
        self._shift = 0.0

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

    def add_curves(self) -> None:
        """Add the one curve."""
        self._curve = self._plot.plot([], [])

    def _border(self, position: float) -> None:
        import pyqtgraph

        line = pyqtgraph.InfiniteLine(position, angle=90, pen=self.dotted())
        self._plot.addItem(line)
        self._borders.append(line)

    def style_curves(self) -> None:
        """Color the curve and the borders."""
        import pyqtgraph

        self._curve.setPen(pyqtgraph.mkPen(self.accent, width=2))
        for line in self._borders:
            line.setPen(self.dotted())
