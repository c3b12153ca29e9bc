"""XZ and YZ cuts through a stack, before and after, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QImage, QPainter
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget


class Picture(QWidget):
    """A grey picture that fills its widget; each of its rows is one section."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._image: QImage | None = None
        self._bytes: Any = None
        self._aspect = 1.0
        self.setAccessibleName(name)
        self.setMinimumSize(80, 40)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_cut(self, cut: np.ndarray, limits: tuple[float, float], aspect: float) -> None:
        """Show a cut ``(z, n)``, grey between the limits; a section is ``aspect`` pixels thick."""
        low, high = limits
        grey = np.clip((cut.astype(float) - low) / max(high - low, 1e-9), 0, 1)
        self._bytes = np.ascontiguousarray(np.rint(255 * grey), dtype=np.uint8)
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
    """Four pictures: XZ and YZ, before and after."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(6, 6, 6, 6)
        grid.setSpacing(4)
        self.pictures: dict[tuple[str, str], Picture] = {}
        for column, when in enumerate(("before", "after")):
            for row, plane in enumerate(("XZ", "YZ")):
                title = QLabel(f"{plane} {when}")
                title.setAlignment(Qt.AlignmentFlag.AlignCenter)
                picture = Picture(f"{plane} {when}")
                self.pictures[plane, when] = picture
                grid.addWidget(title, 2 * row, column)
                grid.addWidget(picture, 2 * row + 1, column)
        for row in (1, 3):
            grid.setRowStretch(row, 1)
        self.setMinimumSize(200, 160)

    def show_cuts(self, cuts: Any, limits: tuple[float, float], aspect: float) -> None:
        """Show what :func:`~napari_stnreg.widgets.align_tasks.reslice` made."""
        for plane, pair in (("XZ", cuts.xz), ("YZ", cuts.yz)):
            for when, cut in zip(("before", "after"), pair, strict=True):
                self.pictures[plane, when].show_cut(cut, limits, aspect)
