"""Small plots in a panel, in the colors of the viewer's theme. pyqtgraph is imported when the first plot is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari.viewer import Viewer

Color = tuple[int, int, int]

_CURVE_COLORS: dict[str, tuple[Color, ...]] = {
    "dark": ((46, 196, 243), (255, 159, 28), (232, 63, 111), (123, 211, 137)),
    "light": ((11, 127, 171), (184, 98, 0), (179, 19, 63), (43, 138, 62)),
}


_ABOVE, _BELOW = 8, 4
"""Pixels above and below a plot: half of the topmost number of its axis, and the descenders of its title."""


class ThemedPlot(QWidget):
    """Axes without a menu; subclasses add their curves and style them.

    Parameters
    ----------
    viewer
        The viewer whose theme is used.
    bottom, left
        Titles of the axes.
    name, tip
        Accessible name and tooltip.
    heights
        Smallest and largest height in pixels.
    """

    def __init__(
        self, viewer: Viewer, bottom: str, left: str, name: str, tip: str, heights: tuple[int, int] = (110, 160)
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._titles = {"bottom": bottom, "left": left}
        self._plot: Any = None
        self._marker: Any = None
        self.setMinimumHeight(heights[0])
        self.setMaximumHeight(heights[1])
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setToolTip(tip)
        self.setAccessibleName(name)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)

    # -- for subclasses

    def add_curves(self) -> None:
        """Add the curves to the new plot."""

    def style_curves(self) -> None:
        """Give the curves the colors of the theme."""

    def vertical_line(self, position: float = 0.0) -> Any:
        """Add a vertical line that does not change the plot's range."""
        import pyqtgraph

        line = pyqtgraph.InfiniteLine(position, angle=90, pen=self.dotted())
        self._plot.addItem(line, ignoreBounds=True)
        return line

    # -- drawing

    def prepare(self) -> None:
        """Create the plot; this takes a moment that is better spent before a run than during it."""
        if self._plot is not None:
            return
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        self._plot.getPlotItem().layout.setContentsMargins(0, _ABOVE, 0, _BELOW)
        for side, title in self._titles.items():
            if title:
                self._plot.setLabel(side, title)
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self.add_curves()
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._plot)
        self.restyle()

    def curves(self) -> dict[str, np.ndarray]:
        """Return the drawn curves by name, each ``(N, 2)`` of x and y."""
        items = [] if self._plot is None else self._plot.getPlotItem().listDataItems()
        return {
            item.name() or f"curve {i}": np.column_stack([[] if part is None else part for part in item.getData()])
            for i, item in enumerate(items)
        }

    def mark(self, position: float) -> None:
        """Draw a vertical line, such as the position of a slider."""
        self.prepare()
        if self._marker is None:
            import pyqtgraph

            self._marker = self.vertical_line()
            self._marker.setPen(pyqtgraph.mkPen((128, 128, 128), width=2))
        self._marker.setValue(position)
        self._marker.show()

    @property
    def marked(self) -> float | None:
        """Position of the line that :meth:`mark` has drawn; ``None`` without one."""
        if self._marker is None or not self._marker.isVisible():
            return None
        return float(self._marker.value())

    def unmark(self) -> None:
        """Hide the line of :meth:`mark`."""
        if self._marker is not None:
            self._marker.hide()

    # -- theme

    def restyle(self) -> None:
        """Use the colors of the viewer's current theme."""
        if self._plot is None:
            return
        import pyqtgraph

        self._plot.setBackground(self.color("background"))
        for side in self._titles:
            axis = self._plot.getAxis(side)
            axis.setPen(pyqtgraph.mkPen(self.color("secondary")))
            axis.setTextPen(pyqtgraph.mkPen(self.color("text")))
        self.style_curves()

    @property
    def background(self) -> str:
        """Background of the plot, such as ``"#262930"``; empty before the plot is drawn."""
        return "" if self._plot is None else str(self._plot.backgroundBrush().color().name())

    def color(self, role: str) -> Color:
        """Return a color of the viewer's theme, such as ``"text"``."""
        red, green, blue = getattr(get_theme(self._viewer.theme), role).as_rgb_tuple()[:3]
        return red, green, blue

    @property
    def dark(self) -> bool:
        """Whether the theme is dark."""
        return bool(get_theme(self._viewer.theme).type == "dark")

    @property
    def accent(self) -> Color:
        """An orange that is readable on the theme's background."""
        return (255, 159, 28) if self.dark else (200, 95, 0)

    def set_legend(self, *names: tuple[Color, str]) -> None:
        """Write the names of the curves in their colors above the plot, where they hide no curve."""
        text = "&nbsp;&nbsp;&nbsp;".join(f'<span style="color: rgb{color}">{name}</span>' for color, name in names)
        self._plot.setTitle(text, size="8pt")

    def dotted(self) -> Any:
        """Return the pen of dividing lines."""
        import pyqtgraph

        return pyqtgraph.mkPen(self.color("secondary"), width=1, style=Qt.PenStyle.DotLine)


class CurvesPlot(ThemedPlot):
    """Any number of named curves over the same steps.

    Parameters
    ----------
    viewer
        The viewer whose theme is used.
    bottom, left
        Titles of the axes.
    """

    def __init__(self, viewer: Viewer, bottom: str = "", left: str = "") -> None:
        super().__init__(viewer, bottom, left, "curves", "", heights=(130, 190))
        self._items: dict[str, Any] = {}

    def show_curves(self, curves: dict[str, np.ndarray]) -> None:
        """Draw curves ``(N, 2)`` by name and remove those of before."""
        self.prepare()
        if list(curves) != list(self._items):
            self._plot.clear()
            self._marker = None
            self._items = {name: self._plot.plot([], [], name=name) for name in curves}
            self.restyle()
        for name, points in curves.items():
            points = np.asarray(points, dtype=float).reshape(-1, 2)
            self._items[name].setData(points[:, 0], points[:, 1], connect="finite")

    def style_curves(self) -> None:
        """Color each curve and its name."""
        import pyqtgraph

        colors = _CURVE_COLORS["dark" if self.dark else "light"]
        colored = [(colors[i % len(colors)], name) for i, name in enumerate(self._items)]
        for color, name in colored:
            self._items[name].setPen(pyqtgraph.mkPen(color, width=2))
        self.set_legend(*colored)


class LossPlot(ThemedPlot):
    """Decrease of the loss over the steps of a fit.

    The losses of levels and stages are on different scales and cannot be compared. The curve of each therefore starts
    where the previous one ended, with a dotted line between them.

    Parameters
    ----------
    viewer
        The viewer whose theme is used.
    """

    def __init__(self, viewer: Viewer) -> None:
        tip = "Decrease of the loss (lower is better). A new level or stage starts at each dotted line."
        super().__init__(viewer, "step", "loss", "loss curve", tip)
        self._curve: Any = None
        self._borders: list[Any] = []
        self._losses: list[float] = []
        self._part: tuple[str, int] | None = None
        self._offset = 0.0

    def clear(self) -> None:
        """Start a new curve."""
        self._losses, self._part, self._offset = [], None, 0.0
        if self._plot is not None:
            for border in self._borders:
                self._plot.removeItem(border)
            self._curve.setData([], [])
        self._borders = []

    def add(self, losses: list[tuple[str, int, int, float]]) -> None:
        """Append ``(stage, level, step, loss)`` and draw once.

        A loss that is not finite leaves a gap.
        """
        self.prepare()
        for stage, level, _step, loss in losses:
            if (stage, level) != self._part:
                previous = next((value for value in reversed(self._losses) if np.isfinite(value)), 0.0)
                if self._part is not None:
                    self._offset = previous - loss if np.isfinite(loss) else self._offset
                    self._borders.append(self.vertical_line(len(self._losses)))
                self._part = (stage, level)
            self._losses.append(loss + self._offset if np.isfinite(loss) else np.nan)
        if self._losses:
            self._curve.setData(np.arange(len(self._losses)), np.asarray(self._losses), connect="finite")

    def add_curves(self) -> None:
        """Add the curve."""
        self._curve = self._plot.plot([], [])

    def style_curves(self) -> None:
        """Color the curve and the borders."""
        import pyqtgraph

        self._curve.setPen(pyqtgraph.mkPen(self.accent, width=2))
        for border in self._borders:
            border.setPen(self.dotted())
