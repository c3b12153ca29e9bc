"""The options of a registration: model, transform, similarity, preset, and advanced settings."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout, QWidget

from napari_stnreg.core.family_titles import family_title
from napari_stnreg.registration.settings import (
    DEFORMABLE_FAMILIES,
    FAMILY_HELP,
    LINEAR_FAMILIES,
    RegistrationSettings,
)
from napari_stnreg.visualization.layers import DEFAULT_KINDS, KINDS
from napari_stnreg.widgets.common.device_combo import DeviceCombo
from napari_stnreg.widgets.common.forms import Combo, FormLayout, collapsible, help_label
from napari_stnreg.widgets.common.settings_form import FieldStyle, SettingsForm
from napari_stnreg.widgets.models.form import ModelChoice

_NOT_REMEMBERED = ("fill", "seed")
"""Settings that belong to a pair of images and are not kept between sessions."""


class OptionsForm(QWidget):
    """The form of the :class:`~napari_stnreg.registration.settings.RegistrationSettings`, without the channels.

    Signals
    -------
    changed()
        An option was changed.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.model = ModelChoice()
        self.models = self.model.box
        self.linear_box = Combo("The part of the transform that keeps straight lines straight.", "linear transform")
        self.linear_box.set_items([("none", ""), *((name, name) for name in LINEAR_FAMILIES)], "affine")
        self.deformable_box = Combo("The part that deforms, fitted after the linear one.", "deformable transform")
        deformable = [(family_title(name), name) for name in DEFORMABLE_FAMILIES]
        self.deformable_box.set_items([("none", ""), *deformable], "diffeomorphic")
        self.family_help = help_label()
        self._families = FormLayout()
        self._families.add("Linear", self.linear_box)
        self._families.add("Deformable", self.deformable_box)
        self._families.add_full_width(self.family_help)
        self.device_box = DeviceCombo()
        self.settings = SettingsForm(
            RegistrationSettings,
            {"similarity": FieldStyle(show_help=True), "preset": FieldStyle(show_help=True)},
            {
                "device": FieldStyle(widget=self.device_box),
                "start": FieldStyle(),
                "mirror": FieldStyle("Try mirror images"),
                "smoothness": FieldStyle(step=0.1),
                "window": FieldStyle(),
                "control_spacing": FieldStyle("Spacing"),
                "levels": FieldStyle(),
                "iterations": FieldStyle(),
                "diffusion": FieldStyle(),
                "bending": FieldStyle(),
                "folding": FieldStyle(),
                "landmark_weight": FieldStyle("Landmarks"),
                "extent": FieldStyle(),
                "fill": FieldStyle(empty="from the border"),
                "seed": FieldStyle(),
            },
        )
        self.advanced = self.settings.advanced
        self.results = collapsible("Result layers and preview", self._make_results(), "Layers to add after a run.")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.model)
        box.addLayout(self._families)
        box.addWidget(self.settings)
        box.addWidget(self.results)
        for combo in (self.linear_box, self.deformable_box):
            combo.currentIndexChanged.connect(self._on_change)
        self.model.changed.connect(self._on_change)
        self.model.smoothness_moved.connect(self.field("smoothness").setValue)
        self.settings.changed.connect(self._on_settings)
        self._on_change()

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
        self.rate_box.setToolTip("Live previews per second during a registration, 0 for none.")
        self.rate_box.setAccessibleName("preview rate")
        rows.add("Preview", self.rate_box)
        return content

    def _on_change(self, _index: int = 0) -> None:
        parts = [FAMILY_HELP[name] for name in self.family.split("+") if name]
        parts[1:] = [f"Then: {part[0].lower()}{part[1:]}" for part in parts[1:]]
        self.family_help.setText(" ".join(parts) or "Choose at least one of the two.")
        # A model has its own transform; the options of the fit are shown where there is one.
        has_model = self.model.chosen is not None
        fitted = not has_model or self.model.refine > 0
        for widget in (self.linear_box, self.deformable_box):
            self._families.set_row_visible(widget, not has_model)
        self.family_help.setVisible(not has_model)
        for name in ("similarity", "preset"):
            self.settings.set_field_visible(name, fitted)
        self.changed.emit()

    def _on_settings(self) -> None:
        self.model.set_smoothness(self.field("smoothness").value())
        self.changed.emit()

    def field(self, name: str) -> Any:
        """Return the widget of a setting other than the family."""
        return self.settings.field(name)

    @property
    def family(self) -> str:
        """The selected families, such as ``"affine+diffeomorphic"``; empty without any."""
        return "+".join(name for name in (self.linear_box.currentData(), self.deformable_box.currentData()) if name)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of result layers to add."""
        return frozenset(key for key, box in self.kind_boxes.items() if box.isChecked())

    def values(self) -> dict[str, Any]:
        """Keyword arguments of :class:`RegistrationSettings`; the model itself is :attr:`model`."""
        values = self.all_values()
        if self.model.chosen is not None:
            # The family is that of the model; without a fit so is the similarity of the scores.
            del values["family"]
            values["refine"] = self.model.refine
            if not self.model.refine:
                del values["similarity"]
        return values

    def all_values(self) -> dict[str, Any]:
        """Return all settings of the form, also those that a model replaces."""
        return {"family": self.family, **self.settings.values()}

    def set_values(self, values: dict[str, Any]) -> None:
        """Set all options: those that are not given to their defaults; values that cannot be shown are ignored."""
        stages = str(values.get("family", RegistrationSettings.model_fields["family"].default)).split("+")
        self.linear_box.set_current(next((s for s in stages if s in LINEAR_FAMILIES), ""))
        self.deformable_box.set_current(next((s for s in stages if s in DEFORMABLE_FAMILIES), ""))
        self.settings.set_values(values)

    def set_devices(self, devices: list[tuple[str, str]]) -> None:
        """List the devices that were found, as ``(name, description)``."""
        self.device_box.set_devices(devices)

    @property
    def device(self) -> str:
        """The device of a run that starts now."""
        return self.device_box.device

    # -- between sessions

    def state(self) -> dict[str, Any]:
        """Return the options as JSON-ready values that are stored between sessions."""
        return {
            "settings": {k: v for k, v in self.all_values().items() if k not in _NOT_REMEMBERED},
            "results": sorted(self.kinds),
            "preview_rate": self.rate_box.value(),
            "model": self.model.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Set the options to a former :meth:`state`; parts that are not valid are ignored."""
        if isinstance(state.get("settings"), dict):
            self.set_values(state["settings"])
        if isinstance(state.get("results"), list):
            for key, box in self.kind_boxes.items():
                box.setChecked(key in state["results"])
        if isinstance(state.get("preview_rate"), int | float):
            self.rate_box.setValue(float(state["preview_rate"]))
        if isinstance(state.get("model"), dict):
            self.model.restore(state["model"])
