"""The form for manual corrections: exclude sections, add landmark pairs, realign a range."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QSpinBox, QWidget

from napari_stnreg.widgets.common.forms import FormLayout, button, help_label


class CorrectionsForm(QWidget):
    """Buttons for manual corrections.

    Signals
    -------
    excluding(bool), marking(), again(int)
        Exclude or include the current section; add landmarks; realign, with the number of sections before and after the
        current one.
    """

    excluding = Signal(bool)
    marking = Signal()
    again = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.note = help_label()
        self.exclude_button = button("Exclude this section", "Exclude the current section from matching.")
        self.exclude_button.setCheckable(True)
        self.points_button = button(
            "Add landmark pairs",
            "Make a points layer: the first point in one section belongs to the first in the next.",
        )
        self.range_box = QSpinBox()
        self.range_box.setRange(0, 50)
        self.range_box.setValue(1)
        self.range_box.setToolTip("Sections before and after the one that is shown.")
        self.range_box.setAccessibleName("sections before and after")
        self.again_button = button("Align these again", "Align the range again. All other sections stay.")
        rows = FormLayout()
        rows.add_full_width(self.note)
        rows.add_full_width(self.exclude_button)
        rows.add_full_width(self.points_button)
        rows.add("± sections", self.range_box)
        rows.add_full_width(self.again_button)
        self.setLayout(rows)
        self.exclude_button.clicked.connect(self.excluding)
        self.points_button.clicked.connect(lambda: self.marking.emit())
        self.again_button.clicked.connect(lambda: self.again.emit(self.range_box.value()))

    def show_section(self, section: int, excluded: Iterable[int]) -> None:
        """Show the current section and the excluded ones."""
        out = sorted(excluded)
        self.exclude_button.setChecked(section in out)
        self.exclude_button.setText("Include this section again" if section in out else "Exclude this section")
        self.note.setText(f"Shown: section {section}. Excluded: {', '.join(map(str, out)) or 'none'}.")

    def allow(self, *, stack: bool, result: bool) -> None:
        """Enable what is possible with a stack, and with its result."""
        self.exclude_button.setEnabled(stack)
        self.points_button.setEnabled(stack)
        self.again_button.setEnabled(result)
