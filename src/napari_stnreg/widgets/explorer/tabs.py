"""The four tabs below theta: grid, direction, sampler, gradient. They are forms only; the panel reacts to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, help_label
from napari_stnreg.widgets.common.plot import LossPlot
from napari_stnreg.widgets.explorer.pixel_view import PixelView
from napari_stnreg.widgets.explorer.theta_form import Number

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Count(QSpinBox):
    """Integer field that can become narrow."""

    def __init__(self, tip: str, name: str, low: int, high: int, value: int) -> None:
        super().__init__()
        self.setRange(low, high)
        self.setValue(value)
        self.setToolTip(tip)
        self.setAccessibleName(name)
        self.setMinimumWidth(48)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: Any) -> None:
        """Scroll the panel unless this field has the focus."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def put(self, value: int) -> None:
        """Set the value without emitting a signal."""
        self.blockSignals(True)
        self.setValue(value)
        self.blockSignals(False)


class Tab(QWidget):
    """Base class of the tabs: widgets in a column."""

    title = ""
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(6, 8, 6, 6)
        self.column.setSpacing(6)


class GridTab(Tab):
    """Grid generator, with the output pixel under the pointer enlarged."""

    title = "Grid"

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        rows = FormLayout()
        self.count = Count("Grid points along the longer side.", "grid points", 2, 33, 9)
        rows.add("Points", self.count)
        self.links = QCheckBox("Join the points")
        self.links.setToolTip("Lines from the grid on the output to the sampling points on the input.")
        self.view = PixelView(viewer)
        self.words = help_label(small=False)
        self.column.addLayout(rows)
        for part in (self.links, self.view, self.words):
            self.column.addWidget(part)
        self.column.addStretch(1)
        self.count.valueChanged.connect(self.changed)
        self.links.toggled.connect(self.changed)


class DirectionTab(Tab):
    """Compare pull-back and push-forward."""

    title = "Direction"

    def __init__(self) -> None:
        super().__init__()
        self.column.addWidget(
            help_label(
                "Pull-back (upper right): every output pixel samples the input, so every one gets a value.\n\n"
                "Push-forward (below): every input pixel is sent to the nearest output pixel. Some "
                "get none and stay holes. Some get several.",
                small=False,
            )
        )
        self.words = help_label(small=False)
        self.column.addWidget(self.words)
        self.column.addStretch(1)


class SamplerTab(Tab):
    """Kernel, padding, and the size of the output."""

    title = "Sampler"

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Combo("Interpolation: how a value between pixels is computed.", "kernel")
        for text, data in (("bilinear", "linear"), ("integer (nearest)", "nearest"), ("cubic", "cubic")):
            self.kernel.addItem(text, data)
        self.padding = Combo("Values outside the image.", "padding")
        for text, data in (("zeros", "zeros"), ("border value", "border"), ("mirrored", "reflection")):
            self.padding.addItem(text, data)
        self.height_box = Count("Rows of the output.", "output height", 2, 4096, 2)
        self.width_box = Count("Columns of the output.", "output width", 2, 4096, 2)
        self.full, self.quarter, self.tenth = (
            button(text, f"Make the output {word} of the input.")
            for text, word in (("1", "the size"), ("1/4", "a quarter"), ("1/10", "a tenth"))
        )
        rows = FormLayout()
        rows.add("Kernel", self.kernel)
        rows.add("Padding", self.padding)
        rows.add("Height", self.height_box)
        rows.add("Width", self.width_box)
        sizes = QGridLayout()
        sizes.setContentsMargins(0, 0, 0, 0)
        for i, each in enumerate((self.full, self.quarter, self.tenth)):
            each.setMinimumWidth(36)
            sizes.addWidget(each, 0, i)
        self.words = help_label(
            "An output with fewer pixels reads the input at points far apart: pixels between them are missed, and fine "
            "patterns turn into coarse ones that are not there (aliasing, upper right). Below it each pixel is the "
            "mean over its area.",
            small=False,
        )
        self.column.addLayout(rows)
        self.column.addLayout(sizes)
        self.column.addWidget(self.words)
        self.column.addStretch(1)
        for box in (self.kernel, self.padding):
            box.currentIndexChanged.connect(self.changed)
        for count in (self.height_box, self.width_box):
            count.valueChanged.connect(self.changed)


class GradientTab(Tab):
    """Loss, gradient, and steps of gradient descent."""

    title = "Gradient"

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.goal = Combo("Target image of the output.", "goal")
        self.smoothing = Number(
            "Blur of both images before the comparison, in pixels. More blur finds larger displacements.",
            "smoothing",
            0,
            100,
            1,
            1,
        )
        self.length = Number("Largest movement of the grid in one step, in pixels.", "step length", 0.01, 200, 1, 2)
        self.smoothing.put(4)
        self.length.put(4)
        rows = FormLayout()
        rows.add("Goal", self.goal)
        rows.add("Smoothing", self.smoothing)
        rows.add("Step", self.length)
        self.back = button("◀ Back", "Undo the last gradient step.")
        self.step = button("Step ▶", "Take one step of gradient descent.")
        self.run = button("Run", "Step until no step lowers the loss.")
        self.run.setCheckable(True)
        self.randomize = button("Random", "Draw a random transform, from which gradient descent can start.")
        buttons = QGridLayout()
        buttons.setContentsMargins(0, 0, 0, 0)
        for i, each in enumerate((self.randomize, self.back, self.step, self.run)):
            each.setMinimumWidth(40)
            buttons.addWidget(each, i // 2, i % 2)
        self.words = help_label(small=False)
        self.plot = LossPlot(viewer)
        self.column.addLayout(rows)
        self.column.addLayout(buttons)
        self.column.addWidget(self.words)
        self.column.addWidget(self.plot)
        self.column.addStretch(1)
        self.goal.currentIndexChanged.connect(self.changed)
        self.smoothing.valueChanged.connect(self.changed)
