"""What is trained, and how: the network with plain names first, and what a person rarely needs, folded away."""

from __future__ import annotations

from typing import Any, get_args

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.registration.settings import LINEAR_FAMILIES, SIMILARITY_TITLES
from napari_stnreg.training.settings import NETWORK_HELP, ScheduleName, TrainingSettings
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, collapsible, help_label
from napari_stnreg.widgets.models.combo import ModelList
from napari_stnreg.widgets.models.session import KnownModel

NETWORKS = {
    "affine": "Affine",
    "matching": "Affine by matching",
    "tps": "Thin-plate spline",
    "dirnet": "B-spline grid (DIRNet)",
    "voxelmorph": "Free deformation (VoxelMorph)",
    "affine+voxelmorph": "Affine + deformable",
}
_FIELDS = {"diffeomorphic": "diffeomorphic", "displacement": "displacement field"}
# Their module imports torch, which opening the panel must not.
AUGMENTATIONS = {
    "none": ("none", "Every pair as it is."),
    "light": ("light", "Slightly turned, enlarged and shaded: for hundreds of images."),
    "strong": ("strong", "Turned, mirrored, bent and in other contrast: for a few images."),
}


class TrainingOptions(QWidget):
    """The form of :class:`~napari_stnreg.training.settings.TrainingSettings`, and of what happens to the images."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.network_box = Combo("What is trained.", "network")
        self.network_box.set_items([(title, name) for name, title in NETWORKS.items()], "affine")
        self.network_hint = help_label()
        self.start_box = ModelList(
            "Go on from a trained model: it brings its network and its weights. Without one the weights are random.",
            "begin at", "random weights",
        )  # fmt: skip
        self.linear_box = Combo("Which straight transforms the network may give.", "linear transform")
        self.linear_box.set_items([(name, name) for name in LINEAR_FAMILIES], "affine")
        self.field_box = Combo("Diffeomorphic fields never fold; displacements are quicker.", "deformable transform")
        self.field_box.set_items([(title, name) for name, title in _FIELDS.items()], "diffeomorphic")
        self.similarity_box = Combo("What makes two images alike.", "similarity")
        usual = [("usual of the network", None)]
        self.similarity_box.set_items([*usual, *((title, name) for name, title in SIMILARITY_TITLES.items())], None)
        self.epochs_box = QSpinBox()
        self.epochs_box.setRange(1, 100_000)
        self.epochs_box.setValue(100)
        self.epochs_box.setToolTip("How often the network sees all training pairs.")
        self.epochs_box.setAccessibleName("epochs")
        self.augmentation_box = Combo("Random changes that make many pairs out of few.", "augmentation")
        self.augmentation_box.set_items([(title, key) for key, (title, _) in AUGMENTATIONS.items()], "light")
        self.augmentation_hint = help_label()
        self.device_box = Combo("Where to compute. 'auto' takes a graphics card if there is one.", "device")
        self.device_box.set_items([("auto", "auto"), ("CPU", "cpu")], "auto")
        self._rows = FormLayout()
        self._rows.add("Begin at", self.start_box)
        self._rows.add_full_width(self.start_box.about)
        self._rows.add("Network", self.network_box)
        self._rows.add_full_width(self.network_hint)
        self._rows.add("Linear", self.linear_box)
        self._rows.add("Deformable", self.field_box)
        self._rows.add("Similarity", self.similarity_box)
        self._rows.add("Augment", self.augmentation_box)
        self._rows.add_full_width(self.augmentation_hint)
        self._rows.add("Epochs", self.epochs_box)
        self._rows.add("Device", self.device_box)
        self.advanced = collapsible("Advanced", self._make_advanced(), "Settings that rarely need a change.")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(self._rows)
        box.addWidget(self.advanced)
        for combo in (self.network_box, self.similarity_box, self.augmentation_box):
            combo.currentIndexChanged.connect(self._explain)
        self.start_box.changed.connect(self._explain)
        self._explain()

    def _make_advanced(self) -> QWidget:
        self.size_box = OptionalNumber(
            "Longest side of the images as the network sees them, in pixels; larger ones are shrunk.",
            "working size", 8, 4096, whole=True, empty="256 in 2D, 96 in 3D",
        )  # fmt: skip
        self.batch_box = OptionalNumber("Pairs that are taken at once.", "batch size", 1, 4096, whole=True, empty="8")
        self.accumulate_box = OptionalNumber(
            "Batches whose gradients make one step: a larger batch in the same memory.", "accumulate", 1, 1024,
            whole=True, empty="1",
        )  # fmt: skip
        self.rate_box = OptionalNumber("Length of a step.", "learning rate", 1e-6, 1, empty="0.001")
        self.schedule_box = Combo("How the learning rate falls.", "schedule")
        self.schedule_box.set_items([(name, name) for name in get_args(ScheduleName)], "cosine")
        self.turn_box = QCheckBox("One network after the other")
        self.turn_box.setToolTip("First the affine network, then the deformable one, instead of both together.")
        self.window_box = OptionalNumber(
            "Radius of local correlation's window, in voxels.", "window", 1, 31, whole=True
        )
        self.diffusion_box = OptionalNumber("Weight of the diffusion regularizer.", "diffusion", 0, 1e6)
        self.bending_box = OptionalNumber("Weight of the bending energy.", "bending", 0, 1e6, empty="0")
        self.folding_box = OptionalNumber("Weight of the folding penalty.", "folding", 0, 1e6, empty="0")
        self.patience_box = OptionalNumber(
            "End after so many epochs without a better validation.", "patience", 1, 1e5, whole=True,
            empty="never ends early",
        )  # fmt: skip
        self.half_box = Combo("Half precision for the layers, on a graphics card.", "mixed precision")
        self.half_box.set_items([(name, name) for name in ("auto", "on", "off")], "auto")
        self.snapshots_box = QSpinBox()
        self.snapshots_box.setRange(0, 500)
        self.snapshots_box.setValue(32)
        self.snapshots_box.setToolTip(
            "Pictures of the validation pair that are kept, to replay how the network learned."
        )
        self.snapshots_box.setAccessibleName("snapshots")
        self.subject_box = QLineEdit()
        self.subject_box.setPlaceholderText("each image its own")
        self.subject_box.setToolTip(
            "Files only: which subject an image is of, so that none is both trained on and held back. A regular "
            r"expression that finds it in the file's name, such as patient\d+, or the name of an npz file's array."
        )
        self.subject_box.setAccessibleName("subject")
        self.subject_box.setMinimumWidth(60)
        self.seed_box = QSpinBox()
        self.seed_box.setRange(0, 2**31 - 1)
        self.seed_box.setToolTip("Seed of everything random: the same seed gives the same model.")
        self.seed_box.setAccessibleName("seed")
        content, rows = QWidget(), FormLayout()
        content.setLayout(rows)
        for text, widget in (
            ("Size", self.size_box), ("Batch", self.batch_box), ("Accumulate", self.accumulate_box),
            ("Rate", self.rate_box), ("Schedule", self.schedule_box), ("", self.turn_box),
            ("Window", self.window_box), ("Diffusion", self.diffusion_box), ("Bending", self.bending_box),
            ("Folding", self.folding_box), ("Patience", self.patience_box), ("Precision", self.half_box),
            ("Snapshots", self.snapshots_box), ("Subject", self.subject_box), ("Seed", self.seed_box),
        ):  # fmt: skip
            rows.add(text, widget)
        self._advanced_rows = rows
        return content

    @property
    def network(self) -> str:
        """The chosen network."""
        return str(self.network_box.currentData())

    @property
    def start(self) -> KnownModel | None:
        """The model that the training goes on from, if any."""
        return self.start_box.chosen

    @property
    def title(self) -> str:
        """What is trained, in a word or two."""
        return NETWORKS[self.network].split(" (")[0].lower() if self.start is None else self.start.name

    @property
    def family(self) -> str:
        """The transform families, in the order of the networks."""
        parts = {"affine": self.linear_box.currentData(), "voxelmorph": self.field_box.currentData()}
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

    def _explain(self, _index: int = 0) -> None:
        # A model brings its network; whether that is of several parts is known once it was loaded.
        fresh = self.start is None
        names = self.network.split("+") if fresh else []
        self._rows.set_row_visible(self.network_box, fresh)
        self.network_hint.setVisible(fresh)
        self.network_hint.setText(NETWORK_HELP[self.network])
        self._rows.set_row_visible(self.linear_box, "affine" in names)
        self._rows.set_row_visible(self.field_box, "voxelmorph" in names)
        self._advanced_rows.set_row_visible(self.turn_box, len(names) > 1)
        self.augmentation_hint.setText(AUGMENTATIONS[self.augmentation][1])
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        """The form as keywords of :class:`TrainingSettings`, without what is left to the program."""
        fresh = self.start is None
        values: dict[str, Any] = {
            **({"network": self.network} if fresh else {}),
            "epochs": self.epochs_box.value(),
            "schedule": self.schedule_box.currentData(),
            "mixed_precision": self.half_box.currentData(),
            "snapshots": self.snapshots_box.value(),
            "device": self.device_box.currentData(),
            "seed": self.seed_box.value(),
        }
        if self.family and fresh:
            values["family"] = self.family
        if self.similarity_box.currentData() is not None:
            values["similarity"] = self.similarity_box.currentData()
        if "+" in self.network and fresh and self.turn_box.isChecked():
            values["strategy"] = "sequential"
        for name, box in self._numbers().items():
            if box.value is not None:
                values[name] = box.value
        return values

    def set_values(self, values: dict[str, Any]) -> None:
        """Fill the form; names it does not know and values it cannot show are passed over."""
        settings = {name: field.default for name, field in TrainingSettings.model_fields.items()}
        settings |= {"network": "affine"} | values
        for box, name in (
            (self.network_box, "network"), (self.similarity_box, "similarity"), (self.schedule_box, "schedule"),
            (self.half_box, "mixed_precision"), (self.device_box, "device"),
        ):  # fmt: skip
            if not box.set_current(settings[name]) and name == "device":
                box.addItem(str(settings[name]), settings[name])  # its card is found later, or the run says so
                box.set_current(settings[name])
        for family in str(settings["family"] or "").split("+"):
            if not self.linear_box.set_current(family):
                self.field_box.set_current(family)
        self.epochs_box.setValue(int(settings["epochs"]))
        self.snapshots_box.setValue(int(settings["snapshots"]))
        self.seed_box.setValue(int(settings["seed"]))
        self.turn_box.setChecked(settings["strategy"] == "sequential")
        for name, number in self._numbers().items():
            number.value = values.get(name)

    def _numbers(self) -> dict[str, OptionalNumber]:
        return {
            "batch_size": self.batch_box,
            "gradient_accumulation": self.accumulate_box,
            "learning_rate": self.rate_box,
            "window": self.window_box,
            "diffusion": self.diffusion_box,
            "bending": self.bending_box,
            "folding": self.folding_box,
            "patience": self.patience_box,
        }

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """Show the devices that were found, as ``(name, description)``."""
        best = next((text for name, text in devices if name != "cpu"), devices[0][1] if devices else "")
        wanted = self.device_box.currentData()
        self.device_box.set_items(
            [(f"auto ({best})" if best else "auto", "auto"), *((t, n) for n, t in devices)], wanted
        )

    def state(self) -> dict[str, Any]:
        """What is remembered between sessions."""
        values = {name: value for name, value in self.values().items() if name != "seed"}
        values["network"] = self.network  # hidden while a model brings its own
        return {
            "settings": values,
            "augmentation": self.augmentation,
            "size": self.working_size,
            "start": self.start_box.path,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        if isinstance(state.get("settings"), dict):
            self.set_values(state["settings"])
        self.augmentation_box.set_current(state.get("augmentation"))
        self.start_box.restore(state.get("start"))
        if isinstance(state.get("size"), int):
            self.size_box.value = state["size"]
