"""Small form parts that the panel is made of: combos that fit a narrow dock, optional numbers, folded sections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QEvent, QLocale, QSize, Qt
from qtpy.QtGui import QDoubleValidator, QIntValidator
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QWidget,
)
from superqt import QCollapsible


class Combo(QComboBox):
    """A combo box that may get narrower than its longest entry, and that the wheel changes only when it has focus."""

    def __init__(self, tip: str, name: str) -> None:
        super().__init__()
        self.setToolTip(tip)
        self.setAccessibleName(name)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(5)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: Any) -> None:
        """Scroll the panel unless the person has clicked into this box."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def fill(self, entries: Iterable[tuple[str, Any]], keep: Any = None) -> None:
        """Replace the entries ``(text, data)``, keeping the chosen data where it is still there."""
        entries = list(entries)
        self.blockSignals(True)
        self.clear()
        for text, data in entries:
            self.addItem(text, data)
        position = next(
            (i for i, (_, data) in enumerate(entries) if data is keep or data == keep), 0 if entries else -1
        )
        self.setCurrentIndex(position)
        self.blockSignals(False)

    def choose(self, data: Any) -> bool:
        """Choose an entry by its data; false when there is none."""
        for i in range(self.count()):
            if self.itemData(i) is data or self.itemData(i) == data:
                self.setCurrentIndex(i)
                return True
        return False


class OptionalNumber(QLineEdit):
    """A number that may be left out: empty means that the program chooses."""

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


class Rows(QGridLayout):
    """Labels on the left, fields on the right; a row can be hidden with its label."""

    def __init__(self) -> None:
        super().__init__()
        self.setContentsMargins(0, 0, 0, 0)
        self.setHorizontalSpacing(6)
        self.setVerticalSpacing(4)
        self.setColumnStretch(1, 1)
        self._labels: dict[QWidget, QLabel] = {}

    def add(self, text: str, widget: QWidget) -> QWidget:
        """Add a row; the label carries the field's tooltip and leads the keyboard to it."""
        row = self.rowCount()
        label = QLabel(text)
        label.setToolTip(widget.toolTip())
        label.setBuddy(widget)
        label.setMinimumWidth(72)
        self._labels[widget] = label
        self.addWidget(label, row, 0)
        self.addWidget(widget, row, 1)
        return widget

    def wide(self, widget: QWidget) -> QWidget:
        """Add something over both columns."""
        self.addWidget(widget, self.rowCount(), 0, 1, 2)
        return widget

    def show(self, widget: QWidget, visible: bool) -> None:
        """Show or hide a row."""
        self._labels[widget].setVisible(visible)
        widget.setVisible(visible)


class FormArea(QScrollArea):
    """The part of a panel that scrolls; it never gets so narrow that its form is cut off on the right.

    Parameters
    ----------
    form
        What it shows.
    """

    LEAST = 240

    def __init__(self, form: QWidget) -> None:
        super().__init__()
        self.setWidget(form)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def minimumSizeHint(self) -> QSize:
        """Room for the form and for a scroll bar beside it."""
        form = self.widget()
        wide = 0 if form is None else form.minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(max(wide, self.LEAST), super().minimumSizeHint().height())

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Notice that a part of the form was unfolded: the dock may have to become wider."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            self.updateGeometry()
        return super().eventFilter(watched, event)


def hint() -> QLabel:
    """A line of explanation that wraps."""
    label = QLabel()
    label.setWordWrap(True)
    # Smaller rather than paler: it must be read in the light theme too.
    label.setStyleSheet("font-size: 8pt;")
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def folded(title: str, content: QWidget, tip: str) -> QCollapsible:
    """A section that is folded away until it is asked for."""
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
    """A button with its tooltip and the name that a screen reader says."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setAccessibleName(text)
    made.setAutoDefault(False)
    return made


def line() -> QFrame:
    """A thin line between two parts."""
    made = QFrame()
    made.setFixedHeight(1)
    # napari's themes draw no frames; this gray is seen on the ground of both.
    made.setStyleSheet("background-color: rgba(128, 128, 128, 110);")
    return made
