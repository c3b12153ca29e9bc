"""The panel: choose two layers, press Register, watch, stop, keep or undo. It composes the other parts."""

from __future__ import annotations

import time
from typing import Any

from napari.layers import Layer
from napari.utils import cancelable_progress
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common import preferences
from napari_stnreg.widgets.common.device_combo import DeviceSearch
from napari_stnreg.widgets.common.layer_io import landmarks
from napari_stnreg.widgets.common.memory_dialog import accepted, smaller_level
from napari_stnreg.widgets.common.panel_layout import PanelLayout
from napari_stnreg.widgets.common.result_layers import transform_from
from napari_stnreg.widgets.models.session import SESSION
from napari_stnreg.widgets.register.code_export import command_line, python_script
from napari_stnreg.widgets.register.run_layers import RunLayers
from napari_stnreg.widgets.register.worker import Job, Outcome, Runner, Update


class RegisterWidget(PanelLayout):
    """Registers two image layers of a viewer.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    It can be driven from code: :meth:`set_fixed`, :meth:`set_moving`, :meth:`start`, :meth:`stop`, :meth:`undo`,
    :attr:`running`, :attr:`state`, :attr:`result`.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._job: Job | None = None
        self._outcome: Outcome | None = None
        self._state = "idle"
        self._began = 0.0
        self._percent = 0
        self._activity: Any = None
        self._runner = Runner(self)
        self._runner.updated.connect(self._on_update)
        self._runner.finished.connect(self._on_finished)
        self._runner.failed.connect(self._on_failed)
        self._runner.canceled.connect(self._on_canceled)
        self._layers = RunLayers(self._viewer, self)
        self._layers.rested.connect(self._show_state)
        self.options.restore({"settings": {}, **self._preferences()})
        self.options.restore(preferences.recall())
        self._connect_buttons()

        self._clock = QTimer(self)
        self._clock.setInterval(200)
        self._clock.timeout.connect(self._tick)
        self._devices = DeviceSearch(self, lambda: self._runner.running)
        self._devices.found.connect(self._on_devices)
        self.connect_viewer()
        self.inputs.prefill()
        self._show_state()
        QApplication.instance().aboutToQuit.connect(self._runner.cancel)

    @staticmethod
    def _preferences() -> dict[str, Any]:
        chosen = preferences.preferences()
        settings = {name: chosen[name] for name in ("device", "preset") if name in chosen}
        state: dict[str, Any] = {"settings": settings}
        if "preview_rate" in chosen:
            state["preview_rate"] = chosen["preview_rate"]
        return state

    # -- driving it from code

    @property
    def state(self) -> str:
        """``"idle"``, ``"running"``, ``"stopping"`` or ``"adding"`` (the result's layers)."""
        return self._state

    @property
    def running(self) -> bool:
        """Whether a run is going on or its layers are being added or removed."""
        return self._state != "idle" or self._layers.busy

    @property
    def result(self) -> Any:
        """The last run's :class:`~napari_stnreg.registration.result.Result`, or ``None``."""
        return self._outcome.result if self._outcome is not None else None

    def set_fixed(self, layer: Layer | str) -> None:
        """Choose the fixed layer."""
        self._choose(self.inputs.fixed, layer)

    def set_moving(self, layer: Layer | str) -> None:
        """Choose the moving layer."""
        self._choose(self.inputs.moving, layer)

    def _choose(self, side: Any, layer: Layer | str) -> None:
        self.refresh()
        layer = self._viewer.layers[layer] if isinstance(layer, str) else layer
        if not side.layer_box.choose(layer):
            raise InputError(f"'{layer.name}' is not an image layer of this viewer.")

    def start(self) -> bool:
        """Register; false (with a sentence in the status line) when that cannot be."""
        return self._start(again=False)

    def again(self) -> bool:
        """Register once more, beginning at the last result (or at that of the selected layer)."""
        return self._start(again=True)

    def stop(self) -> None:
        """End the run soon and keep the best so far."""
        if self._state == "running":
            self._set_state("stopping")
            self.status.setText("Stopping …")
            self._runner.stop()

    def undo(self) -> None:
        """Remove the layers of the last run."""
        if not self.running:
            self._layers.undo(self._on_undone)
            self._show_state()

    # -- a run

    def _start(self, *, again: bool) -> bool:
        if self.running:
            self._say("A registration is running already; stop it first.", show_warning)
            return False
        try:
            job = self._make_job(again=again)
            fitted = job.model is None or job.settings.refine > 0
            question = smaller_level(job, self.options.device) if fitted else None
            if question is not None and not accepted(self, question):
                self.status.setText("Not started: it would not fit in memory at full resolution.")
                return False
            self._runner.start(job)
        except RegistrationError as error:
            self._say(str(error), show_error)
            return False
        preferences.remember(self.options.state())
        self._job, self._began, self._percent = job, time.perf_counter(), 0
        self._set_state("running")
        self.status.setText("Starting …")
        self.bar.setValue(0)
        self.report.clear()
        self.plot.clear()
        self.plot.show()
        self._clock.start()
        # napari calls a callback only for loops; the clock asks whether its button was pressed.
        self._activity = cancelable_progress(total=100, desc=f"Register {job.naming}")
        return True

    def _make_job(self, *, again: bool) -> Job:
        inputs, options = self.inputs, self.options
        if not options.family and options.model.chosen is None:
            raise InputError("No transform is chosen: choose an overall one, a bending one, or both.")
        fixed, moving = inputs.fixed.source(), inputs.moving.source()
        same = inputs.fixed.layer is inputs.moving.layer and inputs.fixed.channel == inputs.moving.channel
        if same and not inputs.every_frame:
            raise InputError("Fixed and moving are the same layer; choose a different one for one of them.")
        if fixed.grid.ndim != moving.grid.ndim:
            raise InputError(
                f"'{fixed.name}' is {fixed.grid.ndim}D and '{moving.name}' is {moving.grid.ndim}D; "
                "slices cannot be registered to volumes yet, so choose two of the same kind."
            )
        moving.grid.with_unit(fixed.grid.unit)  # says so when the units cannot be converted
        settings = RegistrationSettings.parse(
            **options.values(), fixed_channel=inputs.fixed.channel, moving_channel=inputs.moving.channel
        )
        points = self._landmarks(fixed, moving)
        return Job(
            fixed=fixed,
            moving=moving,
            settings=settings,
            fixed_landmarks=points[0],
            moving_landmarks=points[1],
            start=self._earlier_transform() if again else None,
            model=options.model.chosen,
            kinds=options.kinds,
            preview_rate=options.rate_box.value(),
            every_frame=inputs.every_frame,
            volume=self._viewer.dims.ndisplay == 3 and fixed.grid.ndim == 3,
        )

    def _landmarks(self, fixed: Any, moving: Any) -> tuple[Any, Any]:
        a, b = self.inputs.fixed.points, self.inputs.moving.points
        if a is None and b is None:
            return None, None
        if a is None or b is None:
            raise InputError("Landmarks are chosen on one side only; choose points on both, or none.")
        if len(a.data) != len(b.data) or not len(a.data):
            raise InputError(
                f"There are {len(a.data)} fixed and {len(b.data)} moving landmarks; landmarks work in pairs, "
                "so add or remove points until the counts match."
            )
        return landmarks(a, fixed.grid), landmarks(b, moving.grid)

    def _earlier_transform(self) -> Any:
        active = self._viewer.layers.selection.active
        record = active.metadata.get("stnreg") if active is not None else None
        if record:
            return transform_from(record["transform"])
        if self._outcome is None:
            raise InputError("There is no result to begin at; register first, or select a layer of an earlier run.")
        return self._outcome.result.transform

    def _on_update(self, update: Update) -> None:
        if self._job is None:
            return
        self.bar.setValue(round(1000 * update.fraction))
        if self._state == "running":
            self.status.setText(update.message.capitalize())
        if update.losses:
            if update.fresh:
                self.plot.clear()
            self.plot.add(update.losses)
        if update.preview is not None:
            self._layers.show_preview(update.preview, self._job.fixed.grid, str(self._job.naming))
        self._percent = int(100 * update.fraction)

    def _on_finished(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._set_state("adding")
        self.status.setText("Adding the layers …")
        self._layers.add_results(outcome, self._on_added)

    def _on_added(self) -> None:
        outcome = self._outcome
        self._end()
        self.bar.setValue(1000)
        self.report.show_results(outcome.results)
        self.show_report()
        if outcome.warnings:
            self._say(" ".join(outcome.warnings), show_warning)
        else:
            self.status.setText(f"Done: {len(outcome.layers)} layers added.")

    def _on_failed(self, error: Exception) -> None:
        self._layers.end_preview()
        self._end()
        text = str(error) or type(error).__name__
        if not isinstance(error, RegistrationError):
            text = f"The registration failed: {text}"
        self._say(text, show_error)

    def _on_canceled(self) -> None:
        self._layers.end_preview()
        self._end()
        self.status.setText("Given up.")

    def _on_undone(self) -> None:
        self.status.setText("The layers of the last run were removed.")

    def _end(self) -> None:
        self._clock.stop()
        self._tick()
        if self._activity is not None:
            self._activity.close()
            self._activity = None
        self.bar.setValue(0)
        self._set_state("idle")

    def _say(self, text: str, show: Any) -> None:
        self.status.setText(text)
        show(text)

    # -- what is shown

    def _set_state(self, state: str) -> None:
        self._state = state
        self._show_state()

    def _show_state(self) -> None:
        idle = not self.running
        self.register_button.setEnabled(idle)
        self.stop_button.setEnabled(self._state == "running")
        self.undo_button.setEnabled(idle and self._layers.can_undo)
        self.again_button.setEnabled(idle and (self._outcome is not None or self._record_selected()))
        self.copy_button.setEnabled(self._job is not None)
        self.set_busy(self._state != "idle")
        self._stop_shortcut.setEnabled(self._state != "idle")

    def _record_selected(self) -> bool:
        active = self._viewer.layers.selection.active
        return active is not None and "stnreg" in active.metadata

    def _tick(self) -> None:
        self.elapsed.setText(f"{time.perf_counter() - self._began:.1f} s")
        if self._activity is None:
            return
        if self._activity.is_canceled:
            self.stop()
        # napari's bar lets the whole program's events in at each step, so it is moved here, from a slow clock that
        # cannot be entered twice, and only when there is something to show.
        if self._percent > self._activity.n:
            self._activity.update(self._percent - self._activity.n)

    def _copy(self, make: Any, what: str) -> None:
        if self._job is not None:
            QApplication.clipboard().setText(make(self._job))
            self.status.setText(f"Copied as {what}.")

    def _connect_buttons(self) -> None:
        self.register_button.clicked.connect(self.start)
        self.run_shortcut(self.start)
        self.stop_button.clicked.connect(self.stop)
        self._stop_shortcut = self.shortcut("Escape", self.stop)
        self.undo_button.clicked.connect(self.undo)
        self.again_button.clicked.connect(self.again)
        self.copy_python.triggered.connect(self._copy_python)
        self.copy_command.triggered.connect(self._copy_command)
        self.options.model.failed.connect(self._on_model_failed)
        self.report.asked.connect(self._open_next)

    def _open_next(self, what: str) -> None:
        """Open what one does next with a result, filled with the last run."""
        from napari_stnreg.widgets.common.open_panel import open_tool

        open_tool(self._viewer, what)

    def _on_model_failed(self, text: str) -> None:
        self._say(text, show_error)

    def _copy_python(self) -> None:
        self._copy(python_script, "Python")

    def _copy_command(self) -> None:
        self._copy(command_line, "a command")

    # -- the viewer around it

    def viewer_events(self) -> list[tuple[Any, Any]]:
        """The layers, which of them is selected, and the theme."""
        return [
            *super().viewer_events(),
            (self._viewer.layers.selection.events.active, self._on_selection),
            (self._viewer.events.theme, self._on_theme),
            (SESSION.changed, self._on_models),
        ]

    def _on_models(self) -> None:
        try:
            self.options.model.refresh()
        except RuntimeError:  # the window was destroyed without a word
            SESSION.changed.disconnect(self._on_models)

    def _on_selection(self, _event: Any = None) -> None:
        if not self.running:
            self._show_state()

    def refresh(self) -> None:
        """Take up the viewer's layers."""
        self.inputs.refresh()
        if not self.running:
            self._show_state()

    def _on_theme(self, _event: Any = None) -> None:
        self.plot.restyle()

    def _on_devices(self, devices: list[tuple[str, str]]) -> None:
        self.options.set_devices(devices)
        self.plot.prepare()

    def close_down(self) -> None:
        """End the run, take the preview away and let go of the viewer."""
        self._devices.stop()
        self._runner.cancel()
        self._layers.drop()
        self.inputs.release()
