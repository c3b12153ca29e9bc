"""The form of the landmark panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QMenu, QSlider, QVBoxLayout, QWidget

from napari_stnreg.core.family_titles import family_title
from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, button_row, emphasize, help_label
from napari_stnreg.widgets.landmarks.files import EXPORTS
from napari_stnreg.widgets.landmarks.scene import VIEWS
from napari_stnreg.widgets.landmarks.table import PairTable
from napari_stnreg.widgets.register.pair_boxes import PairBoxes

if TYPE_CHECKING:
    from napari.viewer import Viewer

FAMILIES = {key: family_title(key) for key in ("rigid", "similarity", "affine", "tps")}
"""Families of the panel."""


class LandmarkForm(QWidget):
    """Layers, transform, view, table and buttons.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.family_box = Combo(
            "Family of the transform. While the pairs do not determine it, a simpler one is fitted.", "transform"
        )
        self.family_box.set_items([(text, key) for key, text in FAMILIES.items()], "affine")
        self.stiffness_box = QDoubleSpinBox()
        self.stiffness_box.setRange(0, 100)
        self.stiffness_box.setDecimals(3)
        self.stiffness_box.setSingleStep(0.01)
        self.stiffness_box.setToolTip("0 passes through every point. Larger values bend less.")
        self.stiffness_box.setAccessibleName("stiffness")
        self.place_button = button("Place landmarks", "Show the landmark view. Press again to leave it.")
        self.place_button.setCheckable(True)
        emphasize(self.place_button)
        self.view_box = Combo("How the two images are shown.", "view")
        self.view_box.set_items([(text, key) for key, text in VIEWS.items()])
        self.opacity_slider = QSlider(Qt.Orientation.Horizontal)
        self.opacity_slider.setRange(0, 100)
        self.opacity_slider.setValue(60)
        self.opacity_slider.setToolTip("Opacity of the warped image over the fixed one.")
        self.opacity_slider.setAccessibleName("opacity of the warped image")
        self.follow_box = QCheckBox("Moving view follows")
        self.follow_box.setToolTip("Show the moving image so that counterparts are at the same place in both views.")
        self.follow_box.setAccessibleName("moving view follows")
        self.follow_box.setChecked(True)
        self.rows = FormLayout()
        self.images = PairBoxes(
            viewer, "The image that is warped, with the layers that are linked to it or share its grid.", self.rows
        )
        self.rows.add("Transform", self.family_box)
        self.rows.add("Stiffness", self.stiffness_box)
        self.view = QWidget()
        view_rows = FormLayout()
        view_rows.add("View", self.view_box)
        view_rows.add("Warped", self.opacity_slider)
        view_rows.add_full_width(self.follow_box)
        self.view.setLayout(view_rows)
        self.table = PairTable()
        self.go_button = button("Go to", "Show the selected pair in both views (double-click in the table).")
        self.delete_button = button("Delete", "Delete the selected pairs (Del).")
        self.up_button = button("▲", "Move the selected pair up.")
        self.up_button.setAccessibleName("move up")
        self.down_button = button("▼", "Move the selected pair down.")
        self.down_button.setAccessibleName("move down")
        self.undo_button = button("Undo", "Undo the last change of the pairs (Ctrl+Z).")
        self.redo_button = button("Redo", "Redo the change that was undone (Ctrl+Shift+Z).")
        self.import_button = button("Import …", "Read pairs from files. Files can also be dropped on this panel.")
        self.export_button = button("Export …", "Write the pairs to files.")
        menu = QMenu(self.import_button)
        self.import_files = QAction("From files …", menu)
        self.import_layers = QAction("From two selected points layers", menu)
        menu.addActions([self.import_files, self.import_layers])
        self.import_button.setMenu(menu)
        menu = QMenu(self.export_button)
        self.exports: dict[str, QAction] = {}
        for key, (text, _suffix) in EXPORTS.items():
            action = QAction(text, menu)
            action.setData(key)
            menu.addAction(action)
            self.exports[key] = action
        self.export_button.setMenu(menu)
        self.summary = help_label()
        self.summary.setAccessibleName("landmark fit")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        box.addLayout(self.rows)
        box.addWidget(self.place_button)
        box.addWidget(self.view)
        box.addWidget(self.table, 1)
        for arrow in (self.up_button, self.down_button):
            arrow.setMaximumWidth(36)
        box.addLayout(button_row(self.go_button, self.delete_button, self.up_button, self.down_button))
        box.addLayout(button_row(self.undo_button, self.redo_button))
        box.addLayout(button_row(self.import_button, self.export_button))
        box.addWidget(self.summary)
