"""A panel that starts short tasks: a scrolling form, and below it status, progress and Stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.layers import Layer
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.widgets.common.dock_panel import DockPanel
from napari_stnreg.widgets.common.forms import FormArea, button, line
from napari_stnreg.widgets.common.task_runner import TaskRunner


class ToolPanel(DockPanel):
    """A form whose buttons start tasks, one at a time.

    Parameters
    ----------
    napari_viewer
        The napari viewer.
    invitation
        What the status line says at first.
    """

    def __init__(self, napari_viewer: Any, invitation: str) -> None:
        super().__init__(napari_viewer)
        content = QWidget()
        self.form = QVBoxLayout(content)
        self.form.setContentsMargins(8, 8, 8, 4)
        self.form.setSpacing(8)
        self.scroll = FormArea(content)
        self.stop_button = button("Stop", "End what is running (Esc).")
        self.stop_button.clicked.connect(self.stop)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.bar.setAccessibleName("progress")
        self.status = QLabel(invitation)
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.status.setAccessibleName("status")

        below = QWidget()
        rows = QVBoxLayout(below)
        rows.setContentsMargins(8, 6, 8, 6)
        rows.setSpacing(5)
        first = QHBoxLayout()
        first.addWidget(self.bar, 1)
        first.addWidget(self.stop_button)
        rows.addLayout(first)
        rows.addWidget(self.status)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.scroll, 1)
        box.addWidget(line())
        box.addWidget(below)

        self._done: Callable[[Any], None] | None = None
        self._runner = TaskRunner(self)
        self._runner.updated.connect(self._on_update)
        self._runner.finished.connect(self._on_finished)
        self._runner.failed.connect(self._on_failed)
        self._runner.canceled.connect(self._on_canceled)
        self._stop_shortcut = self.shortcut("Escape", self.stop)
        QApplication.instance().aboutToQuit.connect(self._runner.cancel)
        self.connect_viewer()

    def sizeHint(self) -> QSize:
        """Wide enough to read."""
        return QSize(320, 640)

    # -- tasks

    @property
    def running(self) -> bool:
        """Whether a task is at work."""
        return self._runner.running

    def begin(self, task: Callable[..., Any], *arguments: Any, done: Callable[[Any], None]) -> bool:
        """Start a task and call ``done`` with what it returns; false, with a sentence, when that cannot be."""
        try:
            self._runner.start_task(task, *arguments)
        except RegistrationError as error:
            self.complain(error)
            return False
        self._done = done
        self.bar.setValue(0)
        self.show_state()
        return True

    def stop(self) -> None:
        """End the task; what is done of it is kept."""
        if self.running:
            self.status.setText("Stopping …")
            self._runner.stop()

    def say(self, text: str, *, warn: bool = False) -> None:
        """Show a sentence in the status line, and as a notification if a person must not miss it."""
        self.status.setText(text)
        if warn:
            show_warning(text)

    def complain(self, error: Exception) -> None:
        """Say what went wrong."""
        text = str(error) or type(error).__name__
        if not isinstance(error, RegistrationError):
            text = f"That failed: {text}"
        self.status.setText(text)
        show_error(text)

    def show_state(self) -> None:
        """Enable what can be done now; subclasses add their own buttons."""
        self.stop_button.setEnabled(self.running)
        self._stop_shortcut.setEnabled(self.running)

    def _on_update(self, step: Any) -> None:
        self.bar.setValue(round(1000 * step.fraction))
        if not self._runner.stopping:  # the sentence of Stop stays until the end
            self.status.setText(step.message)
        if step.what is not None:
            self.on_partial(step.what)

    def on_partial(self, what: Any) -> None:
        """Take up what a task hands over on its way."""

    def _on_finished(self, outcome: Any) -> None:
        done, self._done = self._done, None
        self.bar.setValue(1000)
        try:
            if done is not None:
                done(outcome)
        except RegistrationError as error:
            self.complain(error)
        self.show_state()

    def _on_failed(self, error: Exception) -> None:
        self._done = None
        self.bar.setValue(0)
        self.complain(error)
        self.show_state()

    def _on_canceled(self) -> None:
        self._done = None
        self.bar.setValue(0)
        self.status.setText("Stopped; nothing was changed.")
        self.show_state()

    def close_down(self) -> None:
        """End the task; the dock is closed."""
        self._runner.cancel()

    # -- layers

    def add_layers(self, layers: list[Layer]) -> None:
        """Add new layers above the others and leave the person's selection as it was."""
        selected = list(self._viewer.layers.selection)
        for layer in layers:
            self._viewer.add_layer(layer)
        self._viewer.layers.selection = {layer for layer in selected if layer in self._viewer.layers}
