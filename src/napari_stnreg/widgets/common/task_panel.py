"""The base class of panels that run tasks: a scrolling form above run buttons, progress, status and actions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from napari.layers import Layer
from napari.utils import cancelable_progress
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QPoint, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.widgets.common.dock_panel import DockPanel
from napari_stnreg.widgets.common.forms import FormScrollArea, StatusLabel, button, emphasize, separator
from napari_stnreg.widgets.common.task_runner import TaskProgress, TaskRunner
from napari_stnreg.widgets.dock.hint import FirstSteps, help_button, open_page

if TYPE_CHECKING:
    from napari.viewer import Viewer

_CLOCK_MS = 200
_SCROLL_MS = 250
"""After this time a widget that was just shown has its place in the form."""


class TaskPanel(DockPanel):
    """A form whose buttons start background tasks, one at a time.

    Parameters
    ----------
    napari_viewer
        The napari viewer.
    message
        First text of the status line.

    Attributes
    ----------
    form
        Layout of the scrolling form; subclasses add their parts to it.
    status, bar, elapsed, stop_button
        Status line, progress bar, elapsed time and Stop below the form.
    activity
        Entry of the running task in napari's activity dock, if it has one.
    """

    runs_steadily: ClassVar[bool] = True
    """Whether the time left can be estimated from the completed fraction."""

    def __init__(self, napari_viewer: Viewer, message: str) -> None:
        super().__init__(napari_viewer)
        content = QWidget()
        self.form = QVBoxLayout(content)
        self.form.setContentsMargins(8, 8, 8, 4)
        self.form.setSpacing(8)
        self.first_steps = FirstSteps(self.title, self.introduction)
        self.form.addWidget(self.first_steps)
        self.scroll_area = FormScrollArea(content)
        self.stop_button = button("Stop", "End the running task (Esc).")
        self.stop_button.clicked.connect(self.stop)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.bar.setAccessibleName("progress")
        self.status = StatusLabel(message)
        self.elapsed = QLabel("")
        self.elapsed.setToolTip("Time since the start, and an estimate of the time left.")

        self._below = controls = QWidget()
        self._controls = QVBoxLayout(controls)
        self._controls.setContentsMargins(8, 6, 8, 6)
        self._controls.setSpacing(5)
        self._progress_row = QHBoxLayout()
        self._progress_row.addWidget(self.bar, 1)
        self._progress_row.addWidget(self.stop_button)
        time_row = QHBoxLayout()
        time_row.addWidget(self.elapsed, 1)
        time_row.addWidget(help_button(self.help_page))
        self.shortcut("F1", lambda: open_page(self.help_page))
        self._controls.addLayout(self._progress_row)
        self._controls.addWidget(self.status)
        self._controls.addLayout(time_row)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.scroll_area, 1)
        box.addWidget(separator())
        box.addWidget(controls)

        self._done: Callable[[Any], None] | None = None
        self._start_time = 0.0
        self._fraction = 0.0
        self._focus_before: QWidget | None = None
        self._focus_timer = self._timer(self._restore_focus)
        self._percent = 0
        self.activity: Any = None
        self._clock = QTimer(self)
        self._clock.setInterval(_CLOCK_MS)
        self._clock.timeout.connect(self._tick)
        self._scroll_goal: QWidget | None = None
        self._scroll_timer = self._timer(self._scroll, _SCROLL_MS)
        self._runner = TaskRunner(self)
        self._runner.updated.connect(self._on_update)
        self._runner.finished.connect(self._on_finished)
        self._runner.failed.connect(self._on_failed)
        self._runner.canceled.connect(self._on_canceled)
        self._stop_shortcut = self.shortcut("Escape", self.stop)
        application = QApplication.instance()
        assert application is not None
        application.aboutToQuit.connect(self._runner.cancel)
        self.connect_viewer()

    def sizeHint(self) -> QSize:
        """Wide enough to read, tall enough for a plain form."""
        return QSize(320, 640)

    # -- layout, for subclasses

    def set_run_buttons(self, run: QPushButton, *others: QPushButton) -> None:
        """Put the button that starts the main task above the progress bar, with Stop and others beside it."""
        emphasize(run)
        row = QHBoxLayout()
        row.addWidget(run, 1)
        self._progress_row.removeWidget(self.stop_button)
        for widget in (*others, self.stop_button):
            row.addWidget(widget)
        self._controls.insertLayout(0, row)

    def set_action_buttons(self, *buttons: QPushButton) -> None:
        """Add a row of buttons of equal width below the status line."""
        row = QHBoxLayout()
        for each in buttons:
            each.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            row.addWidget(each)
        self._controls.addLayout(row)

    def pin(self, widget: QWidget) -> None:
        """Show a widget above the run buttons, where it does not scroll."""
        self._controls.insertWidget(0, widget)

    def scroll_to_end(self) -> None:
        """Scroll to the end of the form, once what was just shown there has its place."""
        self.scroll_to(None)

    def scroll_to(self, part: QWidget | None) -> None:
        """Scroll to a part of the form, once it has its place; ``None`` for the end."""
        self._scroll_goal = part
        self._scroll_timer.start()

    def _scroll(self) -> None:
        bar = self.scroll_area.verticalScrollBar()
        if self._scroll_goal is not None:
            self.scroll_area.ensureWidgetVisible(self._scroll_goal, 0, 0)
        elif bar is not None:
            bar.setValue(bar.maximum())

    def _order_focus(self) -> None:
        """Let the tab key go through the form, then through the buttons below it from top to bottom."""

        def place(widget: QWidget) -> tuple[int, int]:
            corner = widget.mapTo(self._below, QPoint(0, 0))
            return (corner.y() + widget.height() // 2) // 12, corner.x()

        chain = self._focusable()
        form = [widget for widget in chain if self.scroll_area.isAncestorOf(widget)]
        below = sorted((widget for widget in chain if self._below.isAncestorOf(widget)), key=place)
        for before, after in itertools.pairwise([*form, *below]):
            self.setTabOrder(before, after)

    # -- tasks

    @property
    def running(self) -> bool:
        """Whether a task is running."""
        return self._runner.running

    @property
    def stopping(self) -> bool:
        """Whether a stop of the running task was requested."""
        return self._runner.stopping

    def begin(
        self, task: Callable[..., Any], *arguments: Any, done: Callable[[Any], None], activity: str | None = None
    ) -> bool:
        """Start a task and call a function with its result.

        Parameters
        ----------
        task, *arguments
            Generator function (see :mod:`~napari_stnreg.widgets.common.task_runner`) and its arguments.
        done
            Called on the GUI thread with the result.
        activity
            Name of the task in napari's activity dock; none if not given.

        Returns
        -------
        bool
            False, with a message in the status line, if the task cannot be started.
        """
        # napari processes pending events while it makes its progress bar, so that it comes before the start.
        # It calls a callback only for loops; the clock checks whether its button was pressed.
        focus = QApplication.focusWidget()
        bar = None if activity is None or self._runner.running else cancelable_progress(total=100, desc=activity)
        try:
            self._runner.start_task(task, *arguments)
        except RegistrationError as error:
            if bar is not None:
                bar.close()
            self.show_error(error)
            return False
        self.activity, self._done, self._start_time, self._percent = bar, done, time.perf_counter(), 0
        self.bar.setValue(0)
        self._fraction = 0.0
        self._clock.start()
        self.show_state()
        self._focus_before = focus if focus is not None and self.isAncestorOf(focus) else None
        if self._focus_before is not None:  # a disabled button would hand the focus to any other field
            self.stop_button.setFocus(Qt.FocusReason.OtherFocusReason)
        return True

    def stop(self) -> None:
        """Stop the task and keep what is done so far; a second time, give up at once."""
        if self._runner.stopping:
            self.status.setText("Giving up …")
            self._runner.cancel()
        elif self._runner.running:
            self.status.setText("Stopping …")
            self._runner.stop()
            self.show_state()

    def show_status(self, text: str, *, warn: bool = False) -> None:
        """Show a message in the status line, and also as a notification if it is a warning."""
        self.status.setText(text)
        if warn:
            show_warning(text)

    def show_error(self, error: Exception) -> None:
        """Show an error in the status line and as a notification."""
        text = str(error) or type(error).__name__
        if not isinstance(error, RegistrationError):
            text = f"Failed: {text}"
        self.status.setText(text)
        show_error(text)

    def refuse(self, error: Exception) -> None:
        """Show why a task cannot start or has failed; the scores of an earlier one do not stay beside the error."""
        self.drop_scores()
        self.show_error(error)

    def drop_scores(self) -> None:
        """Remove what was shown about the result of the last task."""

    def show_state(self) -> None:
        """Enable what is possible now; subclasses extend it for their own buttons."""
        self.stop_button.setEnabled(self._runner.running)
        self.stop_button.setText("Give up" if self._runner.stopping else "Stop")
        self._stop_shortcut.setEnabled(self.running)
        if self._focus_before is not None:
            self._focus_timer.start()  # once the subclass has enabled its buttons

    def on_progress(self, payload: Any) -> None:
        """Show the payload of a task's progress."""

    def on_end(self) -> None:
        """Clean up after a task, however it ended; called before its result is taken or its error is shown."""

    def _on_update(self, progress: TaskProgress) -> None:
        self.bar.setValue(round(1000 * progress.fraction))
        self._fraction = progress.fraction
        self._percent = int(100 * progress.fraction)
        self.status.setText(f"Stopping: {progress.message}" if self._runner.stopping else progress.message)
        if progress.payload is not None:
            self.on_progress(progress.payload)

    def _on_finished(self, result: Any) -> None:
        done = self._end(self.bar.value() if self._runner.stop_requested else 1000)
        try:
            if done is not None:
                done(result)
        except RegistrationError as error:
            self.show_error(error)
        self.show_state()

    def _on_failed(self, error: Exception) -> None:
        self._end(0)
        self.refuse(error)
        self.show_state()

    def _on_canceled(self) -> None:
        self._end(0)
        self.status.setText("Stopped. Nothing was changed.")
        self.show_state()

    def _restore_focus(self) -> None:
        """Give the focus back to the control that had it before the task, unless the user has moved it."""
        before, focus = self._focus_before, QApplication.focusWidget()
        if before is None or self.running or not before.isEnabled():
            return
        self._focus_before = None
        if focus is None or self.isAncestorOf(focus):  # a disabled Stop hands the focus to any other field
            before.setFocus(Qt.FocusReason.OtherFocusReason)

    def _end(self, value: int) -> Callable[[Any], None] | None:
        done, self._done = self._done, None
        self._clock.stop()
        self._tick()
        if self.activity is not None:
            self.activity.close()
            self.activity = None
        self.bar.setValue(value)
        self.on_end()
        return done

    def _tick(self) -> None:
        seconds = time.perf_counter() - self._start_time
        left = ""
        if self.runs_steadily and self._runner.running and seconds > 3 and 0.05 < self._fraction < 0.95:
            left = f" · about {format_seconds(seconds * (1 / self._fraction - 1))} left"
        self.elapsed.setText(format_seconds(seconds) + left)
        if self.activity is None:
            return
        if self.activity.is_canceled:
            self.stop()
        # napari's progress bar processes pending events in each update. It is therefore moved here, by a slow clock
        # that cannot be re-entered, and only when there is something to show.
        if self._percent > self.activity.n:
            self.activity.update(self._percent - self.activity.n)

    def close_down(self) -> None:
        """Cancel the task."""
        self._clock.stop()
        self._runner.cancel()

    # -- layers

    def add_layers(self, layers: list[Layer]) -> None:
        """Add layers on top of the layer list and keep the user's selection."""
        selected = list(self._viewer.layers.selection)
        for layer in layers:
            self._viewer.add_layer(layer)
        self._viewer.layers.selection = {layer for layer in selected if layer in self._viewer.layers}


def format_seconds(seconds: float) -> str:
    """Format a duration such as ``"3.2 s"``, ``"4 min 05 s"`` or ``"2 h 10 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
