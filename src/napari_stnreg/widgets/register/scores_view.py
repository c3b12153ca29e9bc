"""The scores of a run in a small table, and buttons for what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_stnreg.visualization.layers import folding_text
from napari_stnreg.widgets.common.forms import button, button_row, emphasize, help_label

if TYPE_CHECKING:
    from napari_stnreg.evaluation.verdict import Verdict
    from napari_stnreg.registration.result import Result

_SCORES = {
    "ncc": ("Correlation", "NCC over the image. 1 is perfect."),
    "local_ncc": ("Local correlation", "NCC in small windows. 1 is perfect."),
    "mutual_information": ("Mutual information", "Higher is better."),
    "mse": ("Mean squares", "Mean squared difference of the original intensities. Lower is better."),
    "landmark_mean": ("Landmarks, mean", "Distance of the landmarks in world units. Lower is better."),
    "landmark_median": ("Landmarks, median", "Distance of the landmarks in world units. Lower is better."),
}
"""Title and tooltip of the scores that are shown; the metadata of the layers holds all."""

_STOP_REASONS = {
    "finished": "all steps done",
    "stopped": "stopped, best so far kept",
    "diverged": "the loss diverged, best so far kept",
}

_SMALL, _LARGE = 0.001, 10_000.0
"""Scores outside of this range are written with an exponent, so that both columns fit beside the title."""

NEXT_PANELS = {
    "compare": ("Compare", "Look at fixed and warped together: flicker, checkerboard, side by side and more."),
    "scorecard": ("Scorecard", "All scores before and after, with labels and landmarks."),
    "transforms": ("Workbench", "Apply the transform to other layers, invert, chain, save it."),
}
"""Text and tooltip of the buttons that open another panel, by its key in ``open_panel.PANELS``."""


SUGGESTIONS = {
    "mutual information": ("Try mutual information", "Register again with mutual information as the similarity."),
    "search": (
        "Search rotations and mirror images",
        "Register again. The start search tries all rotations, scales and mirror images.",
    ),
    "landmarks": ("Use landmarks", "Open the landmark panel with this pair of images."),
}
"""Text and tooltip of the button for what to try next, by :attr:`Verdict.suggestion`."""

_REASONS = 2
"""Reasons of a verdict that are shown at first; the verdict is pinned, and many would cover a narrow panel."""

# A contrast of at least 4.5 with the background of the theme; the word repeats the meaning of the color.
_COLORS = {
    "dark": {"good": "#5fd38d", "doubtful": "#e8b34b", "failed": "#ff8a80"},
    "light": {"good": "#11673a", "doubtful": "#7a4f00", "failed": "#b3141f"},
}


class VerdictLine(QWidget):
    """The verdict of a run as a colored line, its reasons, and a button for what to try next.

    Signals
    -------
    retry_requested(str)
        A key of :data:`SUGGESTIONS`.
    """

    retry_requested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.label = QLabel()
        self.label.setWordWrap(True)
        self.label.setAccessibleName("verdict")
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.button = QPushButton()
        self.button.setAutoDefault(False)
        self.button.clicked.connect(self._on_button)
        self.more_button = QPushButton()
        self.more_button.setAutoDefault(False)
        self.more_button.setFlat(True)
        self.more_button.setToolTip("Show all reasons of the verdict, or only the first ones.")
        self.more_button.clicked.connect(self._on_more)
        self._suggestion, self._verdict = "", ""
        self._lines: list[str] = []
        self._unfolded = False
        self._show_lines()
        self._suggest("")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 4, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.label)
        box.addWidget(self.more_button)
        box.addWidget(self.button)
        self.hide()

    def show_results(self, results: list[Result], theme: str, judgment: Verdict | None = None) -> None:
        """Show the verdict of a run in the colors of a theme, ``"dark"`` or ``"light"``.

        It is that of the series, if one is given, and else the worst of the results.
        """
        order, frame = ("failed", "doubtful", "good"), ""
        if judgment is None:
            judged = [i for i, result in enumerate(results) if result.evidence] or range(len(results))
            number = min(judged, key=lambda i: (order.index(results[i].verdict), results[i].confidence))
            judgment = results[number].judgment
            frame = f", frame {number}" if len(results) > 1 else ""
        self._verdict = judgment.verdict
        title = f"{judgment.verdict.capitalize()}{frame} (confidence {judgment.confidence:.2f})"
        self._lines, self._unfolded = [title, *judgment.reasons], False
        self._show_lines()
        self.label.setToolTip("Estimated from evidence that the registration did not optimize.")
        self._suggest(judgment.suggestion)
        self.restyle(theme)
        self.show()

    def _show_lines(self) -> None:
        more = len(self._lines) - 1 - _REASONS
        folds = more > 1  # the button takes the line of one
        self.label.setText("\n".join(self._lines[: 1 + _REASONS] if folds and not self._unfolded else self._lines))
        text = "Fewer reasons" if self._unfolded else f"{more} more reasons"
        self.more_button.setText(text)
        self.more_button.setAccessibleName(text)
        self.more_button.setVisible(folds)

    def _on_more(self) -> None:
        self._unfolded = not self._unfolded
        self._show_lines()

    def _suggest(self, suggestion: str) -> None:
        self._suggestion = suggestion
        text, tip = SUGGESTIONS.get(suggestion, ("", "Nothing to suggest."))
        self.button.setText(text)
        self.button.setToolTip(tip)
        self.button.setAccessibleName(text or "no suggestion")
        self.button.setVisible(bool(suggestion))

    def restyle(self, theme: str) -> None:
        """Set the color for a theme, ``"dark"`` or ``"light"``."""
        color = _COLORS[theme].get(self._verdict)
        self.label.setStyleSheet(f"color: {color}; font-weight: bold;" if color else "")

    def _on_button(self) -> None:
        self.retry_requested.emit(self._suggestion)


class ScoresView(QWidget):
    """Verdict, scores before and after, folding, duration and stop reason of a run.

    Signals
    -------
    open_requested(str)
        A key of :data:`NEXT_PANELS`.
    """

    open_requested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setAccessibleName("scores of the last run")
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 4, 0, 4)
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(0, 1)
        self.buttons = {key: button(text, tip) for key, (text, tip) in NEXT_PANELS.items()}
        for key, made in self.buttons.items():
            made.setProperty("panel", key)
            made.clicked.connect(self._on_button)
        self._next = QWidget()
        self._next.setLayout(button_row(*self.buttons.values()))
        self._next.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        self.verdict = VerdictLine()
        box.addWidget(self.verdict)
        box.addLayout(self._grid)
        box.addWidget(self._next)

    def clear(self) -> None:
        """Remove the scores."""
        self._next.hide()
        self.verdict.hide()
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = None if item is None else item.widget()
            if widget is not None:
                widget.hide()  # it is deleted once Qt is idle, and new scores are drawn before
                widget.deleteLater()

    def text(self) -> str:
        """Return the shown text, one label per line."""
        items = [self._grid.itemAt(i) for i in range(self._grid.count())]
        labels = [item.widget() for item in items if item is not None]
        return "\n".join(label.text() for label in labels if isinstance(label, QLabel))

    def show_results(self, results: list[Result], theme: str = "dark", judgment: Verdict | None = None) -> None:
        """Show the verdict and the mean scores of a run (of one result, or one for each frame of a series)."""
        self.clear()
        self.verdict.show_results(results, theme, judgment)
        before, after = ([r.scores.get(when, {}) for r in results] for when in ("before", "after"))
        self._add_row(0, "", "before", "after", "")
        row = 1
        for key, (title, tip) in _SCORES.items():
            if key in after[0]:
                self._add_row(row, title, _mean(before, key), _mean(after, key), tip)
                row += 1
        folding = sum(r.folding_fraction for r in results) / len(results)
        seconds = sum(r.seconds for r in results)
        worst = max((r.inverse.get("max_voxels", 0.0) for r in results), default=0.0)
        frames = f"{len(results)} frames, " if len(results) > 1 else ""
        reason = _STOP_REASONS.get(results[-1].stop_reason, results[-1].stop_reason)
        thinned = max(r.score_stride**r.grid.ndim for r in results)
        scored = f" · scores from 1 of {thinned} voxels" if thinned > 1 else ""
        summary = QLabel(
            f"{folding_text(folding)} · inverse to {worst:.1g} voxels · {frames}{seconds:.1f} s · {reason}{scored}"
        )
        summary.setWordWrap(True)
        summary.setToolTip(
            "Fraction of the voxels whose Jacobian determinant is not positive. Largest round-trip error of the "
            "inverse. Duration of the fit. Large images and runs that were stopped are scored on fewer voxels."
        )
        self._grid.addWidget(summary, row, 0, 1, 3)
        choice = results[-1].similarity_choice
        if choice is not None:
            self._grid.addWidget(help_label(f"Similarity: {choice}"), row + 1, 0, 1, 3)
        self._next.show()

    def _on_button(self) -> None:
        sender = self.sender()
        if sender is not None:
            self.open_requested.emit(sender.property("panel"))

    def _add_row(self, row: int, title: str, before: str, after: str, tip: str) -> None:
        for column, text in enumerate((title, before, after)):
            label = QLabel(text)
            label.setToolTip(tip)
            label.setWordWrap(not column)
            side = Qt.AlignmentFlag.AlignRight if column else Qt.AlignmentFlag.AlignLeft
            label.setAlignment(side | Qt.AlignmentFlag.AlignTop)
            if not row:
                label.setStyleSheet("font-size: 8pt;")
            elif column == 2:
                emphasize(label)
            self._grid.addWidget(label, row, column)


def _mean(scores: list[dict[str, float]], key: str) -> str:
    values = [s[key] for s in scores if s.get(key) is not None]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if abs(mean) >= _LARGE or 0 < abs(mean) < _SMALL:
        digits, exponent = f"{mean:.2e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{mean:.4g}" if abs(mean) >= 1 else f"{mean:.3f}"
