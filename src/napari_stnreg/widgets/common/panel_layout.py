"""How the panel is laid out: a scrolling form, and below it what is always in sight."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.widgets.common.dock_panel import DockPanel
from napari_stnreg.widgets.common.forms import FormArea, button, line
from napari_stnreg.widgets.register.inputs import Inputs
from napari_stnreg.widgets.register.loss_plot import LossPlot
from napari_stnreg.widgets.register.options import Options
from napari_stnreg.widgets.register.report import Report


class PanelLayout(DockPanel):
    """The parts of the panel and their places; knows nothing about runs."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.inputs = Inputs(self._viewer)
        self.options = Options()
        self.plot = LossPlot(self._viewer)
        self.plot.hide()
        self.report = Report()
        self._make_controls()

        form = QWidget()
        self._form = QVBoxLayout(form)
        self._form.setContentsMargins(8, 8, 8, 4)
        self._form.setSpacing(8)
        for part in (self.inputs, line(), self.options, self.plot, self.report):
            self._form.addWidget(part)
        self._form.addStretch(1)
        self.scroll = FormArea(form)
        self._to_report = QTimer(self)
        self._to_report.setSingleShot(True)
        self._to_report.setInterval(250)
        self._to_report.timeout.connect(self._scroll_down)

        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.scroll, 1)
        box.addWidget(line())
        box.addWidget(self._controls)

    def sizeHint(self) -> QSize:
        """Wide enough to read, tall enough for the plain form."""
        return QSize(320, 640)

    def _make_controls(self) -> None:
        self.register_button = button("Register", "Warp the moving image onto the fixed one (Ctrl+Enter).")
        self.register_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        font = self.register_button.font()
        font.setBold(True)
        self.register_button.setFont(font)
        self.stop_button = button("Stop", "End now and keep the best so far (Esc).")
        self.undo_button = button("Undo run", "Remove the layers of the last run.")
        self.again_button = button("Run again", "Register once more, beginning at the result (of the selected layer).")
        self.copy_button = button("Copy", "Copy the run just made, as Python or as a command.")
        menu = QMenu(self.copy_button)
        self.copy_python = QAction("Copy as Python", menu)
        self.copy_command = QAction("Copy as command", menu)
        menu.addActions([self.copy_python, self.copy_command])
        self.copy_button.setMenu(menu)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.bar.setAccessibleName("progress")
        self.bar.setToolTip("Share of the planned steps; a run that converges ends earlier.")
        self.status = QLabel("Choose two images and press Register.")
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.status.setAccessibleName("status")
        self.elapsed = QLabel("")
        self.elapsed.setToolTip("Time since the start.")

        first, second, third = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        first.addWidget(self.register_button, 1)
        first.addWidget(self.stop_button)
        for part in (self.undo_button, self.again_button, self.copy_button):
            part.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            second.addWidget(part)
        third.addWidget(self.status, 1)
        third.addWidget(self.elapsed, 0, Qt.AlignmentFlag.AlignTop)
        self._controls = QWidget()
        box = QVBoxLayout(self._controls)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(first)
        box.addWidget(self.bar)
        box.addLayout(third)
        box.addLayout(second)

    def set_busy(self, busy: bool) -> None:
        """The form stays readable during a run but is not taken to change it."""
        self.inputs.setEnabled(not busy)
        if not busy:
            return
        self.scroll.ensureWidgetVisible(self.plot)

    def show_report(self) -> None:
        """Scroll to the figures, once they have their place at the form's end."""
        self._to_report.start()

    def _scroll_down(self) -> None:
        bar = self.scroll.verticalScrollBar()
        bar.setValue(bar.maximum())
