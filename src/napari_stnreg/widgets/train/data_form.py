"""Which images are trained on, and how they are paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.core.errors import InputError
from napari_stnreg.widgets.common.forms import Combo, FormLayout, help_label
from napari_stnreg.widgets.train.data_snapshot import TrainingImages
from napari_stnreg.widgets.train.pickers import FilesPicker, LayersPicker, StackPicker, image_layers

if TYPE_CHECKING:
    from napari.viewer import Viewer

KINDS = {
    "layer": "Stack or time series",
    "layers": "Several layers",
    "files": "Folder or file",
}
PAIRINGS = {
    "random": ("Random pairs", "Any image to any other, drawn in every epoch."),
    "template": ("All to one template", "Every image to one of them."),
    "neighbors": ("Neighbors in the stack", "Every image to the next and the one before."),
    "matched": ("Fixed and moving lists", "The first fixed image with the first moving one, and so on."),
}


def _pickers(viewer: Any, role: str) -> dict[str, Any]:
    return {"layer": StackPicker(viewer, role), "layers": LayersPicker(viewer, role), "files": FilesPicker(role)}


class ImageChoice(QWidget):
    """The form of :class:`~napari_stnreg.widgets.train.data_snapshot.TrainingImages`."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.kind_box = Combo("Where the images come from.", "kind of images")
        self.kind_box.set_items([(text, key) for key, text in KINDS.items()], "layer")
        self.pairing_box = Combo("Which images are registered to which while the network learns.", "pairing")
        self.pairing_box.set_items([(title, key) for key, (title, _) in PAIRINGS.items()], "random")
        self.pairing_hint = help_label()
        self.template_box = QLineEdit()
        self.template_box.setPlaceholderText("first image")
        self.template_box.setToolTip("Name or number (counted from 0) of the image that all others are registered to.")
        self.template_box.setAccessibleName("template")
        self.template_box.setMinimumWidth(60)
        self.held_box = QSpinBox()
        self.held_box.setRange(0, 50)
        self.held_box.setValue(15)
        self.held_box.setSuffix(" % validation")
        self.held_box.setToolTip(
            "Percentage of the images that are kept for validation: they make the validation curve and select the "
            "best epoch."
        )
        self.held_box.setAccessibleName("validation fraction")
        self.fixed, self.moving = (_pickers(viewer, role) for role in ("training", "moving"))

        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        top, self._rows = FormLayout(), FormLayout()
        top.add("Images", self.kind_box)
        box.addLayout(top)
        for picker in self.fixed.values():
            box.addWidget(picker)
        self._rows.add("Pairs", self.pairing_box)
        self._rows.add_full_width(self.pairing_hint)
        self._rows.add("Template", self.template_box)
        box.addLayout(self._rows)
        self.moving_hint = help_label()
        self.moving_hint.setText("Moving layers:")
        box.addWidget(self.moving_hint)
        for picker in self.moving.values():
            box.addWidget(picker)
        bottom = FormLayout()
        bottom.add("Validation", self.held_box)
        box.addLayout(bottom)
        self.kind_box.currentIndexChanged.connect(self._on_changed)
        self.pairing_box.currentIndexChanged.connect(self._on_changed)
        for picker in (*self.fixed.values(), *self.moving.values()):
            picker.changed.connect(self.changed)
        self._on_changed()

    @property
    def kind(self) -> str:
        """Key of :data:`KINDS`."""
        return str(self.kind_box.currentData())

    @property
    def pairing(self) -> str:
        """Key of :data:`PAIRINGS`."""
        return str(self.pairing_box.currentData())

    @property
    def title(self) -> str:
        """A word for what is trained on, for the name of the model."""
        if self.kind == "layer":
            layer = self.fixed["layer"].layer
            return layer.name if layer is not None else ""
        if self.kind == "layers":
            chosen = self.fixed["layers"].chosen
            return f"{len(chosen)} layers" if chosen else ""
        path: str = self.fixed["files"].path.replace("\\", "/").rstrip("/").split("/")[-1]
        return path.split(".")[0]

    def prefill(self) -> None:
        """Begin with what is selected: several 2D images, or a stack."""
        chosen = [layer for layer in image_layers(self._viewer) if layer in self._viewer.layers.selection]
        stacks = [layer for layer in chosen if layer.ndim > 2]
        if len(chosen) > 1 and not stacks:
            self.fixed["layers"].set_checked(chosen)
            self.kind_box.set_current("layers")
        elif stacks:
            self.fixed["layer"].layer_box.set_current(stacks[-1])

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        for pickers in (self.fixed, self.moving):
            pickers["layer"].refresh()
            pickers["layers"].refresh()

    def _on_changed(self, _index: int = 0) -> None:
        kind, lists = self.kind, self.pairing == "matched"
        for key, picker in self.fixed.items():
            picker.setVisible(key == kind)
        for key, picker in self.moving.items():
            picker.setVisible(key == kind and lists)
        self.moving_hint.setVisible(kind == "layers" and lists)
        self._rows.set_row_visible(self.template_box, self.pairing == "template")
        self.pairing_hint.setText(PAIRINGS[self.pairing][1])
        self.changed.emit()

    def images(self, **more: Any) -> TrainingImages:
        """Take the images down; ``more`` are further fields.

        Raises
        ------
        InputError
            If something is missing, with one sentence on what.
        """
        fixed = self.fixed[self.kind].sources()
        lists = self.pairing == "matched"
        files = self.kind == "files"
        moving: Any = None
        if lists and not (files and fixed.lower().endswith(".csv")):
            if files and not self.moving["files"].path:
                raise InputError("Choose the moving files too: they are paired with the fixed ones by name or order.")
            moving = self.moving[self.kind].sources()
        self._check(fixed, moving)
        array = self.fixed["files"].array if files else None
        other = self.moving["files"].array if files and lists else None
        if files and fixed == moving and array and other and array != other:
            moving = None  # two arrays of one file
        elif other is not None and array != other:
            raise InputError("The moving images must be in an array of the same npz file, or of the same name.")
        elif moving is not None:
            other = None
        return TrainingImages(
            fixed=fixed,
            moving=moving,
            pairing=self.pairing,
            template=self.template_box.text().strip() or None if self.pairing == "template" else None,
            validation_fraction=self.held_box.value() / 100,
            array=array,
            moving_array=other,
            **more,
        )

    def _check(self, fixed: Any, moving: Any) -> None:
        if moving is None or isinstance(fixed, str):
            return
        both = {one.name for one in fixed} & {one.name for one in moving}
        if both:
            raise InputError(f"'{sorted(both)[0]}' is among the fixed and the moving images. Choose different ones.")

    def state(self) -> dict[str, Any]:
        """Return what is stored between sessions; layers are not."""
        return {
            "kind": self.kind,
            "files": self.fixed["files"].path,
            "pairing": self.pairing,
            "validation_fraction": self.held_box.value(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.kind_box.set_current(state.get("kind"))
        self.pairing_box.set_current(state.get("pairing"))
        if isinstance(state.get("files"), str):
            self.fixed["files"].path_box.setText(state["files"])
        if isinstance(state.get("validation_fraction"), int):
            self.held_box.setValue(state["validation_fraction"])
