"""How the images are registered: transform, similarity, preset, and what a person rarely needs, folded away."""

from __future__ import annotations

from typing import Any, get_args

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.registration.settings import (
    DEFORMABLE_FAMILIES,
    FAMILY_HELP,
    LINEAR_FAMILIES,
    START_HELP,
    Preset,
    RegistrationSettings,
    Start,
)
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, collapsible, help_label
from napari_stnreg.widgets.common.result_layers import DEFAULT_KINDS, KINDS
from napari_stnreg.widgets.models.form import ModelChoice

# The similarities describe themselves, but importing them imports torch, which opening the panel must not.
SIMILARITIES = {
    "lncc": ("Local correlation", "Same kind of image, uneven brightness. The usual choice."),
    "ncc": ("Correlation", "Same contrast at another brightness or gain."),
    "mse": ("Mean squares", "Same device or stain: equal values mean the same."),
    "mi": ("Mutual information", "Different modalities or stains, such as T1 and PD."),
    "mind": ("MIND", "Very different modalities that share edges and texture."),
}
PRESET_HELP = {
    "fast": "A first look.",
    "balanced": "Good for most pairs.",
    "thorough": "The last few percent; takes about three times as long.",
}
_NAMES = {"bspline": "B-spline", "tps": "thin-plate spline", "displacement": "displacement field"}
_EXTENTS = {"fixed": "the fixed image", "moving": "the moving image", "union": "both together"}


class OptionsForm(QWidget):
    """The form of :class:`~napari_stnreg.registration.settings.RegistrationSettings`, but for the channels."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.linear_box = Combo("The part of the transform that keeps straight lines straight.", "overall transform")
        self.linear_box.set_items([("none", ""), *((name, name) for name in LINEAR_FAMILIES)], "affine")
        self.bending_box = Combo("The part of the transform that bends, fitted after the first.", "bending transform")
        self.bending_box.set_items([("none", ""), *((_NAMES.get(n, n), n) for n in DEFORMABLE_FAMILIES)], "diffeomorphic")
        self.similarity_box = Combo("What makes two images alike.", "similarity")
        self.similarity_box.set_items([(title, name) for name, (title, _) in SIMILARITIES.items()], "lncc")
        self.preset_box = Combo("How much time to spend.", "preset")
        self.preset_box.set_items([(name, name) for name in get_args(Preset)], "balanced")
        self.family_hint, self.similarity_hint, self.preset_hint = help_label(), help_label(), help_label()
        self.model = ModelChoice()

        self._rows = rows = FormLayout()
        rows.add("Overall", self.linear_box)
        rows.add("Bending", self.bending_box)
        rows.add_full_width(self.family_hint)
        rows.add("Similarity", self.similarity_box)
        rows.add_full_width(self.similarity_hint)
        rows.add("Preset", self.preset_box)
        rows.add_full_width(self.preset_hint)
        self.advanced = collapsible("Advanced", self._make_advanced(), "Settings that rarely need a change.")
        self.results = collapsible("Result layers and preview", self._make_results(), "What to add when the run has ended.")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.model)
        box.addLayout(rows)
        box.addWidget(self.advanced)
        box.addWidget(self.results)
        for combo in (self.linear_box, self.bending_box, self.similarity_box, self.preset_box):
            combo.currentIndexChanged.connect(self._explain)
        self.model.changed.connect(self._explain)
        self._explain()

    def _make_advanced(self) -> QWidget:
        self.start_box = Combo("Where the fit begins.", "start")
        self.start_box.set_items([(name, name) for name in get_args(Start)], "auto")
        for i, name in enumerate(get_args(Start)):
            self.start_box.setItemData(i, START_HELP[name], 3)  # Qt.ToolTipRole
        self.mirror_box = QCheckBox("Try mirror images")
        self.mirror_box.setToolTip("Let the search for a start try mirror images too (a section that was turned over).")
        self.device_box = Combo("Where to compute. 'auto' takes a graphics card if there is one.", "device")
        self.device_box.set_items([("auto", "auto"), ("CPU", "cpu")], "auto")
        self.smoothness_box = QDoubleSpinBox()
        self.smoothness_box.setRange(0.05, 10)
        self.smoothness_box.setSingleStep(0.25)
        self.smoothness_box.setValue(1.0)
        self.smoothness_box.setToolTip("Stiffness of the bending: 1 is the default, more is stiffer.")
        self.smoothness_box.setAccessibleName("smoothness")
        self.window_box = OptionalNumber(
            "Radius of local correlation's window, in voxels.", "window", 1, 31, whole=True
        )
        self.spacing_box = OptionalNumber("Distance of control points, in fixed voxels.", "control spacing", 0.5, 1e4)
        self.levels_box = OptionalNumber("Number of pyramid levels.", "levels", 1, 8, whole=True)
        self.iterations_box = OptionalNumber("Steps at each level.", "iterations", 1, 10000, whole=True)
        self.diffusion_box = OptionalNumber(
            "Extra weight of the diffusion regularizer.", "diffusion", 0, 1e6, empty="0"
        )
        self.bending_weight_box = OptionalNumber("Extra weight of the bending energy.", "bending", 0, 1e6, empty="0")
        self.folding_box = OptionalNumber("Extra weight of the folding penalty.", "folding", 0, 1e6, empty="0")
        self.landmark_box = OptionalNumber("How strongly landmarks pull.", "landmark weight", 0, 1e6, empty="1")
        self.extent_box = Combo("What the warped image covers.", "extent of the result")
        self.extent_box.set_items([(text, name) for name, text in _EXTENTS.items()], "fixed")
        self.fill_box = OptionalNumber(
            "Value outside the moving image; the median of its border if empty (white for brightfield).",
            "fill value", -1e12, 1e12, empty="from the border",
        )  # fmt: skip
        self.seed_box = QSpinBox()
        self.seed_box.setRange(0, 2**31 - 1)
        self.seed_box.setToolTip("Seed of everything random: the same seed gives the same result.")
        self.seed_box.setAccessibleName("seed")
        content, rows = QWidget(), FormLayout()
        content.setLayout(rows)
        for text, widget in (
            ("Device", self.device_box), ("Start", self.start_box), ("", self.mirror_box),
            ("Smoothness", self.smoothness_box), ("Window", self.window_box), ("Spacing", self.spacing_box),
            ("Levels", self.levels_box), ("Iterations", self.iterations_box), ("Diffusion", self.diffusion_box),
            ("Bending", self.bending_weight_box), ("Folding", self.folding_box), ("Landmarks", self.landmark_box),
            ("Extent", self.extent_box), ("Fill", self.fill_box), ("Seed", self.seed_box),
        ):  # fmt: skip
            rows.add(text, widget)
        return content

    def _make_results(self) -> QWidget:
        self.kind_boxes = {}
        content, rows = QWidget(), FormLayout()
        content.setLayout(rows)
        for key, (title, tip) in KINDS.items():
            box = QCheckBox(title)
            box.setToolTip(tip)
            box.setChecked(key in DEFAULT_KINDS)
            self.kind_boxes[key] = box
            rows.add_full_width(box)
        self.rate_box = QDoubleSpinBox()
        self.rate_box.setRange(0, 20)
        self.rate_box.setDecimals(1)
        self.rate_box.setValue(5.0)
        self.rate_box.setSuffix(" / s")
        self.rate_box.setSpecialValueText("off")
        self.rate_box.setToolTip("Live previews a second while a registration runs; 0 shows none.")
        self.rate_box.setAccessibleName("preview rate")
        rows.add("Preview", self.rate_box)
        return content

    def _explain(self, _index: int = 0) -> None:
        parts = [FAMILY_HELP[name] for name in (self.linear_box.currentData(), self.bending_box.currentData()) if name]
        text = " Then: ".join(parts) if parts else "Choose at least one of the two."
        self.family_hint.setText(text)
        self.similarity_hint.setText(SIMILARITIES[self.similarity_box.currentData()][1])
        self.preset_hint.setText(PRESET_HELP[self.preset_box.currentData()])
        # A model brings its own transform; what the fit needs is asked where there is one.
        fitted, modeled = self.model.chosen is None or self.model.refine > 0, self.model.chosen is not None
        for widget in (self.linear_box, self.bending_box):
            self._rows.set_row_visible(widget, not modeled)
        self.family_hint.setVisible(not modeled)
        for widget in (self.similarity_box, self.preset_box):
            self._rows.set_row_visible(widget, fitted)
        for label in (self.similarity_hint, self.preset_hint):
            label.setVisible(fitted)
        self.changed.emit()

    @property
    def family(self) -> str:
        """The chosen chain, such as ``"affine+diffeomorphic"``; empty when nothing is chosen."""
        return "+".join(name for name in (self.linear_box.currentData(), self.bending_box.currentData()) if name)

    @property
    def kinds(self) -> frozenset[str]:
        """Which result layers to add."""
        return frozenset(key for key, box in self.kind_boxes.items() if box.isChecked())

    def values(self) -> dict[str, Any]:
        """The form as keywords of :class:`RegistrationSettings`; the model itself is :attr:`model`."""
        values = self._form()
        if self.model.chosen is not None:
            # The family is the model's, and without a fit so is the similarity that scores.
            del values["family"]
            values["refine"] = self.model.refine
            if not self.model.refine:
                del values["similarity"]
        return values

    def _form(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "family": self.family,
            "similarity": self.similarity_box.currentData(),
            "preset": self.preset_box.currentData(),
            "start": self.start_box.currentData(),
            "mirror": self.mirror_box.isChecked(),
            "smoothness": self.smoothness_box.value(),
            "extent": self.extent_box.currentData(),
            "device": self.device_box.currentData(),
            "seed": self.seed_box.value(),
        }
        for name, box in self._numbers().items():
            if box.value is not None:
                values[name] = box.value
        return values

    def set_values(self, values: dict[str, Any]) -> None:
        """Fill the form; names it does not know and values it cannot show are passed over."""
        settings = {name: field.default for name, field in RegistrationSettings.model_fields.items()} | values
        stages = str(settings["family"]).split("+")
        self.linear_box.set_current(next((s for s in stages if s in LINEAR_FAMILIES), ""))
        self.bending_box.set_current(next((s for s in stages if s in DEFORMABLE_FAMILIES), ""))
        for box, name in (
            (self.similarity_box, "similarity"), (self.preset_box, "preset"), (self.start_box, "start"),
            (self.extent_box, "extent"), (self.device_box, "device"),
        ):  # fmt: skip
            if not box.set_current(settings[name]) and name == "device":
                box.addItem(str(settings[name]), settings[name])  # its card is found later, or the run says so
                box.set_current(settings[name])
        self.mirror_box.setChecked(bool(settings["mirror"]))
        self.smoothness_box.setValue(float(settings["smoothness"]))
        self.seed_box.setValue(int(settings["seed"]))
        for name, number in self._numbers().items():
            number.value = values.get(name)

    def _numbers(self) -> dict[str, OptionalNumber]:
        return {
            "window": self.window_box,
            "control_spacing": self.spacing_box,
            "levels": self.levels_box,
            "iterations": self.iterations_box,
            "diffusion": self.diffusion_box,
            "bending": self.bending_weight_box,
            "folding": self.folding_box,
            "landmark_weight": self.landmark_box,
            "fill": self.fill_box,
        }

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """Show the devices that were found, as ``(name, description)``."""
        best = next((text for name, text in devices if name != "cpu"), devices[0][1] if devices else "")
        wanted = self.device_box.currentData()
        self.device_box.set_items([(f"auto ({best})" if best else "auto", "auto"), *((t, n) for n, t in devices)], wanted)

    @property
    def device(self) -> str:
        """The device a run would take now, with 'auto' resolved to what was found."""
        chosen = self.device_box.currentData()
        names = [self.device_box.itemData(i) for i in range(self.device_box.count())]
        return next((n for n in names if n not in ("auto", "cpu")), "cpu") if chosen == "auto" else chosen

    def state(self) -> dict[str, Any]:
        """What is remembered between sessions; fill and seed belong to a pair of images and are not."""
        return {
            "settings": {k: v for k, v in self._form().items() if k not in ("fill", "seed")},
            "results": sorted(self.kinds),
            "preview_rate": self.rate_box.value(),
            "model": self.model.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave, in this session or an earlier one."""
        if isinstance(state.get("settings"), dict):
            self.set_values(state["settings"])
        if isinstance(state.get("results"), list):
            for key, box in self.kind_boxes.items():
                box.setChecked(key in state["results"])
        if isinstance(state.get("preview_rate"), int | float):
            self.rate_box.setValue(float(state["preview_rate"]))
        if isinstance(state.get("model"), dict):
            self.model.restore(state["model"])
