"""The form of the stack panel: the stack and the settings of its alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_stnreg.core.memory import format_bytes
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, help_label
from napari_stnreg.widgets.common.settings_form import FieldStyle, SettingsForm

if TYPE_CHECKING:
    from napari.viewer import Viewer


class AlignForm(QWidget):
    """Stack and :class:`~napari_stnreg.stacks.settings.StackSettings`.

    Parameters
    ----------
    viewer
        The napari viewer whose layers are listed.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.stack = Combo("Sections along the first axis (z, y, x), in memory or lazily loaded.", "stack")
        self.stack_info = help_label()
        self.settings = SettingsForm(
            StackSettings,
            {
                "motion": FieldStyle(),
                "deform": FieldStyle("Deform sections"),
                "trend": FieldStyle(show_help=True),
            },
            {
                "features": FieldStyle(show_help=True),
                "neighbors": FieldStyle(step=1),
                "long_range_stride": FieldStyle("Long-range stride", empty="off"),
                "search_rotations": FieldStyle("Search all rotations"),
                "mirror": FieldStyle("Search mirrored sections"),
                "reorder": FieldStyle("Correct the order"),
                "split_at_cracks": FieldStyle("Split at cracks"),
                "reference": FieldStyle("Fixed section", empty="none"),
                "position_weight": FieldStyle("Position weight"),
                "smoothness": FieldStyle(),
                "working_size": FieldStyle("Working size"),
            },
        )
        self.threads = OptionalNumber("Sections processed at the same time.", "threads", 1, 256, whole=True,
                                      empty="all cores")  # fmt: skip
        self.memory = OptionalNumber("Memory of all threads together, in GiB.", "memory", 0.1, 4096)
        self.settings.advanced_rows.add("Threads", self.threads)
        self.settings.advanced_rows.add("Memory, GiB", self.memory)
        self.advanced = self.settings.advanced
        rows = FormLayout()
        rows.add("Stack", self.stack)
        rows.add_full_width(self.stack_info)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(rows)
        column.addWidget(self.settings)
        self.stack.currentIndexChanged.connect(self._describe)

    def field(self, name: str) -> Any:
        """Return the widget of a setting."""
        return self.settings.field(name)

    @property
    def layer(self) -> Any:
        """The selected layer, or ``None``."""
        return self.stack.currentData()

    def refresh(self, leave_out: set[Any]) -> None:
        """List the viewer's gray 3D image layers without the results of this panel."""
        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and layer.ndim == 3 and not layer.rgb and layer not in leave_out
        ]
        self.stack.set_items([(layer.name, layer) for layer in layers], self.layer)
        self._describe()

    def _describe(self, _index: int = 0) -> None:
        layer = self.layer
        if layer is None:
            images = any(isinstance(one, Image) for one in self._viewer.layers)
            self.stack_info.setText(
                "None of the images is a stack. A stack is gray and has the three axes (z, y, x)."
                if images
                else "Open a stack (z, y, x) as an image layer first."
            )
            return
        data = layer.data[0] if layer.multiscale else layer.data
        z, y, x = data.shape
        size = format_bytes(z * y * x * data.dtype.itemsize)
        self.stack_info.setText(f"{z} section{'s' if z != 1 else ''} of {y} x {x} pixels, {data.dtype}, {size}")

    def values(self) -> dict[str, Any]:
        """Keyword arguments of :class:`StackSettings`; empty fields are left out."""
        return self.settings.values()
