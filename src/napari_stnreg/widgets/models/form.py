"""Which trained model registers the pair, if any, and whether its answer is refined."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QSlider, QSpinBox, QWidget

from napari_stnreg.widgets.common.forms import FormLayout
from napari_stnreg.widgets.models.combo import ModelList
from napari_stnreg.widgets.models.session import KnownModel

_STEPS_PER_DECADE = 20
"""Steps of the logarithmic smoothness slider between 1 and 10."""


class ModelChoice(QWidget):
    """The choice between optimizing the pair and a trained model.

    Signals
    -------
    changed(), failed(str)
    smoothness_moved(float)
        The user moved the smoothness slider, which is shown for conditional models.
    """

    changed = Signal()
    failed = Signal(str)
    smoothness_moved = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        tip = "A trained network registers in one pass. Without one, the pair is optimized."
        self.box = ModelList(tip, "model", "none (optimize this pair)")
        self.about = self.box.about
        self.refine_box = QCheckBox("Refine for this pair")
        self.refine_box.setToolTip("Start from the model's transform and optimize it for this pair.")
        self.steps_box = QSpinBox()
        self.steps_box.setRange(1, 10000)
        self.steps_box.setValue(50)
        self.steps_box.setSuffix(" steps")
        self.steps_box.setToolTip("How many steps of optimization.")
        self.steps_box.setAccessibleName("steps of refinement")
        self._refining = QWidget()
        row = QHBoxLayout(self._refining)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.refine_box, 1)
        row.addWidget(self.steps_box)
        self.smoothness_slider = QSlider(Qt.Orientation.Horizontal)
        self.smoothness_slider.setRange(-_STEPS_PER_DECADE, _STEPS_PER_DECADE)
        self.smoothness_slider.setPageStep(_STEPS_PER_DECADE // 4)
        self.smoothness_slider.setToolTip(
            "Smoothness of the transform, from 0.1 to 10. The training used 1. After a run, the result follows."
        )
        self.smoothness_slider.setAccessibleName("smoothness of the model")
        self._smoothness_label = QLabel()
        self._smoothness_label.setMinimumWidth(self._smoothness_label.fontMetrics().horizontalAdvance("0.00 "))
        self._smoothness = QWidget()
        row = QHBoxLayout(self._smoothness)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.smoothness_slider, 1)
        row.addWidget(self._smoothness_label)
        self._rows = rows = FormLayout()
        rows.add("Model", self.box)
        rows.add_full_width(self.about)
        rows.add("Smoothness", self._smoothness)
        rows.add_full_width(self._refining)
        self.setLayout(rows)
        self.box.changed.connect(self._show)
        self.box.failed.connect(self.failed)
        self.refine_box.toggled.connect(self._show)
        self.steps_box.valueChanged.connect(self.changed)
        self.smoothness_slider.valueChanged.connect(self._on_smoothness)
        self.set_smoothness(1.0)
        self._show()

    @property
    def chosen(self) -> KnownModel | None:
        """The model, or ``None`` where the pair is optimized."""
        return self.box.chosen

    @property
    def refine(self) -> int:
        """Steps of optimization after the model's pass; 0 for none."""
        return self.steps_box.value() if self.chosen is not None and self.refine_box.isChecked() else 0

    def refresh(self) -> None:
        """Take up the session's models."""
        self.box.refresh()

    def select(self, entry: KnownModel | None) -> None:
        """Choose a model of the list, or none."""
        self.box.take(entry)

    def load(self, path: str) -> None:
        """Load a model in the background and choose it."""
        self.box.load(path)

    def set_smoothness(self, value: float) -> None:
        """Show a smoothness; the slider has the nearest of its steps."""
        self.smoothness_slider.blockSignals(True)
        self.smoothness_slider.setValue(round(_STEPS_PER_DECADE * math.log10(value)))
        self.smoothness_slider.blockSignals(False)
        self._smoothness_label.setText(f"{value:.3g}")

    def _on_smoothness(self, step: int) -> None:
        value = round(10 ** (step / _STEPS_PER_DECADE), 2)
        self._smoothness_label.setText(f"{value:.3g}")
        self.smoothness_moved.emit(value)

    def _show(self, _checked: bool = False) -> None:
        conditional = self.chosen is not None and self.chosen.model is not None and self.chosen.model.is_conditional
        self._rows.set_row_visible(self._smoothness, conditional)
        self._refining.setVisible(self.chosen is not None)
        self.steps_box.setEnabled(self.refine_box.isChecked())
        self.changed.emit()

    # -- between sessions

    def state(self) -> dict[str, Any]:
        """Return what is stored between sessions."""
        return {"path": self.box.path, "refine": self.refine_box.isChecked(), "steps": self.steps_box.value()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave; a file that is gone is passed over."""
        self.box.restore(state.get("path"))
        self.refine_box.setChecked(bool(state.get("refine", False)))
        if isinstance(state.get("steps"), int):
            self.steps_box.setValue(state["steps"])
