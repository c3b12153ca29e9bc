"""XZ and YZ cuts through a stack, before and after, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QImage, QPainter
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget


class Picture(QWidget):
    """A gray picture that fills its widget; each of its rows is one section."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._image: QImage | None = None
        self._bytes: Any = None
        self._aspect = 1.0
        self.setAccessibleName(name)
        self.setMinimumSize(80, 40)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_cut(self, cut: np.ndarray, limits: tuple[float, float], aspect: float) -> None:
        """Show a cut ``(z, n)``, gray between the limits; a section is ``aspect`` pixels thick."""
        low, high = limits
        gray = np.clip((cut.astype(float) - low) / max(high - low, 1e-9), 0, 1)
        self._bytes = np.ascontiguousarray(np.rint(255 * gray), dtype=np.uint8)
        height, width = self._bytes.shape
        self._image = QImage(self._bytes.data, width, height, width, QImage.Format.Format_Grayscale8)
        self._aspect = height * aspect / width
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Draw the picture as large as it fits; thin stacks are stretched until they can be read."""
        if self._image is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
        wide, high = self.width(), self.height()
        tall = min(max(self._aspect, 0.25) * wide, high)
        painter.drawImage(QRectF(0, (high - tall) / 2, wide, tall), self._image)
        painter.end()


class ResliceView(QWidget):
    """Four pictures: XZ and YZ, before beside after; all in a row where there is room, else one plane below the other.

    Sections are few and pixels many: in a row each picture gets twice the height, by which steps between sections show.
    """

    ROW = 640
    """Width from which all stand in a row."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(6, 6, 6, 6)
        self._grid.setSpacing(4)
        self.pictures: dict[tuple[str, str], Picture] = {}
        self._cells: dict[tuple[str, str], QWidget] = {}
        for plane in ("XZ", "YZ"):
            for when in ("before", "after"):
                title = QLabel(f"{plane} {when}")
                title.setAlignment(Qt.AlignmentFlag.AlignCenter)
                picture = self.pictures[plane, when] = Picture(f"{plane} {when}")
                cell = self._cells[plane, when] = QWidget()
                column = QVBoxLayout(cell)
                column.setContentsMargins(0, 0, 0, 0)
                column.setSpacing(2)
                column.addWidget(title)
                column.addWidget(picture, 1)
        self._in_row: bool | None = None
        self._arrange(True)

    def sizeHint(self) -> QSize:
        """High enough to see steps between sections."""
        return QSize(900, 190)

    def resizeEvent(self, event: Any) -> None:
        """Arrange the views in one row or two."""
        self._arrange(self.width() >= self.ROW)
        super().resizeEvent(event)

    def _arrange(self, in_row: bool) -> None:
        if in_row == self._in_row:
            return
        self._in_row = in_row
        for (plane, when), cell in self._cells.items():
            below, right = plane == "YZ", when == "after"
            self._grid.addWidget(cell, *((0, 2 * below + right) if in_row else (int(below), int(right))))
        for column in range(4):
            self._grid.setColumnStretch(column, int(in_row or column < 2))
        self._grid.setRowStretch(1, int(not in_row))
        self._grid.setRowStretch(0, 1)

    def show_cuts(self, cuts: Any, limits: tuple[float, float], aspect: float) -> None:
        """Show what :func:`~napari_stnreg.widgets.align_stack.tasks.reslice` made."""
        for plane, pair in (("XZ", cuts.xz), ("YZ", cuts.yz)):
            for when, cut in zip(("before", "after"), pair, strict=True):
                self.pictures[plane, when].show_cut(cut, limits, aspect)
