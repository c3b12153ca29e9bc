"""The form of the transform workbench."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QGridLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.io.transform_entry import TransformEntry
from napari_stnreg.widgets.common.forms import (
    Combo,
    FormLayout,
    button,
    button_row,
    collapsible,
    emphasize,
    heading,
    help_label,
)
from napari_stnreg.widgets.transforms.tasks import PICTURES


class TransformList(QListWidget):
    """List of transforms by name."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("transforms")
        self.setToolTip("The transforms of this session's result layers, and those loaded or made here.")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.fit()

    @property
    def chosen(self) -> TransformEntry | None:
        """The selected transform."""
        item = self.currentItem()
        return None if item is None else item.data(Qt.ItemDataRole.UserRole)

    @property
    def transforms(self) -> list[TransformEntry]:
        """All transforms in the list."""
        return [self.item(row).data(Qt.ItemDataRole.UserRole) for row in range(self.count())]

    def show_transforms(self, transforms: list[TransformEntry], choose: TransformEntry | None) -> None:
        """Replace the entries without a signal; select the last if the selected one is gone."""
        self.blockSignals(True)
        self.clear()
        for entry in transforms:
            item = QListWidgetItem(entry.name)
            item.setData(Qt.ItemDataRole.UserRole, entry)
            item.setToolTip(f"{entry.direction_text}\n{entry.summary}")
            self.addItem(item)
        keys = [entry.key for entry in transforms]
        row = keys.index(choose.key) if choose is not None and choose.key in keys else len(keys) - 1
        self.setCurrentRow(row)
        self.blockSignals(False)
        self.fit()

    def fit(self) -> None:
        """Set the height to that of two to six entries."""
        row = self.sizeHintForRow(0) if self.count() else self.fontMetrics().height() + 4
        self.setFixedHeight(min(max(self.count(), 2), 6) * row + 2 * self.frameWidth() + 4)


class Choice(QWidget):
    """The list of transforms with load, save and remove."""

    def __init__(self) -> None:
        super().__init__()
        self.list = TransformList()
        self.maps = help_label()
        self.maps.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.load_button = button("Load …", "Read a transform from a file (Ctrl+O in this panel).")
        self.save_button = button("Save …", "Save the selected transform. The file extension sets the format.")
        self.remove_button = button("Remove", "Remove a loaded or made transform from the list (the file stays).")
        tip = "The image of a loaded transform. Files of ITK, ANTs and elastix do not name it."
        self.fixed_box = Combo(tip, "fixed image of loaded files")
        self.moving_box = Combo(tip, "moving image of loaded files")
        content = QWidget()
        rows = FormLayout()
        content.setLayout(rows)
        rows.add("Fixed", self.fixed_box)
        rows.add("Moving", self.moving_box)
        self.foreign = collapsible("Loading from other programs", content, "Select the images of a transform file.")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.list)
        box.addWidget(self.maps)
        box.addLayout(button_row(self.load_button, self.save_button, self.remove_button))
        box.addWidget(self.foreign)


class ApplyForm(QWidget):
    """Layers to transform, their side, and the grid of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_box = Combo("The layer to transform. It is not changed. A new layer is added.", "layer to transform")
        self.also_box = Combo("Further layers to transform in the same way.", "which layers with it")
        self.side_box = Combo(
            "The side of the layer. It is transformed to the other side. For the fixed side the inverse transform is "
            "used.",
            "side of the layer",
        )
        self.onto_box = Combo("The grid of the resulting image or labels layer.", "grid of the result")
        self.rows = FormLayout()
        self.rows.add("Layer", self.layer_box)
        self.rows.add("Also", self.also_box)
        self.rows.add("Side", self.side_box)
        self.rows.add("Grid of", self.onto_box)
        self.sentence = help_label()
        self.apply_button = button("Apply", "Transform the layer to the other side, as a new layer (Ctrl+Enter).")
        emphasize(self.apply_button)
        self.set_button = button(
            "Set as layer transform",
            "Change the affine of the layer, without resampling. For linear transforms. Can be undone.",
        )
        self.undo_button = button("Undo", "Restore the earlier affine of the layer.")
        self.resample_button = button(
            "Resample",
            "Resample the layer in place onto the selected grid, or onto an axis-aligned one, as a new layer, for "
            "example after 'Set as layer transform'.",
        )
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(heading("Apply to a layer"))
        box.addLayout(self.rows)
        box.addWidget(self.sentence)
        box.addLayout(button_row(self.apply_button, self.resample_button))
        box.addLayout(button_row(self.set_button, self.undo_button))


class ShowForm(QWidget):
    """One button for each view of a transform."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for number, (key, (text, tip)) in enumerate(PICTURES.items()):
            made = button(text, f"{tip} Adds a layer.")
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self.buttons[key] = made
            grid.addWidget(made, number // 3, number % 3)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(heading("Show"))
        box.addLayout(grid)


class CombineForm(QWidget):
    """Invert a transform, and chain it with a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.invert_button = button("Invert", "Invert the transform and report the round-trip error over the image.")
        self.round_trip = help_label()
        self.then_box = Combo("The transform that is applied second.", "second transform of the chain")
        self.chain_button = button("Chain", "Compose the two transforms, in the order shown here.")
        self.sentence = help_label()
        rows = FormLayout()
        rows.add("Then", self.then_box)
        content = QWidget()
        box = QVBoxLayout(content)
        box.setSpacing(4)
        box.addWidget(self.invert_button)
        box.addWidget(self.round_trip)
        box.addLayout(rows)
        box.addWidget(self.sentence)
        box.addWidget(self.chain_button)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        self.section = collapsible("Invert and chain", content, "Make new transforms of those in the list.")
        outer.addWidget(self.section)
