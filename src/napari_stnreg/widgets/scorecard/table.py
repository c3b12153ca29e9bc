"""The scorecard as a table: before and after side by side, good and bad by sign and color."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor, QFont
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from napari.viewer import Viewer

GROUPS = {
    "image": "Agreement of the images",
    "labels": "Labels",
    "landmarks": "Landmark error (click to go)",
    "deformation": "Deformation",
}
SIGNS = {"good": "✓", "bad": "✗", "": ""}
_WORDS = {"good": "good, or better than before", "bad": "bad, or worse than before", "": ""}
# Each has a contrast of at least 4.5 with the background of the table, and differs from the other also by its sign.
COLORS = {"dark": {"good": "#5fd38d", "bad": "#ff8a80"}, "light": {"good": "#11673a", "bad": "#b3141f"}}
"""Of what is good and bad, by theme."""
_HIGHER = {"higher": "Higher is better.", "lower": "Lower is better.", "zero": "Should be 0.", "": ""}


def theme_kind(viewer: Viewer) -> str:
    """Return ``"dark"`` or ``"light"`` from the brightness of the theme's background."""
    color = QColor(get_theme(viewer.theme).background.as_hex())
    return "light" if color.lightnessF() > 0.5 else "dark"


class ScoreTable(QTableWidget):
    """Shows a scorecard; a pair of landmarks can be chosen.

    Signals
    -------
    pair_chosen(int)
        The number of a pair of landmarks, from 0, by mouse or keyboard.
    """

    pair_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, 4)
        self.setAccessibleName("scores")
        self.setHorizontalHeaderLabels(["", "before", "after", ""])
        self.verticalHeader().hide()
        self.setShowGrid(False)
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTabKeyNavigation(False)
        self.setMinimumHeight(220)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2, 3):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        header.setMinimumSectionSize(16)
        self.itemSelectionChanged.connect(self._on_selection)
        self.cellClicked.connect(self._on_cell)

    def show_card(self, card: Any, theme: str) -> None:
        """Show a :class:`~napari_stnreg.evaluation.report.Scorecard`; ``theme`` is ``"dark"`` or ``"light"``."""
        from napari_stnreg.evaluation.report import number

        self.blockSignals(True)
        self.clearContents()
        self.clearSpans()
        self.setRowCount(0)
        group = ""
        for score in card:
            if score.group != group:
                group = score.group
                self._group_row(GROUPS.get(group, group))
            row = self.rowCount()
            self.insertRow(row)
            unit = f" {score.unit}" if score.unit and score.unit != "pixel" else ""
            # The heading of the group names what its rows measure.
            title = score.title.removeprefix("landmark error, ").replace("_", " ").replace("mutual information", "MI")
            texts = (title, number(score.before), number(score.after) + unit, SIGNS[score.mark])
            tip = " ".join(filter(None, [score.title + ".", _HIGHER[score.better], _WORDS[score.mark]]))
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(tip)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                item.setData(Qt.ItemDataRole.UserRole, (score.mark, self._pair(score)))
                self.setItem(row, column, item)
            self.item(row, 3).setData(Qt.ItemDataRole.AccessibleTextRole, _WORDS[score.mark])
        self.resizeRowsToContents()
        self.blockSignals(False)
        self.restyle(theme)

    def resizeEvent(self, event: Any) -> None:
        """Let long names wrap at the new width."""
        super().resizeEvent(event)
        self.resizeRowsToContents()

    @staticmethod
    def _pair(score: Any) -> int | None:
        return int(score.item) if score.group == "landmarks" and score.item.isdigit() else None

    def _group_row(self, title: str) -> None:
        row = self.rowCount()
        self.insertRow(row)
        item = QTableWidgetItem(title)
        font = QFont(item.font())
        font.setBold(True)
        item.setFont(font)
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        self.setItem(row, 0, item)
        self.setSpan(row, 0, 1, 4)

    def restyle(self, theme: str) -> None:
        """Set the colors of the theme; the signs have the same meaning."""
        for row in range(self.rowCount()):
            for column in (2, 3):
                item = self.item(row, column)
                data = item.data(Qt.ItemDataRole.UserRole) if item is not None else None
                if data and data[0]:
                    item.setForeground(QBrush(QColor(COLORS[theme][data[0]])))

    def text(self) -> str:
        """Return the table as tab-separated text for a spreadsheet."""
        lines = ["\tbefore\tafter\t"]
        for row in range(self.rowCount()):
            items = [self.item(row, column) for column in range(4)]
            lines.append("\t".join("" if item is None else item.text() for item in items))
        return "\n".join(lines) + "\n"

    def row_of_pair(self, pair: int) -> int:
        """Return the row of a pair of landmarks; -1 if there is none."""
        for row in range(self.rowCount()):
            data = self.item(row, 0).data(Qt.ItemDataRole.UserRole)
            if data and data[1] == pair:
                return row
        return -1

    def _on_selection(self) -> None:
        rows = {index.row() for index in self.selectedIndexes()}
        if len(rows) == 1:
            self._emit(rows.pop())

    def _on_cell(self, row: int, _column: int) -> None:
        """Go there again when the chosen row is clicked once more."""
        self._emit(row)

    def _emit(self, row: int) -> None:
        data = self.item(row, 0).data(Qt.ItemDataRole.UserRole)
        if data and data[1] is not None:
            self.pair_chosen.emit(data[1])
