"""Quality of an alignment: a summary, the plot along the stack, and the sections to inspect."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.widgets.align_stack.gap_plot import GapPlot

if TYPE_CHECKING:
    from napari.viewer import Viewer


class QualityView(QWidget):
    """Shows a result; hidden until there is one.

    Parameters
    ----------
    viewer
        Whose theme it follows.

    Signals
    -------
    picked(int)
        A section that was clicked in the plot, or chosen in the table by mouse or keyboard.
    """

    picked = Signal(int)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.summary, self.warning = QLabel(), QLabel()
        for label, name in ((self.summary, "summary"), (self.warning, "warning")):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
            label.setAccessibleName(name)
        self.plot = GapPlot(viewer)
        self.table = SectionTable()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        for part in (self.warning, self.summary, self.plot, self.table):
            box.addWidget(part)
        self.plot.picked.connect(self.picked)
        self.table.picked.connect(self.picked)
        self.hide()

    def show_result(self, result: Any) -> None:
        """Show a :class:`~napari_stnreg.stacks.runtime.progress.StackResult`."""
        bad = [one for one in result.verdicts if one.verdict != "good"]
        gaps = result.gaps
        self.warning.setText(" ".join(result.warnings))
        self.warning.setVisible(bool(result.warnings))
        self.summary.setText("".join(f"{line[:1].upper()}{line[1:]}. " for line in result.summary).strip())
        self.plot.show_gaps(
            [(gap["section"] + gap["next"]) / 2 for gap in gaps],
            [gap["correlation_before"] for gap in gaps],
            [gap["correlation_after"] for gap in gaps],
            [gap["verdict"] == "doubtful" for gap in gaps],
            [(one[-1] + other[0]) / 2 for one, other in pairwise(result.segments)],
            [gap["chance"] for gap in gaps if gap.get("chance")],
        )
        self.table.show_sections(
            [(one.section, one.verdict if one.status == "aligned" else one.status, one.reason) for one in bad]
        )
        self.restyle()
        self.show()

    def restyle(self) -> None:
        """Take the colors of the viewer's theme."""
        self.plot.restyle()
        # The text keeps the theme's readable color; the bar beside it marks it as important.
        self.warning.setStyleSheet(f"border-left: 4px solid rgb{self.plot.accent}; padding-left: 6px;")


class SectionTable(QTableWidget):
    """Sections that are not simply aligned, with the reason; as tall as they need, up to a limit.

    Signals
    -------
    picked(int)
        The section that was chosen.
    """

    picked = Signal(int)
    TALLEST = 210

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["Section", "Status", "What to do"])
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column, mode in enumerate(("ResizeToContents", "ResizeToContents", "Stretch")):
            self.horizontalHeader().setSectionResizeMode(column, getattr(QHeaderView.ResizeMode, mode))
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTabKeyNavigation(False)
        self.setWordWrap(True)
        self.setMinimumHeight(40)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("sections to look at")
        self.setToolTip("Sections whose verdict is not good. Select one to go there.")
        self.verticalHeader().sectionResized.connect(self._on_rows)
        self.currentCellChanged.connect(self._on_row)
        self.cellClicked.connect(self._on_row)

    def show_sections(self, rows: list[tuple[int, str, str]]) -> None:
        """Fill it with section, verdict and reason; without any it is hidden."""
        self.blockSignals(True)
        self.setRowCount(len(rows))
        for row, (section, *rest) in enumerate(rows):
            for column, text in enumerate((str(section), *rest)):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
                self.setItem(row, column, item)
        self.setCurrentCell(-1, -1)
        self.blockSignals(False)
        self.setVisible(bool(rows))
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        """Tall enough for the rows."""
        tall = self.horizontalHeader().height() + self.verticalHeader().length() + 2 * self.frameWidth()
        return QSize(super().sizeHint().width(), min(tall, self.TALLEST))

    def _on_rows(self, *_sizes: int) -> None:
        self.updateGeometry()

    def _on_row(self, row: int, *_rest: int) -> None:
        item = self.item(row, 0)
        if item is not None:
            self.picked.emit(int(item.text()))
