"""The options of a training: network, similarity, augmentation, epochs, and advanced settings."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from napari_stnreg.registration.settings import LINEAR_FAMILIES, SIMILARITY_TITLES
from napari_stnreg.training.settings import NETWORK_TITLES, TrainingSettings
from napari_stnreg.widgets.common.device_combo import DeviceCombo
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, help_label
from napari_stnreg.widgets.common.settings_form import FieldStyle, SettingsForm
from napari_stnreg.widgets.models.combo import ModelList
from napari_stnreg.widgets.models.session import KnownModel

_FIELDS = {"velocity": "stationary velocity", "displacement": "displacement field"}
# Their module imports torch, which opening the panel must not.
AUGMENTATIONS = {
    "none": ("none", "Pairs are not changed."),
    "light": ("light", "Slight rotation, scaling and shading, for hundreds of images."),
    "strong": ("strong", "Rotation, mirroring, deformation and contrast changes, for a few images."),
}


class TrainingOptions(QWidget):
    """The form of the :class:`~napari_stnreg.training.settings.TrainingSettings` and of the augmentation.

    Signals
    -------
    changed()
        An option was changed.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.start_box = ModelList(
            "Continue from a trained model, with its network and weights. Otherwise the weights are random.",
            "start model", "random weights",
        )  # fmt: skip
        self.models = self.start_box
        network_box = Combo("The network to train.", "network")
        network_box.set_items([(title, name) for name, title in NETWORK_TITLES.items()], "affine")
        self.network_form = SettingsForm(TrainingSettings, {"network": FieldStyle(widget=network_box, show_help=True)})
        self.linear_box = Combo("Linear family of the network's transforms.", "linear transform")
        self.linear_box.set_items([(name, name) for name in LINEAR_FAMILIES], "affine")
        self.deformable_box = Combo("A velocity gives a smooth, invertible flow. Displacement fields are faster.",
                                    "deformable transform")  # fmt: skip
        self.deformable_box.set_items([(title, name) for name, title in _FIELDS.items()], "velocity")
        self.augmentation_box = Combo("Random changes that make many pairs out of few.", "augmentation")
        self.augmentation_box.set_items([(title, key) for key, (title, _) in AUGMENTATIONS.items()], "light")
        self.augmentation_help = help_label()
        similarity_box = Combo("Similarity measure of the loss.", "similarity")
        titles = [(title, name) for name, title in SIMILARITY_TITLES.items()]
        similarity_box.set_items([("default of the network", None), *titles], None)
        self.device_box = DeviceCombo()
        self.size_box = OptionalNumber(
            "Longest side of the images that the network sees, in pixels. Larger ones are reduced.",
            "working size", 8, 4096, whole=True, empty="256 in 2D, 96 in 3D",
        )  # fmt: skip
        self.subject_box = QLineEdit()
        self.subject_box.setPlaceholderText("each image its own")
        self.subject_box.setToolTip(
            "Files only: the subject of an image, so that no subject is both in training and validation. A regular "
            r"expression for the part of a file name, such as patient\d+, or the name of an array of an npz file."
        )
        self.subject_box.setAccessibleName("subject")
        self.subject_box.setMinimumWidth(60)
        self.settings = SettingsForm(
            TrainingSettings,
            {
                "similarity": FieldStyle(widget=similarity_box),
                "epochs": FieldStyle(step=1),
                "device": FieldStyle(widget=self.device_box),
            },
            {
                "batch_size": FieldStyle("Batch"),
                "gradient_accumulation": FieldStyle("Accumulate"),
                "learning_rate": FieldStyle("Rate"),
                "schedule": FieldStyle(),
                "strategy": FieldStyle("Networks"),
                "window": FieldStyle(),
                "diffusion": FieldStyle(),
                "bending": FieldStyle(),
                "folding": FieldStyle(),
                "patience": FieldStyle(empty="never stops early"),
                "mixed_precision": FieldStyle("Precision"),
                "snapshots": FieldStyle(step=1),
                "seed": FieldStyle(step=1),
            },
        )
        self.advanced = self.settings.advanced
        self.settings.advanced_rows.add("Size", self.size_box)
        self.settings.advanced_rows.add("Subject", self.subject_box)
        start = FormLayout()
        start.add("Start", self.start_box)
        start.add_full_width(self.start_box.about)
        self._rows = FormLayout()
        self._rows.add("Linear", self.linear_box)
        self._rows.add("Deformable", self.deformable_box)
        self._rows.add("Augment", self.augmentation_box)
        self._rows.add_full_width(self.augmentation_help)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(start)
        box.addWidget(self.network_form)
        box.addLayout(self._rows)
        box.addWidget(self.settings)
        for signal in (self.network_form.changed, self.settings.changed, self.start_box.changed,
                       self.augmentation_box.currentIndexChanged):  # fmt: skip
            signal.connect(self._on_change)
        self._on_change()

    def field(self, name: str) -> Any:
        """Return the widget of a setting other than the family."""
        return (self.network_form if name == "network" else self.settings).field(name)

    @property
    def network(self) -> str:
        """The selected network."""
        return str(self.field("network").currentData())

    @property
    def start(self) -> KnownModel | None:
        """The model from which the training continues, if any."""
        return self.start_box.chosen

    @property
    def title(self) -> str:
        """A short name of the network or start model."""
        return NETWORK_TITLES[self.network].split(" (")[0].lower() if self.start is None else self.start.name

    @property
    def family(self) -> str:
        """The transform families, in the order of the networks."""
        parts = {"affine": self.linear_box.currentData(), "voxelmorph": self.deformable_box.currentData()}
        return "+".join(str(parts[name]) for name in self.network.split("+") if name in parts)

    @property
    def augmentation(self) -> str:
        """Key of :data:`AUGMENTATIONS`."""
        return str(self.augmentation_box.currentData())

    @property
    def working_size(self) -> int | None:
        """The working size, if one is given."""
        value = self.size_box.value
        return None if value is None else int(value)

    def _on_change(self, _index: int = 0) -> None:
        # A start model brings its own network, whose parts are known only after loading.
        names = self.network.split("+") if self.start is None else []
        self.network_form.setVisible(self.start is None)
        self._rows.set_row_visible(self.linear_box, "affine" in names)
        self._rows.set_row_visible(self.deformable_box, "voxelmorph" in names)
        self.settings.set_field_visible("strategy", len(names) > 1)
        self.augmentation_help.setText(AUGMENTATIONS[self.augmentation][1])
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        """Keyword arguments of :class:`TrainingSettings`; empty fields are left out."""
        values = self.settings.values()
        if "+" not in self.network or self.start is not None or values["strategy"] == "joint":
            del values["strategy"]
        if self.start is None:
            values = {**self.network_form.values(), **values} | ({"family": self.family} if self.family else {})
        return values

    def set_values(self, values: dict[str, Any]) -> None:
        """Set all options: those that are not given to their defaults; values that cannot be shown are ignored."""
        self.network_form.set_values({"network": "affine"} | values)
        for family in str(values.get("family") or "").split("+"):
            if not self.linear_box.set_current(family):
                self.deformable_box.set_current(family)
        self.settings.set_values(values)

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """List the devices that were found, as ``(name, description)``."""
        self.device_box.set_devices(devices)

    # -- between sessions

    def state(self) -> dict[str, Any]:
        """Return the options as JSON-ready values that are stored between sessions."""
        values = {name: value for name, value in self.values().items() if name != "seed"}
        values["network"] = self.network  # hidden while a start model brings its own
        return {
            "settings": values,
            "augmentation": self.augmentation,
            "size": self.working_size,
            "start": self.start_box.path,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Set the options to a former :meth:`state`; parts that are not valid are ignored."""
        if isinstance(state.get("settings"), dict):
            self.set_values(state["settings"])
        self.augmentation_box.set_current(state.get("augmentation"))
        self.start_box.restore(state.get("start"))
        if isinstance(state.get("size"), int):
            self.size_box.value = state["size"]
