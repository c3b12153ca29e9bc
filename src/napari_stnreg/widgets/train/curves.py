"""Training and validation loss against epochs, live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.widgets.common.plot import ThemedPlot

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.training.progress import EpochRecord

_ROOM = 0.05


class EpochPlot(ThemedPlot):
    """Two curves, and a dotted line at the epoch whose weights are kept."""

    def __init__(self, viewer: Viewer) -> None:
        tip = (
            "Mean loss of each epoch, lower is better: of the pairs that are trained on, and of those held back. "
            "The dotted line marks the best epoch so far, which is the one that is kept."
        )
        super().__init__(viewer, "epoch", "loss", "training and validation curves", tip, heights=(150, 220))
        self._training: Any = None
        self._validation: Any = None
        self._best: Any = None
        self.shown: tuple[np.ndarray, np.ndarray] = (np.empty((0, 2)), np.empty((0, 2)))
        """What is drawn: training and validation, each ``(N, 2)`` of epoch and loss."""

    def clear(self) -> None:
        """Remove all curves."""
        self.show_curve([], None, 0)

    def show_curve(self, curve: Sequence[EpochRecord], running: tuple[float, float] | None, best: int) -> None:
        """Draw the epochs so far.

        Parameters
        ----------
        curve
            One record for each epoch.
        running
            The current epoch: its number with the fraction done, and the mean loss so far.
        best
            The epoch to mark.
        """
        training: list[tuple[float, float]] = [(one.epoch, one.loss) for one in curve if one.loss is not None]
        if running is not None and np.isfinite(running[1]):
            training.append(running)
        validation = [(one.epoch, one.validation_loss) for one in curve if one.validation_loss is not None]
        self.shown = _points(training), _points(validation)
        if not curve and self._plot is None:
            return
        self.prepare()
        for item, points in zip((self._training, self._validation), self.shown, strict=True):
            item.setData(points[:, 0], points[:, 1])
        self.unmark()
        self._best.setVisible(best > 0)
        self._best.setValue(best)

    def add_curves(self) -> None:
        """Add both curves, their names and the line at the best."""
        self._training = self._plot.plot([], [], name="training")
        self._validation = self._plot.plot([], [], name="validation")
        self._best = self.vertical_line()
        self._best.hide()
        self._plot.getPlotItem().getViewBox().setDefaultPadding(_ROOM)

    def style_curves(self) -> None:
        """Color the curves; validation is blue and has points, for readers who do not see the colors."""
        import pyqtgraph

        blue = (86, 180, 233) if self.dark else (0, 94, 162)
        self._training.setPen(pyqtgraph.mkPen(self.accent, width=2))
        self._validation.setPen(pyqtgraph.mkPen(blue, width=2))
        self._validation.setSymbol("o")
        self._validation.setSymbolSize(4)
        self._validation.setSymbolBrush(blue)
        self._validation.setSymbolPen(None)
        self._best.setPen(self.dotted())
        self.set_legend((self.accent, "training"), (blue, "validation ●"))


def _points(pairs: Sequence[tuple[float, float | None]]) -> np.ndarray:
    return np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
