"""A small plot in a panel, in the colors of the viewer. pyqtgraph is imported when it is first needed."""

from __future__ import annotations

from typing import Any

from napari.utils.theme import get_theme
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

Color = tuple[int, int, int]


class ThemedPlot(QWidget):
    """Axes without a menu; subclasses add their curves and say how these look.

    Parameters
    ----------
    viewer
        Whose theme it follows.
    bottom, left
        Titles of the axes.
    name, tip
        What a screen reader says, and the tooltip.
    """

    def __init__(self, viewer: Any, bottom: str, left: str, name: str, tip: str) -> None:
        super().__init__()
        self._viewer = viewer
        self._titles = {"bottom": bottom, "left": left}
        self._plot: Any = None
        self.setMinimumHeight(110)
        self.setMaximumHeight(160)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setToolTip(tip)
        self.setAccessibleName(name)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)

    def add_curves(self) -> None:
        """Add the curves to the plot that has just been made."""

    def style_curves(self) -> None:
        """Give the curves the theme's colors."""

    def prepare(self) -> None:
        """Make the plot, which takes a moment that is better spent before a run than in it."""
        if self._plot is not None:
            return
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.hideButtons()
        for side, title in self._titles.items():
            self._plot.setLabel(side, title)
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self.add_curves()
        self.layout().addWidget(self._plot)
        self.restyle()

    def restyle(self) -> None:
        """Take the colors of the viewer's theme."""
        if self._plot is None:
            return
        import pyqtgraph

        self._plot.setBackground(self.color("background"))
        for side in self._titles:
            axis = self._plot.getAxis(side)
            axis.setPen(pyqtgraph.mkPen(self.color("secondary")))
            axis.setTextPen(pyqtgraph.mkPen(self.color("text")))
        self.style_curves()

    def color(self, role: str) -> Color:
        """A color of the viewer's theme, such as ``"text"``."""
        red, green, blue = getattr(get_theme(self._viewer.theme), role).as_rgb_tuple()[:3]
        return red, green, blue

    @property
    def dark(self) -> bool:
        """Whether the theme is."""
        return bool(get_theme(self._viewer.theme).type == "dark")

    @property
    def accent(self) -> Color:
        """An orange that can be read on the theme's background."""
        return (255, 159, 28) if self.dark else (200, 95, 0)

    def name_curves(self, *names: tuple[Color, str]) -> None:
        """Write the curves' names, each in its color, above the plot: within, they would lie on the curves."""
        text = "&nbsp;&nbsp;&nbsp;".join(f'<span style="color: rgb{color}">{name}</span>' for color, name in names)
        self._plot.setTitle(text, size="8pt")

    def dotted(self) -> Any:
        """The pen of lines that divide."""
        import pyqtgraph

        return pyqtgraph.mkPen(self.color("secondary"), width=1, style=Qt.PenStyle.DotLine)
