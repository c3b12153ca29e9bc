"""The table of landmark pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_stnreg.landmarks.pairs import LandmarkPairs
from napari_stnreg.widgets.common.forms import show_check_marks
from napari_stnreg.widgets.scorecard.table import COLORS

_HEADERS = {
    "Pair": "Number of the pair. Click a row to select it, double-click to go there.",
    "Residual": "Distance of the mapped fixed point from the moving point.",
    "Left out": "Leave-one-out error: the same distance for the fit without this pair. It reveals misplaced pairs.",
    "": "The pair that agrees least with the others, and an outlier, which does not fit them.",
    "Lock": "A locked pair cannot be moved or deleted.",
}


class PairTable(QTableWidget):
    """Shows the pairs with their errors.

    Signals
    -------
    jump_requested(int), lock_changed(int, bool), selection_changed()
        A row was double-clicked; its lock was changed; other rows are selected.
    """

    jump_requested = Signal(int)
    lock_changed = Signal(int, bool)
    selection_changed = Signal()

    def __init__(self) -> None:
        super().__init__(0, len(_HEADERS))
        self.setAccessibleName("landmark pairs")
        for column, (title, tip) in enumerate(_HEADERS.items()):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        show_check_marks(self)
        self.setMinimumHeight(150)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(20)
        for column in range(len(_HEADERS)):
            stretch = column in (1, 2)
            mode = QHeaderView.ResizeMode.Stretch if stretch else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(column, mode)
        self.cellDoubleClicked.connect(lambda row, _column: self.jump_requested.emit(row))
        self.itemSelectionChanged.connect(self.selection_changed)
        self.itemChanged.connect(self._on_item)

    @property
    def selected(self) -> list[int]:
        """The selected rows."""
        return sorted({index.row() for index in self.selectedIndexes()})

    def select(self, rows: list[int]) -> None:
        """Select rows without a signal."""
        self.blockSignals(True)
        self.clearSelection()
        mode = self.selectionMode()
        self.setSelectionMode(QAbstractItemView.SelectionMode.MultiSelection)
        for row in rows:
            if row < self.rowCount():
                self.selectRow(row)
                self.scrollTo(self.model().index(row, 0))
        self.setSelectionMode(mode)
        self.blockSignals(False)

    def show_pairs(self, pairs: LandmarkPairs, fit: Any, theme: str) -> None:
        """Show pairs with the errors of a :class:`~napari_stnreg.LandmarkFit`, if there is one.

        Parameters
        ----------
        pairs
            The pairs.
        fit
            Fit to the pairs that are placed on both sides, or ``None``.
        theme
            ``"dark"`` or ``"light"``.
        """
        selected = self.selected
        self.blockSignals(True)
        if self.rowCount() != len(pairs):
            self.setRowCount(len(pairs))
        placed = {row: number for number, row in enumerate(pairs.placed)}
        for row, pair in enumerate(pairs.rows):
            number = placed.get(row)
            known = fit is not None and number is not None and number < len(fit)
            if known:
                texts = [_shown(fit.residuals[number]), _shown(fit.leave_one_out[number])]
                mark = "outlier" if number == fit.outlier else "worst" if number == fit.worst else ""
            else:
                texts, mark = ["-", "-"], "" if number is not None else f"set {pair.predicted}"
            for column, text in enumerate((str(row + 1), *texts, mark)):
                item = self._item(row, column)
                item.setText(text)
                warn = mark in ("worst", "outlier") and column in (2, 3)
                item.setData(Qt.ItemDataRole.ForegroundRole, QBrush(QColor(COLORS[theme]["bad"])) if warn else None)
            lock = self._item(row, 4)
            lock.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsUserCheckable)
            lock.setCheckState(Qt.CheckState.Checked if pair.locked else Qt.CheckState.Unchecked)
        self.blockSignals(False)
        if self.selected != selected:
            self.select([row for row in selected if row < len(pairs)])

    def _item(self, row: int, column: int) -> QTableWidgetItem:
        item = self.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            if column in (1, 2):
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(row, column, item)
        return item

    def _on_item(self, item: QTableWidgetItem) -> None:
        if item.column() == 4:
            self.lock_changed.emit(item.row(), item.checkState() == Qt.CheckState.Checked)


def _shown(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) and value < 1000 else f"{value:.4g}" if np.isfinite(value) else "-"
