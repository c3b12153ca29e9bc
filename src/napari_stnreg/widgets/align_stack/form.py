"""The form of the alignment panel: which stack, and what may be done to it, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtWidgets import QCheckBox, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.stacks.settings import TREND_HELP
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, collapsible, help_label

if TYPE_CHECKING:
    from napari.viewer import Viewer

MOTIONS = [("Shift and turn", "rigid"), ("Shift only", "translation"), ("Shift, turn and stretch", "affine")]
FEATURES = [
    ("Local contrast", "lncc"),
    ("Brightness without shading", "bandpass"),
    ("Plain brightness", "intensity"),
    ("A network trained on this stack", "auto-encoder"),
]


class AlignForm(QWidget):
    """Stack and settings.

    Parameters
    ----------
    viewer
        The napari viewer whose layers are offered.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.stack = Combo("Sections along the first axis (z, y, x), in memory or lazily loaded.", "stack")
        self.note = help_label()
        self.motion = Combo("What the first pass may do to a whole section.", "motion")
        self.motion.set_items(MOTIONS)
        self.deform = QCheckBox("Bend sections to fit")
        self.deform.setToolTip("Follow with a second pass that bends each section by a grid of vectors.")
        self.deform.setChecked(True)
        self.trend = Combo(
            "Treatment of slow changes along the stack: oblique neurites keep their slope, or are straightened for a "
            "closer fit.",
            "trend",
        )
        self.trend.set_items([(name, name) for name in TREND_HELP])
        self.trend_note = help_label()
        self.features = Combo("What is compared between neighbors.", "compare by")
        self.features.set_items(FEATURES)
        self.neighbors = QSpinBox()
        self.neighbors.setRange(1, 8)
        self.neighbors.setValue(2)
        self.neighbors.setToolTip("Neighbors before and after that each section is compared with.")
        self.long_range_stride = OptionalNumber(
            "Also match each section with the one this many sections ahead, if both share outlines; errors then "
            "accumulate less along the stack.", "long-range stride", 3, 64, whole=True, empty="none")  # fmt: skip
        self.search_rotations = self._box("Search all rotations", "Search for sections rotated by any angle.", True)
        self.mirror = self._box("Search mirrored sections", "Search for mirrored sections, too.", False)
        self.split_at_cracks = self._box("Split at cracks", "Detect cracks and move the fragments independently.", True)
        self.reference = OptionalNumber("A section that stays where it is.", "fixed section", 0, 10**6, whole=True,
                                        empty="none")  # fmt: skip
        self.working_size = OptionalNumber(
            "Longest side, in pixels, at which sections are compared.", "working size", 64,
                                   8192, whole=True)  # fmt: skip
        self.position_weight = OptionalNumber(
            "Weight of the recorded positions; more moves less and keeps more of the slope.", "position weight",
            0, 100, empty="1")  # fmt: skip
        self.smoothness = OptionalNumber("Stiffness of the bending; more is stiffer.", "smoothness", 0.01, 100,
                                         empty="1")  # fmt: skip
        self.threads = OptionalNumber("Sections worked on at a time.", "threads", 1, 256, whole=True, empty="all cores")
        self.memory = OptionalNumber("What all of them together may take, in GB.", "memory", 0.1, 4096)

        rows = FormLayout()
        rows.add("Stack", self.stack)
        rows.add_full_width(self.note)
        rows.add("Sections may", self.motion)
        rows.add_full_width(self.deform)
        rows.add("Trend", self.trend)
        rows.add_full_width(self.trend_note)
        more = QWidget()
        inner = FormLayout()
        inner.add("Compare", self.features)
        inner.add("Neighbors", self.neighbors)
        inner.add("Long-range stride", self.long_range_stride)
        for box in (self.search_rotations, self.mirror, self.split_at_cracks):
            inner.add_full_width(box)
        inner.add("Fixed section", self.reference)
        inner.add("Position weight", self.position_weight)
        inner.add("Smoothness", self.smoothness)
        inner.add("Working size", self.working_size)
        inner.add("Threads", self.threads)
        inner.add("Memory, GB", self.memory)
        more.setLayout(inner)
        self.more = collapsible("More choices", more, "What is rarely changed.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(rows)
        column.addWidget(self.more)
        self.stack.currentIndexChanged.connect(self._describe)
        self.trend.currentIndexChanged.connect(self._explain)
        self._explain()

    @staticmethod
    def _box(text: str, tip: str, checked: bool) -> QCheckBox:
        box = QCheckBox(text)
        box.setToolTip(tip)
        box.setChecked(checked)
        return box

    @property
    def layer(self) -> Any:
        """The chosen layer, or ``None``."""
        return self.stack.currentData()

    def refresh(self, leave_out: set[Any]) -> None:
        """Offer the viewer's gray 3D image layers, the results of this panel aside."""
        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and layer.ndim == 3 and not layer.rgb and layer not in leave_out
        ]
        self.stack.set_items([(layer.name, layer) for layer in layers], self.layer)
        self._describe()

    def _explain(self, _index: int = 0) -> None:
        self.trend_note.setText(TREND_HELP[self.trend.currentData()])

    def _describe(self, _index: int = 0) -> None:
        layer = self.layer
        if layer is None:
            images = any(isinstance(one, Image) for one in self._viewer.layers)
            self.note.setText(
                "None of the images is a stack: gray, with the three axes (z, y, x)."
                if images
                else "Open a stack (z, y, x) as an image layer first."
            )
            return
        data = layer.data[0] if layer.multiscale else layer.data
        z, y, x = data.shape
        megabytes = z * y * x * data.dtype.itemsize / 2**20
        size = f"{megabytes / 1024:.1f} GB" if megabytes >= 100 else f"{megabytes:.1f} MB"
        self.note.setText(f"{z} section{'s' if z != 1 else ''} of {y} x {x} pixels, {data.dtype}, {size}")

    def values(self) -> dict[str, Any]:
        """Fields of the settings."""
        values = {
            "motion": self.motion.currentData(),
            "deform": self.deform.isChecked(),
            "trend": self.trend.currentData(),
            "features": self.features.currentData(),
            "neighbors": self.neighbors.value(),
            "long_range_stride": int(self.long_range_stride.value or 0),
            "search_rotations": self.search_rotations.isChecked(),
            "mirror": self.mirror.isChecked(),
            "split_at_cracks": self.split_at_cracks.isChecked(),
            "reference": self.reference.value,
        }
        numbers = {
            "working_size": self.working_size,
            "position_weight": self.position_weight,
            "smoothness": self.smoothness,
        }
        return values | {name: number.value for name, number in numbers.items() if number.value is not None}
