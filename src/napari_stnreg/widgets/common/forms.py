"""Parts of the panels' forms: combo boxes that fit a narrow dock, optional numbers, rows and collapsible sections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QEvent, QLocale, QSize, Qt
from qtpy.QtGui import QDoubleValidator, QIntValidator
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDockWidget,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)
from superqt import QCollapsible

from napari_stnreg.widgets.dock.focus_ring import RING_COLOR

_COMBO_INSET_PX = 2
"""Space that the style leaves at both ends of a combo box's text."""


class Combo(QComboBox):
    """A combo box that may be narrower than its longest item and ignores the mouse wheel without focus.

    Parameters
    ----------
    tip
        Tooltip.
    name
        Accessible name.
    """

    def __init__(self, tip: str, name: str) -> None:
        super().__init__()
        self.setToolTip(tip)
        self.setAccessibleName(name)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(5)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)

    @property
    def shown_text(self) -> str:
        """The current text as it is drawn: file names often differ at the end, so that the middle is left out."""
        return str(self._label_option().currentText)

    def _label_option(self) -> QStyleOptionComboBox:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        kind, part = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        width = self.style().subControlRect(kind, option, part, self).width() - 2 * _COMBO_INSET_PX
        option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideMiddle, width)
        return option

    def paintEvent(self, _event: Any) -> None:
        """Draw the box with its text shortened in the middle where it does not fit."""
        painter, option = QStylePainter(self), self._label_option()
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def wheelEvent(self, event: Any) -> None:
        """Scroll the panel unless the box has the focus."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def set_items(self, items: Iterable[tuple[str, Any]], current: Any = None) -> None:
        """Replace the items ``(text, data)`` without a signal and select that of the data ``current``, or the first."""
        items = list(items)
        self.blockSignals(True)
        self.clear()
        for text, data in items:
            self.addItem(text, data)
        position = next(
            (i for i, (_, data) in enumerate(items) if data is current or data == current), 0 if items else -1
        )
        self.setCurrentIndex(position)
        self.blockSignals(False)

    def set_current(self, data: Any) -> bool:
        """Select an item by its data; return whether it exists."""
        for i in range(self.count()):
            if self.itemData(i) is data or self.itemData(i) == data:
                self.setCurrentIndex(i)
                return True
        return False


class OptionalNumber(QLineEdit):
    """A number that may be left empty, in which case the program chooses.

    Parameters
    ----------
    tip, name
        Tooltip and accessible name.
    low, high
        Smallest and largest value.
    whole
        Whether only integers are valid.
    empty
        Placeholder of the empty field.
    """

    def __init__(
        self, tip: str, name: str, low: float, high: float, *, whole: bool = False, empty: str = "automatic"
    ) -> None:
        super().__init__()
        self._low, self._high, self._whole = low, high, whole
        self.setToolTip(tip)
        self.setAccessibleName(name)
        self.setPlaceholderText(empty)
        self.setMinimumWidth(40)
        validator = QIntValidator(int(low), int(high), self) if whole else QDoubleValidator(low, high, 6, self)
        validator.setLocale(QLocale.c())
        self.setValidator(validator)

    @property
    def value(self) -> float | int | None:
        """The number, or ``None`` when the field is empty."""
        text = self.text().strip().replace(",", ".")
        try:
            number = float(text)
        except ValueError:
            return None
        number = min(max(number, self._low), self._high)
        return int(number) if self._whole else number

    @value.setter
    def value(self, number: float | int | None) -> None:
        self.setText("" if number is None else f"{number:g}")


class FormLayout(QGridLayout):
    """Rows of a label and a field; a row can be hidden together with its label."""

    def __init__(self) -> None:
        super().__init__()
        self.setContentsMargins(0, 0, 0, 0)
        self.setHorizontalSpacing(6)
        self.setVerticalSpacing(4)
        self.setColumnStretch(1, 1)
        self._labels: dict[QWidget, QLabel] = {}

    def add(self, text: str, widget: QWidget) -> QWidget:
        """Add a row; the label shows the field's tooltip and is its keyboard buddy."""
        row = self.rowCount()
        label = QLabel(text)
        label.setToolTip(widget.toolTip())
        label.setBuddy(widget)
        label.setMinimumWidth(86)
        self._labels[widget] = label
        self.addWidget(label, row, 0)
        self.addWidget(widget, row, 1)
        return widget

    def add_full_width(self, widget: QWidget) -> QWidget:
        """Add a widget that spans both columns."""
        self.addWidget(widget, self.rowCount(), 0, 1, 2)
        return widget

    def set_row_visible(self, widget: QWidget, visible: bool) -> None:
        """Show or hide the row of a field."""
        for part in (self._labels.get(widget), widget):
            if part is not None:
                part.setVisible(visible)


class FormScrollArea(QScrollArea):
    """The scrolling part of a panel; it is never so narrow that its form is cut off.

    Parameters
    ----------
    form
        The widget to show.
    """

    MIN_WIDTH = 240

    def __init__(self, form: QWidget) -> None:
        super().__init__()
        self.setWidget(form)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def minimumSizeHint(self) -> QSize:
        """Enough for the form and a scroll bar beside it."""
        form = self.widget()
        wide = 0 if form is None else form.minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(max(wide, self.MIN_WIDTH), super().minimumSizeHint().height())

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Detect that a section of the form was expanded: the dock may have to become wider."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            self.updateGeometry()
        return super().eventFilter(watched, event)


def help_label(text: str = "", *, small: bool = True) -> QLabel:
    """Make a help text that wraps and can be selected.

    Parameters
    ----------
    text
        The text.
    small
        Whether the text is smaller than that of the form; otherwise it follows the panel's text size.
    """
    label = QLabel(text)
    label.setWordWrap(True)
    if small:  # smaller and not paler, so that it is readable in the light theme too
        label.setStyleSheet("font-size: 8pt;")
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


class StatusLabel(QLabel):
    """A text that wraps and whose lines all have their place as soon as it is set.

    Parameters
    ----------
    text
        The text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setAccessibleName("status")

    def setText(self, text: str | None) -> None:
        """Set the text; the layout follows at once, not in a later turn of the event loop."""
        super().setText(text)
        self._make_room()

    def resizeEvent(self, event: Any) -> None:
        """Make room for the lines at this width."""
        super().resizeEvent(event)
        self._make_room()

    def _make_room(self) -> None:
        before = self.minimumHeight()
        self.setMinimumHeight(0)  # Qt counts it as part of the height that the text needs
        needed = self.heightForWidth(self.width())
        self.setMinimumHeight(needed)
        if needed == before:
            return
        parent = self.parentWidget()
        while parent is not None and (layout := parent.layout()) is not None:
            layout.activate()
            parent = parent.parentWidget()
            if isinstance(parent, QDockWidget):
                break


def heading(text: str) -> QLabel:
    """Make a bold label above a part of the form."""
    label = QLabel(text)
    emphasize(label)
    return label


def emphasize(widget: QWidget) -> None:
    """Make a widget's text bold and let it take the width that is left."""
    font = widget.font()
    font.setBold(True)
    widget.setFont(font)
    if isinstance(widget, QPushButton):
        widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)


def show_check_marks(view: QAbstractItemView) -> None:
    """Give the check boxes of a table or list an outline and a mark: napari's themes draw those of forms alone."""
    view.setStyleSheet(
        "::indicator { width: 14px; height: 14px; border: 1px solid #8a8f99; border-radius: 2px; }"
        f"::indicator:checked {{ background: {RING_COLOR}; border-color: {RING_COLOR}; "
        'image: url("theme_dark:/check.svg"); }'
    )


def button_row(*widgets: QWidget) -> QHBoxLayout:
    """Widgets of equal width side by side."""
    row = QHBoxLayout()
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    for widget in widgets:
        widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        row.addWidget(widget)
    return row


def field_row(field: QWidget, *buttons: QPushButton) -> QWidget:
    """Return a field with its buttons beside it, as one widget with the field's tooltip and focus."""
    made = QWidget()
    row = QHBoxLayout(made)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    row.addWidget(field, 1)
    for one in buttons:
        row.addWidget(one)
    made.setToolTip(field.toolTip())
    made.setFocusProxy(field)
    return made


def collapsible(title: str, content: QWidget, tip: str) -> QCollapsible:
    """Make a section that is collapsed at first."""
    section = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    section.setDuration(0)
    section.setContent(content)
    section.toggleButton().setToolTip(tip)
    section.toggleButton().setAccessibleName(title)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.layout().setSpacing(2)
    content.layout().setContentsMargins(10, 4, 0, 6)
    section.setFrameShape(QFrame.Shape.NoFrame)
    section.collapse(animate=False)
    return section


def button(text: str, tip: str) -> QPushButton:
    """Make a button with a tooltip and an accessible name."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setAccessibleName(text)
    made.setAutoDefault(False)
    return made


def separator() -> QFrame:
    """Make a thin horizontal line."""
    made = QFrame()
    made.setFixedHeight(1)
    # napari's themes draw no frames; this gray is visible in both themes.
    made.setStyleSheet("background-color: rgba(128, 128, 128, 110);")
    return made
