"""Forms that are generated from the fields of a settings model: widget, range, choices and help come from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QLabel, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from napari_stnreg.core.settings import Settings
from napari_stnreg.widgets.common.forms import Combo, FormLayout, OptionalNumber, collapsible, help_label

_LARGEST = 1e12
"""Bound of numbers that have none in the model."""


@dataclass(frozen=True)
class FieldStyle:
    """How one field of a settings model is shown.

    Parameters
    ----------
    label
        Label of the row, or text of the check box; the field's name if not given.
    empty
        Placeholder of an empty number; the field's default if not given.
    step
        Step of a spin box. Without it a number is a text field that may be empty, which leaves it to the default.
    show_help
        Whether the help of the selected choice is shown below the field.
    widget
        Widget to use instead of a generated one: a `Combo`, `OptionalNumber`, check box, spin box or line edit.
    """

    label: str | None = None
    empty: str | None = None
    step: float | None = None
    show_help: bool = False
    widget: QWidget | None = None


class SettingsForm(QWidget):
    """Rows for some fields of a settings model, with the rarely needed ones in a collapsed section.

    Parameters
    ----------
    model
        The settings model. The description of a field becomes the tooltip, its bounds the range, and its choices come
        from the annotation or from ``model.choice_help``.
    fields
        The fields to show, in order, with their styles.
    advanced
        The fields of the collapsed section "Advanced".

    Signals
    -------
    changed()
        A value was changed by the user or by :meth:`set_values`.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[Settings],
        fields: Mapping[str, FieldStyle],
        advanced: Mapping[str, FieldStyle] | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._widgets: dict[str, QWidget] = {}
        self._rows: dict[str, FormLayout] = {}
        self._help: dict[str, QLabel] = {}
        self.rows = FormLayout()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(self.rows)
        for name, style in fields.items():
            self._add(self.rows, name, style)
        self.advanced_rows = FormLayout()
        if advanced:
            content = QWidget()
            content.setLayout(self.advanced_rows)
            for name, style in advanced.items():
                self._add(self.advanced_rows, name, style)
            self.advanced = collapsible("Advanced", content, "Settings that rarely need a change.")
            box.addWidget(self.advanced)
        self._on_change()

    def _add(self, rows: FormLayout, name: str, style: FieldStyle) -> None:
        info = self._model.model_fields[name]
        label = style.label or name.replace("_", " ").capitalize()
        widget = style.widget or make_widget(self._model, name, info, style)
        if not widget.accessibleName():
            widget.setAccessibleName(name.replace("_", " "))
        if not widget.toolTip():
            widget.setToolTip(info.description or "")
        widget.setObjectName(name)
        self._widgets[name], self._rows[name] = widget, rows
        if isinstance(widget, QCheckBox):
            widget.setText(label)
            rows.add_full_width(widget)
        else:
            rows.add(label, widget)
        if style.show_help:
            self._help[name] = help_label()
            rows.add_full_width(self._help[name])
        for kind, signal in _SIGNALS:
            if isinstance(widget, kind):
                getattr(widget, signal).connect(self._on_change)
                break

    def _on_change(self, *_value: Any) -> None:
        for name, label in self._help.items():
            widget = self._widgets[name]
            value = widget.currentData() if isinstance(widget, Combo) else None
            label.setText(self._model.choice_help.get(name, {}).get(str(value), ""))
            label.setVisible(bool(label.text()) and not widget.isHidden())
        self.changed.emit()

    # -- values

    def field(self, name: str) -> Any:
        """Return the widget of a field."""
        return self._widgets[name]

    def set_field_visible(self, name: str, visible: bool) -> None:
        """Show or hide a field with its label and help."""
        self._rows[name].set_row_visible(self._widgets[name], visible)
        if name in self._help:
            self._help[name].setVisible(visible and bool(self._help[name].text()))

    def values(self) -> dict[str, Any]:
        """Return values by field name; empty fields are left out and keep the model's default."""
        values = {name: _read(widget) for name, widget in self._widgets.items()}
        return {name: value for name, value in values.items() if value is not None}

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Set all fields: those that are not given to their defaults; values that cannot be shown are ignored."""
        for name, widget in self._widgets.items():
            default = self._model.model_fields[name].get_default(call_default_factory=True)
            _write(widget, values.get(name, default), given=name in values)
        self._on_change()


_SIGNALS: tuple[tuple[type[QWidget], str], ...] = (
    (Combo, "currentIndexChanged"),
    (QCheckBox, "toggled"),
    (QSpinBox, "valueChanged"),
    (QDoubleSpinBox, "valueChanged"),
    (QLineEdit, "textChanged"),
)


def make_widget(model: type[Settings], name: str, info: FieldInfo, style: FieldStyle) -> QWidget:
    """Make a widget for a field of a settings model, with range, choices and default.

    Raises
    ------
    TypeError
        If the type of the field has no widget.
    """
    tip, accessible = info.description or "", name.replace("_", " ")
    kind = value_type(info)
    default = info.get_default(call_default_factory=True)
    choices = get_args(kind) if get_origin(kind) is Literal else tuple(model.choice_help.get(name, {}))
    if choices:
        combo = Combo(tip, accessible)
        titles = model.choice_titles.get(name, {})
        combo.set_items([(titles.get(str(choice), str(choice)), choice) for choice in choices], default)
        for row, choice in enumerate(choices):
            text = model.choice_help.get(name, {}).get(str(choice), "")
            combo.setItemData(row, text, Qt.ItemDataRole.ToolTipRole)
        return combo
    if kind is bool:
        box = QCheckBox()
        box.setToolTip(tip)
        box.setChecked(bool(default))
        return box
    if kind not in (int, float):
        raise TypeError(f"The field '{name}' of type {kind} has no widget.")
    low, high = bounds(info)
    if style.step is not None:
        spin: Any = QSpinBox() if kind is int else QDoubleSpinBox()
        spin.setRange(kind(max(low, style.step if low == 0 and _is_exclusive(info) else low)), kind(high))
        spin.setSingleStep(kind(style.step))
        spin.setValue(kind(default))
        spin.setToolTip(tip)
        return spin  # type: ignore[no-any-return]
    empty = style.empty or ("automatic" if default is None else f"{default:g}")
    return OptionalNumber(tip, accessible, low, high, whole=kind is int, empty=empty)


def value_type(info: FieldInfo) -> Any:
    """Type of a field's value without ``None``."""
    kind = info.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return kind


def bounds(info: FieldInfo) -> tuple[float, float]:
    """Smallest and largest value of a numeric field."""
    names = ("ge", "gt", "le", "lt")
    limits = {name: getattr(one, name) for one in info.metadata for name in names if hasattr(one, name)}
    low = limits.get("ge", limits.get("gt", -_LARGEST))
    return float(low), float(limits.get("le", limits.get("lt", _LARGEST if value_type(info) is float else 2**31 - 1)))


def _is_exclusive(info: FieldInfo) -> bool:
    return any(hasattr(one, "gt") for one in info.metadata)


def _read(widget: QWidget) -> Any:
    if isinstance(widget, Combo):
        return widget.currentData()
    if isinstance(widget, QCheckBox):
        return widget.isChecked()
    if isinstance(widget, OptionalNumber | QSpinBox | QDoubleSpinBox):
        return widget.value if isinstance(widget, OptionalNumber) else widget.value()
    return widget.text().strip() or None if isinstance(widget, QLineEdit) else None


def _write(widget: QWidget, value: Any, *, given: bool) -> None:
    if isinstance(widget, Combo):
        widget.set_current(value)
    elif isinstance(widget, QCheckBox):
        widget.setChecked(bool(value))
    elif isinstance(widget, OptionalNumber):
        widget.value = value if given and isinstance(value, int | float) else None
    elif isinstance(widget, QSpinBox) and isinstance(value, int | float):
        widget.setValue(int(value))
    elif isinstance(widget, QDoubleSpinBox) and isinstance(value, int | float):
        widget.setValue(float(value))
    elif isinstance(widget, QLineEdit):
        widget.setText("" if value is None else str(value))
