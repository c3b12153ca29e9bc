"""Enlarged view of one output pixel: its neighbors in the input, and the bilinear weights as areas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.teaching import InterpolationStencil

_COLORS = ("#e83f6f", "#ff9f1c", "#2ec4f3", "#7bd389")
"""One for each of the four neighbors, and for the rectangle whose area is its weight."""


class PixelView(QWidget):
    """Draws a :class:`~napari_stnreg.teaching.InterpolationStencil`.

    Pixels are squares filled with what they hold, with their centers marked. The place that is sampled cuts the square
    between the four centers into four rectangles: the area of each is the weight of the neighbor *opposite* to it.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._look: InterpolationStencil | None = None
        self._kernel = "linear"
        self._limits = (0.0, 1.0)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("the sampled pixels and their weights")
        self.setToolTip("The pixels of the input that the output pixel under the pointer reads.")

    def sizeHint(self) -> QSize:
        """Return a square that grows with the text."""
        return QSize(200, round(13.5 * self.fontMetrics().height()))

    def show_look(self, look: InterpolationStencil | None, kernel: str, limits: tuple[float, float]) -> None:
        """Draw this interpolation_stencil; brightness runs between the limits."""
        self._look, self._kernel, self._limits = look, kernel, limits
        self.update()

    def paintEvent(self, _event: Any) -> None:
        """Draw it."""
        theme = get_theme(self._viewer.theme)
        text = QColor(*theme.text.as_rgb_tuple()[:3])
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._look is None:
            painter.setPen(text)
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.rect(), int(flags), "Move the pointer over the output.")
            return
        reach = 2 if self._kernel == "cubic" else 1
        # Drawn are the pixels from the cell's corner: one to each side for four, two for sixteen.
        side = min(self.width(), self.height()) / (2 * reach)
        corner = QPointF((self.width() - 2 * reach * side) / 2, (self.height() - 2 * reach * side) / 2)
        first = np.array(self._look.cell) - (reach - 1)

        def at(place: Any) -> QPointF:
            y, x = (np.asarray(place, dtype=float) - first + 0.5) * side
            return QPointF(corner.x() + x, corner.y() + y)

        self._pixels(painter, at, side, first, reach)
        if self._kernel == "linear":
            self._areas(painter, at)
        self._numbers(painter, at, side)
        painter.setPen(QPen(QColor("black"), 1))
        painter.setBrush(QColor("#ffe14d"))
        painter.drawEllipse(at(self._look.position), side * 0.06 * reach, side * 0.06 * reach)

    def _pixels(self, painter: QPainter, at: Any, side: float, first: Any, reach: int) -> None:
        assert self._look is not None
        low, high = self._limits
        held = {n.index: n for n in self._look.neighbors}
        for y in range(2 * reach):
            for x in range(2 * reach):
                index = (int(first[0]) + y, int(first[1]) + x)
                middle = at(index)
                box = QRectF(middle.x() - side / 2, middle.y() - side / 2, side, side)
                neighbor = held.get(index)
                painter.setPen(QPen(QColor("#808080"), 1))
                if neighbor is None or not neighbor.inside:
                    painter.setBrush(Qt.BrushStyle.BDiagPattern)
                else:
                    fraction = np.clip((np.resize(neighbor.value, 3) - low) / max(high - low, 1e-12), 0, 1)
                    if len(neighbor.value) == 1:
                        fraction[:] = fraction[0]
                    painter.setBrush(QColor.fromRgbF(*(float(v) for v in fraction)))
                painter.drawRect(box)

    def _areas(self, painter: QPainter, at: Any) -> None:
        assert self._look is not None
        here = at(self._look.position)
        cell = np.array(self._look.cell)
        # Read from the last neighbor backwards: the rectangle beside a corner is the weight of the opposite one.
        for i, tap in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            color = QColor(_COLORS[3 - i])
            color.setAlpha(150)
            painter.setBrush(color)
            painter.setPen(QPen(QColor("white"), 1.5))
            painter.drawRect(QRectF(at(cell + tap), here).normalized())

    def _numbers(self, painter: QPainter, at: Any, side: float) -> None:
        assert self._look is not None
        taps = {tuple(np.array(self._look.cell) + tap): i for i, tap in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)))}
        for neighbor in self._look.neighbors:
            where = neighbor.index
            middle = at(where)
            digits = f"{neighbor.weight:.3f}" if self._kernel == "linear" else f"{neighbor.weight:.2f}"
            box = QRectF(middle.x() - side / 2, middle.y() - side / 2, side, side)
            # At the outer corner of its pixel, outside all rectangles.
            up = self._kernel != "cubic" and taps.get(where, 0) < 2
            flag = Qt.AlignmentFlag.AlignTop if up else Qt.AlignmentFlag.AlignBottom
            if self._kernel == "cubic":
                flag = Qt.AlignmentFlag.AlignVCenter
            metrics = painter.fontMetrics()
            high, wide = metrics.height() + 2, metrics.horizontalAdvance(digits) + 8
            top = box.top() + 2 if flag == Qt.AlignmentFlag.AlignTop else box.bottom() - high - 2
            if flag == Qt.AlignmentFlag.AlignVCenter:
                top = middle.y() - high / 2
            label = QRectF(middle.x() - wide / 2, top, wide, high)
            color = QColor(_COLORS[taps.get(where, 0)]) if self._kernel == "linear" else QColor("#ffe14d")
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawRoundedRect(label, 3, 3)
            painter.setPen(QColor("black"))
            painter.drawText(label, int(Qt.AlignmentFlag.AlignCenter), digits)


def described(look: InterpolationStencil, pixel: tuple[int, int], kernel: str) -> str:
    """Describe the picture in words and numbers."""
    y, x = look.position
    value = ", ".join(f"{v:.4g}" for v in look.value)
    head = (
        f"Output pixel (y {pixel[0]}, x {pixel[1]}) samples at y {y:.3f}, x {x:.3f}: "
        f"{look.fraction[0]:.3f} below and {look.fraction[1]:.3f} right of pixel {look.cell}."
    )
    if kernel == "nearest":
        one = look.neighbors[0]
        return (
            f"{head}\nInteger kernel: the one neighbor {one.index}, weight 1, value {value}. A small step of theta "
            "changes nothing, so the gradient is 0 and nothing can be learned through it."
        )
    if kernel == "cubic":
        return f"{head}\nCubic kernel: sixteen neighbors, some with negative weights. The sum is {value}."
    if len(look.value) > 1:
        return f"{head}\nThe four neighbors, weighted by area, make {value}."
    terms = " + ".join(f"{n.weight:.3f} · {n.value[0]:.4g}" for n in look.neighbors)
    return f"{head}\n{terms} = {value}"
