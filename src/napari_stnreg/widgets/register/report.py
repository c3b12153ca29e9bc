"""The figures at the end of a run, in a small table."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_stnreg.widgets.common.forms import button
from napari_stnreg.widgets.common.result_layers import folded_text

_SCORES = {
    "ncc": ("Correlation", "NCC over the image; 1 is perfect."),
    "local_ncc": ("Local correlation", "NCC in small windows; 1 is perfect."),
    "mutual_information": ("Mutual information", "Higher is better."),
    "mse": ("Mean squares", "Of the intensities as they are; lower is better."),
    "landmark_mean": ("Landmarks, mean", "Distance of the landmarks, in world units; lower is better."),
    "landmark_median": ("Landmarks, median", "Distance of the landmarks, in world units; lower is better."),
}
_STOP_REASONS = {
    "finished": "all steps done",
    "stopped": "stopped, best so far kept",
    "diverged": "the loss diverged, best so far kept",
}


NEXT = {
    "compare": ("Compare", "Look at fixed and warped together: flicker, checkerboard, side by side and more."),
    "scorecard": ("Scorecard", "All scores before and after, with labels and landmarks."),
    "workbench": ("Workbench", "Apply the transform to other layers, invert, chain, save it."),
}
"""What one does next with a result: the button's text, and one line that says what it opens."""


class Report(QWidget):
    """Scores before and after, folded share, seconds, how the run ended, and where to go from there.

    Signals
    -------
    asked(str)
        A key of :data:`NEXT` was chosen.
    """

    asked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setAccessibleName("scores of the last run")
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 4, 0, 4)
        self._next = QWidget()
        row = QHBoxLayout(self._next)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        for key, (text, tip) in NEXT.items():
            made = button(text, tip)
            made.setProperty("next", key)
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            made.clicked.connect(self._on_next)
            row.addWidget(made)
        self._next.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(self._grid)
        box.addWidget(self._next)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(0, 1)

    def clear(self) -> None:
        """Show nothing."""
        self._next.hide()
        while self._grid.count():
            item = self._grid.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()

    def text(self) -> str:
        """What is shown, line by line."""
        labels = [self._grid.itemAt(i).widget() for i in range(self._grid.count())]
        return "\n".join(label.text() for label in labels if label is not None)

    def show_results(self, results: list[Any]) -> None:
        """Show the mean over the results of a run (one, or one for each frame)."""
        self.clear()
        before, after = ([r.scores.get(when, {}) for r in results] for when in ("before", "after"))
        self._row(0, "", "before", "after", "")
        row = 1
        # The few that a person looks at first; the layers' metadata holds them all.
        for key, (title, tip) in _SCORES.items():
            if key in after[0]:
                self._row(row, title, _mean(before, key), _mean(after, key), tip)
                row += 1
        folded = sum(r.folding_fraction for r in results) / len(results)
        seconds = sum(r.seconds for r in results)
        frames = f"{len(results)} frames, " if len(results) > 1 else ""
        reason = _STOP_REASONS.get(results[-1].stop_reason, results[-1].stop_reason)
        line = QLabel(f"{folded_text(folded)} · {frames}{seconds:.1f} s · {reason}")
        line.setWordWrap(True)
        line.setToolTip("Share of the voxels where the Jacobian determinant is 0 or less; seconds of the fit.")
        self._grid.addWidget(line, row, 0, 1, 3)
        self._next.show()

    def _on_next(self) -> None:
        self.asked.emit(self.sender().property("next"))

    def _row(self, row: int, title: str, before: str, after: str, tip: str) -> None:
        for column, text in enumerate((title, before, after)):
            label = QLabel(text)
            label.setToolTip(tip)
            if column:
                label.setAlignment(Qt.AlignmentFlag.AlignRight)
            if not row:  # smaller rather than paler, as everywhere in the forms
                label.setStyleSheet("font-size: 8pt;")
            elif column == 2:
                font = label.font()
                font.setBold(True)
                label.setFont(font)
            self._grid.addWidget(label, row, column)


def _mean(scores: list[dict[str, float]], key: str) -> str:
    values = [s[key] for s in scores if s.get(key) is not None]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.4g}" if abs(mean) >= 1 else f"{mean:.3f}"
