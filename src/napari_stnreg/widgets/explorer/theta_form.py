"""Form for theta: the six numbers of the matrix, and sliders for rotation, scale, shear, and shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QLocale, Qt, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QGridLayout, QLabel, QSizePolicy, QSlider, QVBoxLayout, QWidget

from napari_stnreg.widgets.common.forms import Combo, FormLayout

if TYPE_CHECKING:
    from napari_stnreg.teaching import Theta

_STEPS = 1000


class Number(QDoubleSpinBox):
    """Number field that can become narrow and emits a signal only for changes by the user."""

    def __init__(self, tip: str, name: str, low: float, high: float, step: float, decimals: int = 3) -> None:
        super().__init__()
        self.setLocale(QLocale.c())
        self.setRange(low, high)
        self.setDecimals(decimals)
        self.setSingleStep(step)
        self.setToolTip(tip)
        self.setAccessibleName(name)
        # napari's themes give such boxes a minimum width; three in a row do not fit a narrow dock.
        self.setStyleSheet("min-width: 3.6em;")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setKeyboardTracking(False)

    def wheelEvent(self, event: Any) -> None:
        """Scroll the panel unless this field has the focus."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def put(self, value: float) -> None:
        """Set the value without emitting a signal."""
        self.blockSignals(True)
        self.setValue(value)
        self.blockSignals(False)


class ParameterSlider(QWidget):
    """Slider with a number field."""

    changed = Signal()

    def __init__(self, tip: str, name: str, low: float, high: float, step: float, decimals: int) -> None:
        super().__init__()
        self._low, self._high = low, high
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _STEPS)
        self.slider.setToolTip(tip)
        self.slider.setAccessibleName(name)
        self.slider.setMinimumWidth(40)
        self.number = Number(tip, f"{name}, as a number", -1e4, 1e4, step, decimals)
        self.number.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.number.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.setToolTip(tip)
        box = QGridLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.slider, 0, 0)
        box.addWidget(self.number, 0, 1)
        box.setColumnStretch(0, 3)
        box.setColumnStretch(1, 2)
        self.slider.valueChanged.connect(self._on_slider)
        self.number.valueChanged.connect(self._on_number)

    def reach(self, low: float, high: float) -> None:
        """Return the limits of the slider."""
        self._low, self._high = low, high

    @property
    def value(self) -> float:
        """The number."""
        return float(self.number.value())

    def put(self, value: float) -> None:
        """Set the value without emitting a signal."""
        self.number.put(value)
        self.slider.blockSignals(True)
        self.slider.setValue(round(_STEPS * float(np.clip((value - self._low) / (self._high - self._low), 0, 1))))
        self.slider.blockSignals(False)

    def _on_slider(self, position: int) -> None:
        self.number.put(self._low + (self._high - self._low) * position / _STEPS)
        self.changed.emit()

    def _on_number(self, value: float) -> None:
        self.put(value)
        self.changed.emit()


class ThetaForm(QWidget):
    """Theta as a matrix and as parameters; both always agree."""

    changed = Signal(object)
    """Carries the new :class:`~napari_stnreg.teaching.Theta`."""

    def __init__(self) -> None:
        super().__init__()
        self._shape = (2, 2)
        self._theta: Theta | None = None
        self.frame = Combo("Coordinates of the six numbers.", "unit of theta")
        self.frame.addItem("-1 to 1, as in the paper", "normalized")
        self.frame.addItem("pixels about the middle", "pixels")
        self.frame.currentIndexChanged.connect(self._again)
        self.numbers = []
        matrix = QGridLayout()
        matrix.setContentsMargins(0, 0, 0, 0)
        matrix.setHorizontalSpacing(3)
        for row, word in enumerate("xy"):
            matrix.addWidget(QLabel(f"{word} ="), row, 0)
            for column, what in enumerate(("times x", "times y", "plus")):
                tip = f"Row {row + 1}, column {column + 1} of theta: {word} on the input, {what} of the output."
                number = Number(tip, f"theta {row + 1} {column + 1}", -1e4, 1e4, 0.05)
                number.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
                number.setAlignment(Qt.AlignmentFlag.AlignRight)
                number.valueChanged.connect(self._on_number)
                self.numbers.append(number)
                matrix.addWidget(number, row, column + 1)
        self.turners = {
            "rotation": ParameterSlider(
                "Degrees, clockwise on screen, of the sampling grid.", "rotation", -180, 180, 1, 1
            ),
            "scale_x": ParameterSlider(
                "Width of the sampling grid. At 0.5, objects look twice as wide.", "scale x", 0.1, 3, 0.05, 3
            ),
            "scale_y": ParameterSlider(
                "Height of the sampling grid. Negative values mirror.", "scale y", -3, 3, 0.05, 3
            ),
            "shear": ParameterSlider("Shear: change of x for each pixel along y.", "shear", -2, 2, 0.05, 3),
            "shift_x": ParameterSlider("Shift of the sampling grid, in pixels of the input.", "shift x", -1, 1, 1, 1),
            "shift_y": ParameterSlider("Shift of the sampling grid, in pixels of the input.", "shift y", -1, 1, 1, 1),
        }
        rows = FormLayout()
        rows.add("Theta in", self.frame)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(rows)
        box.addLayout(matrix)
        parts = FormLayout()
        for key, turner in self.turners.items():
            parts.add(key.replace("_", " ").capitalize(), turner)
            turner.changed.connect(self._on_turner)
        box.addLayout(parts)

    def show_theta(self, theta: Theta, shape: tuple[int, ...]) -> None:
        """Show a theta of an image of this shape."""
        self._theta, self._shape = theta, (int(shape[0]), int(shape[1]))
        pixels = self.frame.currentData() == "pixels"
        values = theta.matrix if pixels else theta.normalized(self._shape)
        for number, value in zip(self.numbers, values.ravel(), strict=True):
            number.put(value)
        for key, side in (("shift_x", self._shape[1]), ("shift_y", self._shape[0])):
            self.turners[key].reach(-side, side)
        try:
            parts = theta.parameters()
        except ValueError:  # a grid without width has no parts; the six numbers still hold
            parts = None
        for key, turner in self.turners.items():
            turner.setEnabled(parts is not None)
            if parts is not None:
                turner.put(getattr(parts, key))

    def _again(self) -> None:
        if self._theta is not None:
            self.show_theta(self._theta, self._shape)

    def _on_number(self) -> None:
        from napari_stnreg.teaching import Theta

        if self._theta is None:
            return
        # What was not touched keeps its digits beyond those shown.
        pixels = self.frame.currentData() == "pixels"
        before = self._theta.matrix if pixels else self._theta.normalized(self._shape)
        values = before.ravel().copy()
        for i, number in enumerate(self.numbers):
            if abs(number.value() - values[i]) > 0.5 * 10 ** -number.decimals():
                values[i] = number.value()
        matrix = values.reshape(2, 3)
        self.changed.emit(Theta(matrix) if pixels else Theta.from_normalized(matrix, self._shape))

    def _on_turner(self) -> None:
        from dataclasses import replace

        from napari_stnreg.teaching import Theta

        if self._theta is None:
            return
        sender = self.sender()
        parts = self._theta.parameters()
        for key, turner in self.turners.items():
            if turner is sender:
                parts = replace(parts, **{key: turner.value})
        self.changed.emit(Theta.from_parameters(parts))
