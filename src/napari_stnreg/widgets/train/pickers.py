"""Three ways to select images: a layer, several layers, or files."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QLineEdit, QListWidget, QListWidgetItem, QMenu, QWidget

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.napari_layers import LAYOUTS, layout_name
from napari_stnreg.widgets.common.forms import Combo, FormLayout, button, field_row, show_check_marks
from napari_stnreg.widgets.common.layer_io import LayerSource, guess_layout, layer_source

if TYPE_CHECKING:
    from napari.viewer import Viewer

_FILTER = "Images and lists (*.npz *.tif *.tiff *.nii *.nii.gz *.npy *.csv);;All files (*)"
_ROWS = 5


def image_layers(viewer: Viewer) -> list[ImageLayer]:
    """List the image layers that a training can read, without the results of runs."""
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, ImageLayer)
        and layer.ndim in LAYOUTS
        and not {"stnreg", "stnreg_training"} & set(layer.metadata)
        and not layer.name.endswith("preview")
    ]


class StackPicker(QWidget):
    """A layer whose frames or sections are the images."""

    changed = Signal()

    def __init__(self, viewer: Viewer, role: str) -> None:
        super().__init__()
        self._viewer, self._role = viewer, role
        self.layer_box = Combo("A time series or a stack: each frame or section is one image.", f"{role} stack")
        self.layout_box = Combo("What the layer's axes mean.", f"axes of the {role} stack")
        self.rows = FormLayout()
        self.rows.add("Stack" if role == "training" else "Moving", self.layer_box)
        self.rows.add("Axes", self.layout_box)
        self.setLayout(self.rows)
        self.layer_box.currentIndexChanged.connect(self._on_layer)
        self.layout_box.currentIndexChanged.connect(self.changed)
        self.refresh()

    @property
    def layer(self) -> ImageLayer | None:
        """The chosen layer."""
        return self.layer_box.currentData()

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        stacks = [layer for layer in image_layers(self._viewer) if layer.ndim > 2]
        self.layer_box.set_items([(layer.name, layer) for layer in stacks], self.layer)
        self._on_layer()

    def _on_layer(self, _index: int = 0) -> None:
        layer, layouts = self.layer, []
        if layer is not None:
            layouts = [one for one in LAYOUTS[layer.ndim] if set(one) & set("tz") and not (layer.rgb and "c" in one)]
            self.layout_box.set_items([(_meaning(one), one) for one in layouts], self._kept(layer))
        else:
            self.layout_box.set_items([])
        self.rows.set_row_visible(self.layout_box, len(layouts) > 1)
        self.changed.emit()

    def _kept(self, layer: ImageLayer) -> Any:
        same, self._seen = getattr(self, "_seen", None) is layer, layer
        return self.layout_box.currentData() if same else guess_layout(layer)

    def sources(self) -> tuple[LayerSource, ...]:
        """Take the layer down.

        Raises
        ------
        InputError
            If none is chosen.
        """
        if self.layer is None:
            raise InputError("There is no stack or time series: open one, or choose several layers or a folder.")
        return (layer_source(self.layer, self._viewer, layout=self.layout_box.currentData()),)


class LayersPicker(QListWidget):
    """Several layers, each one image."""

    changed = Signal()

    def __init__(self, viewer: Viewer, role: str) -> None:
        super().__init__()
        self._viewer, self._role = viewer, role
        self.setToolTip("Check the layers. Each is one image (of a time series, the frame on screen).")
        self.setAccessibleName(f"{role} layers")
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        show_check_marks(self)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMaximumHeight(self.fontMetrics().height() * (_ROWS + 2))
        self.itemChanged.connect(self.changed)
        self._layers: list[ImageLayer] = []
        self.refresh()

    @property
    def chosen(self) -> list[ImageLayer]:
        """The ticked layers, from the bottom of the layer list up."""
        return [layer for i, layer in enumerate(self._layers) if self.item(i).checkState() == Qt.CheckState.Checked]

    def set_checked(self, layers: list[ImageLayer]) -> None:
        """Tick these."""
        for i, layer in enumerate(self._layers):
            ticked = any(layer is one for one in layers)
            self.item(i).setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)

    def refresh(self) -> None:
        """Take up the viewer's layers, keeping the ticks."""
        kept = self.chosen
        self.blockSignals(True)
        self.clear()
        self._layers = image_layers(self._viewer)
        for layer in self._layers:
            item = QListWidgetItem(layer.name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Unchecked)
            self.addItem(item)
        self.set_checked(kept)
        self.blockSignals(False)
        self.changed.emit()

    def sources(self) -> tuple[LayerSource, ...]:
        """Take the layers down.

        Raises
        ------
        InputError
            If fewer than two are ticked, or 2D and 3D ones are mixed.
        """
        chosen = self.chosen
        if len(chosen) < 2:
            which = "moving layers" if self._role == "moving" else "layers"
            raise InputError(f"Tick at least two {which} to train on.")
        made = tuple(layer_source(layer, self._viewer) for layer in chosen)
        odd = next((one for one in made if one.grid.ndim != made[0].grid.ndim), None)
        if odd is not None:
            raise InputError(
                f"'{made[0].name}' is {made[0].grid.ndim}D and '{odd.name}' is {odd.grid.ndim}D. "
                "A network is trained on images of the same dimensions."
            )
        return made


class FilesPicker(QWidget):
    """A folder, or a file that holds many images or lists pairs of them."""

    changed = Signal()

    def __init__(self, role: str) -> None:
        super().__init__()
        self.path_box = QLineEdit()
        self.path_box.setPlaceholderText("folder, npz, stack or CSV list")
        self.path_box.setToolTip(
            "A folder of TIFF, PNG, NIfTI or NumPy files, an npz file of arrays (N, ...), a file with a stack or a "
            "time series, or a CSV list with the columns 'fixed' and 'moving'."
        )
        self.path_box.setAccessibleName(f"{role} files")
        self.path_box.setMinimumWidth(60)
        self.browse_button = button("…", "Browse for a folder or a file.")
        self.browse_button.setAccessibleName(f"browse for {role} files")
        self.browse_button.setMaximumWidth(44)
        menu = QMenu(self.browse_button)
        self.folder_action, self.file_action = QAction("Folder …", menu), QAction("File …", menu)
        menu.addActions([self.folder_action, self.file_action])
        self.browse_button.setMenu(menu)
        self.array_box = Combo("Which array of the npz file holds the images.", f"array of the {role} file")
        self.rows = FormLayout()
        self.rows.add("Files" if role == "training" else "Moving", field_row(self.path_box, self.browse_button))
        self.rows.add("Array", self.array_box)
        self.setLayout(self.rows)
        self.folder_action.triggered.connect(self._ask_folder)
        self.file_action.triggered.connect(self._ask_file)
        self.path_box.textChanged.connect(self._on_path)
        self._on_path()

    @property
    def path(self) -> str:
        """What is written in the field."""
        return self.path_box.text().strip()

    @property
    def array(self) -> str | None:
        """The chosen array of an npz file."""
        return self.array_box.currentData() if self.array_box.count() else None

    def _ask_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of images", self.path)
        if path:
            self.path_box.setText(path)

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Images", self.path, _FILTER)
        if path:
            self.path_box.setText(path)

    def _on_path(self, _text: str = "") -> None:
        names: list[str] = []
        path = Path(self.path)
        if path.suffix.lower() == ".npz":
            with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):
                names = _arrays_of(path)
        usual = next((name for name in ("image", "images", "x", "arr_0") if name in names), None)
        self.array_box.set_items([(name, name) for name in names], self.array if self.array in names else usual)
        self.rows.set_row_visible(self.array_box, len(names) > 1)
        self.changed.emit()

    def sources(self) -> str:
        """Return the path.

        Raises
        ------
        InputError
            If none is given, or nothing is there.
        """
        if not self.path:
            raise InputError("Choose a folder or a file with the images to train on.")
        if not Path(self.path).exists():
            raise InputError(f"'{self.path}' does not exist.")
        return self.path


def _arrays_of(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.files)


def _meaning(layout: str) -> str:
    """Describe what the images of a layout are."""
    if "t" in layout:
        return "frames, " + layout_name(layout)
    return "sections, " + layout_name(layout).replace("3D ", "2D ", 1)
