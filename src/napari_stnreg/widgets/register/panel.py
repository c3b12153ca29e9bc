"""The registration panel: choose two layers, register, watch, stop, keep or undo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import QTimer

from napari_stnreg.core.errors import InputError, RegistrationError
from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.io.napari_layers import transform_from_metadata
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.widgets.common import preferences
from napari_stnreg.widgets.common.fit_panel import FitPanel
from napari_stnreg.widgets.common.forms import button, help_label, separator
from napari_stnreg.widgets.common.layer_io import LayerSource, landmark_points
from napari_stnreg.widgets.common.memory_dialog import accepts_lower_resolution, memory_question
from napari_stnreg.widgets.common.open_panel import open_panel
from napari_stnreg.widgets.common.plot import CurvesPlot, LossPlot
from napari_stnreg.widgets.common.result_layers import result_record
from napari_stnreg.widgets.common.transform_store import store_for
from napari_stnreg.widgets.register.canvas_view import CanvasView
from napari_stnreg.widgets.register.code_export import command_line, python_script
from napari_stnreg.widgets.register.inputs import ImageSelector, InputForm
from napari_stnreg.widgets.register.options import OptionsForm
from napari_stnreg.widgets.register.run import (
    RegistrationJob,
    RegistrationRun,
    RegistrationUpdate,
    run_registration,
)
from napari_stnreg.widgets.register.scores_view import ScoresView
from napari_stnreg.widgets.register.series_run import MotionUpdate
from napari_stnreg.widgets.scorecard.table import theme_kind

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.registration.result import Result
    from napari_stnreg.transforms.base import Transform

_FOLLOW_MS = 100
"""Pause of the smoothness slider after which the result follows."""


class RegisterPanel(FitPanel):
    """Register two image layers of a viewer.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    From code: :meth:`set_fixed`, :meth:`set_moving`, :meth:`start`, :meth:`stop`, :meth:`undo`, :attr:`running`,
    :attr:`state`, :attr:`result`.
    """

    title = "STN registration"
    help_page = "tutorials/two-layers.html"
    introduction = (
        "Choose the fixed image and the moving image.",
        "Press Register and watch. Stop keeps the best result so far.",
        "Read the verdict, and press Shift+B for before and after.",
    )

    options: OptionsForm
    plot: LossPlot
    exports = (python_script, command_line)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose two images and press Register.", OptionsForm(), LossPlot)
        self._job: RegistrationJob | None = None
        self._run: RegistrationRun | None = None
        self._moving_layer: Layer | None = None
        self._follow_timer = QTimer(self)
        self._follow_timer.setSingleShot(True)
        self._follow_timer.setInterval(_FOLLOW_MS)
        self._follow_timer.timeout.connect(self._follow_smoothness)
        self._canvas = CanvasView(self._viewer)
        self.inputs = InputForm(self._viewer)
        self.start_note = help_label()
        self.start_note.setAccessibleName("start of the registration")
        self.scores = ScoresView()
        self.motion_plot = CurvesPlot(self._viewer, "frame", "shift")
        self.motion_plot.setAccessibleName("motion of the series")
        self.motion_plot.setToolTip("Mean shift of each frame along each axis, in the unit of the reference.")
        self.motion_plot.hide()
        for part in (self.inputs, self.start_note, separator(), self.options, self.plot, self.motion_plot, self.scores):
            self.form.addWidget(part)
        self.form.addStretch(1)
        self._make_controls()
        self.options.restore(preferences.load_state())
        self._connect()
        self.inputs.prefill()
        self.show_state()

    def _make_controls(self) -> None:
        self.register_button = button("Register", "Warp the moving image onto the fixed one (Ctrl+Enter).")
        self.bar.setToolTip("Fraction of the planned steps. A fit that converges ends earlier.")
        self.undo_button = button("Undo run", "Remove the layers of the last run.")
        self.switch_button = button("Before / after", "Show the moving image before and after registration (Shift+B).")
        self.again_button = button("Run again", "Register once more, starting at the result (of the selected layer).")
        self.set_run_buttons(self.register_button)
        self.pin(self.scores.verdict)
        self.set_action_buttons(self.undo_button, self.again_button)
        self.set_action_buttons(self.switch_button, self.copy_button)

    def _connect(self) -> None:
        self.register_button.clicked.connect(self.start)
        self.run_shortcut(self.start)
        self.undo_button.clicked.connect(self.undo)
        self.switch_button.clicked.connect(self.switch)
        self.again_button.clicked.connect(self.again)
        self.scores.open_requested.connect(self._open_panel)
        self.scores.verdict.retry_requested.connect(self.try_next)
        self._layers.idle.connect(self.show_state)
        self.options.model.smoothness_moved.connect(lambda _value: self._follow_timer.start())

    # -- driving it from code

    @property
    def state(self) -> str:
        """``"idle"``, ``"running"``, ``"stopping"`` or ``"adding"`` (or removing layers)."""
        if self._runner.running:
            return "stopping" if self._runner.stopping else "running"
        return "adding" if self._layers.busy else "idle"

    @property
    def running(self) -> bool:
        """Whether a run is in progress or layers are being added or removed."""
        return self.state != "idle"

    @property
    def result(self) -> Result | None:
        """Result of the last run (of its last frame)."""
        return self._run.result if self._run is not None else None

    @property
    def results(self) -> list[Result]:
        """Results of the last run, one for each registered frame; empty without a run."""
        return [] if self._run is None else self._run.results

    @property
    def job(self) -> RegistrationJob | None:
        """What the last run was started with."""
        return self._job

    def cancel(self) -> None:
        """Cancel the run without a result."""
        self._runner.cancel()

    @property
    def can_undo(self) -> bool:
        """Whether layers of a run are in the viewer."""
        return self._layers.can_undo

    def set_fixed(self, layer: Layer | str) -> None:
        """Choose the fixed layer."""
        self._select(self.inputs.fixed, layer)

    def set_moving(self, layer: Layer | str) -> None:
        """Choose the moving layer."""
        self._select(self.inputs.moving, layer)

    def _select(self, selector: ImageSelector, layer: Layer | str) -> None:
        self.refresh()
        layer = self._viewer.layers[layer] if isinstance(layer, str) else layer
        if not selector.layer_box.set_current(layer):
            raise InputError(f"'{layer.name}' cannot be registered: it is a result, or not an image of this viewer.")

    def start(self) -> bool:
        """Register; return false, with a message in the status line, if that is not possible."""
        return self._start(again=False)

    def again(self) -> bool:
        """Register once more, starting at the last result (or at that of the selected layer)."""
        return self._start(again=True)

    def undo(self) -> None:
        """Remove the layers of the last run."""
        if not self.running:
            self._layers.undo(self._on_undone)
            self.show_state()

    def forget(self) -> None:
        """Release the last run and its images."""
        self._job = self._run = None
        self._canvas.clear()
        self.show_state()

    # -- a run

    def _start(self, *, again: bool) -> bool:
        if self.running:
            self.show_status("A registration is running already. Stop it first.", warn=True)
            return False
        try:
            job = self._make_job(again=again)
            fitted = job.model is None or job.settings.refine > 0
            question = None
            if fitted:
                question = memory_question(job.fixed, job.moving, job.settings, self.options.device)
            if question is not None and not accepts_lower_resolution(self, question):
                self.status.setText("Not started: there is not enough memory for full resolution.")
                return False
        except RegistrationError as error:
            self.refuse(error)
            return False
        preferences.save_state(self.options.state())
        if not self.begin(run_registration, job, done=self._on_run, activity=f"Register {job.name}"):
            return False
        self._job, self._moving_layer = job, self.inputs.moving.layer
        self._layers.begin()
        self._canvas.clear()
        self.status.setText("Starting …")
        self.scores.clear()
        self.plot.clear()
        self.plot.setVisible(fitted and not job.every_frame)  # a model alone has no losses
        self.motion_plot.show_curves({})
        self.motion_plot.setVisible(job.every_frame)
        if fitted or job.every_frame:
            self.scroll_to(self.motion_plot if job.every_frame else self.plot)
        self.show_state()
        return True

    def _follow_smoothness(self) -> None:
        """Repeat the last pass of a conditional model with the smoothness of the slider, in the same layers."""
        if self.running:
            self._follow_timer.start()
            return
        run, chosen = self._run, self.options.model.chosen
        if run is None or run.job.model is None or chosen is None or run.job.model.model is not chosen.model:
            return
        last = self._layers.last_by_kind().items()
        shown = any(layer.metadata["stnreg"]["run"] == run.job.run for kind, layer in last if kind)
        if not shown or run.job.every_frame or run.job.settings.refine:
            return
        settings = run.job.settings.model_copy(update={"smoothness": self.options.field("smoothness").value()})
        job = dataclasses.replace(run.job, settings=settings, preview_rate=0.0)
        if settings != run.job.settings and self.begin(run_registration, job, done=self._on_followed):
            self._job = job
            self.show_state()

    def _on_followed(self, run: RegistrationRun) -> None:
        self._run = run
        self._layers.update_results(run.layer_data, lambda: self._show_outcome("updated"))

    def _make_job(self, *, again: bool) -> RegistrationJob:
        inputs, options = self.inputs, self.options
        model = options.models.require()
        if not options.family and model is None:
            raise InputError("No transform is selected. Choose a linear one, a deformable one, or both.")
        fixed, moving = inputs.fixed.source(), inputs.moving.source()
        same = inputs.fixed.layer is inputs.moving.layer and inputs.fixed.channel == inputs.moving.channel
        if same and not inputs.every_frame:
            raise InputError("Fixed and moving are the same layer. Choose two different layers.")
        if fixed.grid.ndim != moving.grid.ndim:
            raise InputError(
                f"'{fixed.name}' is {fixed.grid.ndim}D and '{moving.name}' is {moving.grid.ndim}D. "
                "Slices cannot be registered to volumes. If an axis is time or channels, set Axes. Else choose two "
                "images of the same dimensions."
            )
        moving.grid.with_unit(fixed.grid.unit)  # raises if the units cannot be converted
        settings = RegistrationSettings.parse(
            **options.values(), fixed_channel=inputs.fixed.channel, moving_channel=inputs.moving.channel
        )
        fixed_points, moving_points = self._landmarks(fixed, moving)
        return RegistrationJob(
            fixed=fixed,
            moving=moving,
            settings=settings,
            fixed_landmarks=fixed_points,
            moving_landmarks=moving_points,
            start=self._earlier_transform() if again else self._placed_transform(),
            model=model,
            kinds=options.kinds,
            preview_rate=options.rate_box.value(),
            every_frame=inputs.every_frame,
            reference=inputs.reference,
            temporal_smoothing=inputs.temporal_smoothing,
            volume=self._viewer.dims.ndisplay == 3 and fixed.grid.ndim == 3,
        )

    def _landmarks(self, fixed: LayerSource, moving: LayerSource) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = self.inputs.fixed.points, self.inputs.moving.points
        if a is None and b is None:
            return None, None
        fixed_points = None if a is None else landmark_points(a, fixed.grid)
        moving_points = None if b is None else landmark_points(b, moving.grid)
        return check_landmarks(fixed_points, moving_points)

    def _placed_transform(self) -> Transform | None:
        """Return where the moving layer was placed by hand, if it was."""
        copy = store_for(self._viewer).placed_copy(self.inputs.moving.layer, self._viewer)
        record = {} if copy is None else copy.metadata.get("stnreg", {})
        return transform_from_metadata(record["transform"]) if "transform" in record else None

    def _earlier_transform(self) -> Transform:
        state = self._selected_transform()
        if state is not None:
            return transform_from_metadata(state)
        if self._run is None:
            raise InputError("There is no result to start at. Register first, or select a layer of an earlier run.")
        return self._run.result.transform

    def on_progress(self, payload: RegistrationUpdate | MotionUpdate) -> None:
        """Draw new losses and the preview, or the motion of a time series."""
        if self._job is None:
            return
        if isinstance(payload, MotionUpdate):
            self.motion_plot.show_curves(payload.curves)
            return
        if payload.losses:
            self.plot.add(payload.losses)
        if payload.preview is not None:
            self._layers.show_preview(payload.preview, self._job.fixed.grid, str(self._job.name))

    def _on_run(self, run: RegistrationRun) -> None:
        self._run = run
        self.status.setText("Adding the layers …")
        self._layers.add_results(run.layers, run.layer_data, self._on_added, reuse_preview=not run.job.every_frame)

    def _on_added(self) -> None:
        run = self._run
        assert run is not None
        source = None if run.job.every_frame else run.job.moving
        channel = run.job.settings.moving_channel
        self._canvas.show_run(self._layers.last_by_kind(), self._moving_layer, source, channel)
        self.claim_before_after(self.switch)
        self._show_outcome("added")
        self.scroll_to_end()

    def _show_outcome(self, done: str) -> None:
        """Show scores, verdict, and warnings of the last run, whose layers were added or updated."""
        run = self._run
        assert run is not None
        judgment = None if run.series is None or run.series.stop_reason == "stopped" else run.series.judgment
        self.scores.show_results(run.results, theme_kind(self._viewer), judgment)
        stopped = any(result.stop_reason == "stopped" for result in run.results)
        begin = "Stopped. The best result so far is kept" if stopped else "Done"
        if run.warnings:
            self.show_status(" ".join([f"{begin}."] * (stopped and run.series is None) + run.warnings), warn=True)
        else:
            count = f", {len(run.results)} frames" if run.series is not None else ""
            self.status.setText(f"{begin}: {len(run.layers)} layers {done}{count}.")

    def drop_scores(self) -> None:
        """Remove verdict and scores."""
        self.scores.clear()

    def _on_failed(self, error: Exception) -> None:
        self._layers.end_preview()
        self.motion_plot.hide()  # it may be empty
        super()._on_failed(error)

    def _on_canceled(self) -> None:
        self._layers.end_preview()
        super()._on_canceled()

    def switch(self) -> None:
        """Show the moving image before registration in the place of the warped one, or the warped one again."""
        if self._job is None or self.running or not self._canvas.can_switch:
            return
        added = self._canvas.switch(f"moving · {self._job.name}")
        if added is not None:
            self._layers.adopt(added)
        self.status.setText("Before registration." if self._canvas.shows_before else "After registration.")

    def _on_undone(self) -> None:
        self._canvas.clear()
        self.scores.clear()
        self.status.setText("The layers of the last run were removed.")

    # -- what is shown

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        idle = not self.running
        self.register_button.setEnabled(idle)
        self.undo_button.setEnabled(idle and self.can_undo)
        self.again_button.setEnabled(idle and (self._run is not None or self._selected_transform() is not None))
        self.switch_button.setEnabled(idle and self._canvas.can_switch)
        self.copy_button.setEnabled(self._job is not None)
        self.inputs.setEnabled(idle)
        placed = store_for(self._viewer).placed_copy(self.inputs.moving.layer, self._viewer)
        self.start_note.setVisible(placed is not None)
        self.start_note.setText("" if placed is None else f"Starts where '{placed.name}' was placed by hand.")

    def _selected_transform(self) -> dict[str, Any] | None:
        """Return the recorded transform of the selected layer, if it is a result."""
        return (result_record(self._viewer.layers.selection.active) or {}).get("transform")

    def job_to_copy(self) -> RegistrationJob:
        """Return the job of the last run."""
        if self._job is None:
            raise InputError("There is no run to copy.")
        return self._job

    def _open_panel(self, name: str) -> None:
        """Open a panel for the next step; it fills itself with the last run."""
        open_panel(self._viewer, name)

    def _open_landmarks(self) -> None:
        """Open the landmark panel with the pair, and with the points layers that are chosen here."""
        panel = open_panel(self._viewer, "landmarks")
        fixed, moving = self.inputs.fixed, self.inputs.moving
        if fixed.layer is None or moving.layer is None:
            return
        panel.set_layers(fixed.layer, moving.layer)
        if fixed.points is not None and moving.points is not None and not len(panel.pairs):
            panel.import_layers(fixed.points, moving.points)
        panel.place()

    def try_next(self, suggestion: str) -> None:
        """Change the settings to what the verdict suggests and register again, or open the landmark panel."""
        if suggestion == "landmarks":
            self._open_landmarks()
            return
        search = suggestion == "search"
        changes: dict[str, Any] = {"start": "search", "mirror": True} if search else {"similarity": "mi"}
        self.options.model.select(None)
        self.options.set_values({**self.options.all_values(), **changes})
        self.start()

    # -- the viewer

    def viewer_events(self) -> list[tuple[Any, Callable[..., Any]]]:
        """List the viewer events to follow: layers, active layer, theme, and the session's models."""
        return [*super().viewer_events(), (self._viewer.layers.selection.events.active, self._on_active_layer)]

    def _on_theme(self, _event: Any = None) -> None:
        super()._on_theme(_event)
        self.scores.verdict.restyle(theme_kind(self._viewer))

    def _on_active_layer(self, _event: Any = None) -> None:
        if not self.running:
            self.show_state()

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""
        self.inputs.refresh()
        if not self.running:
            self.show_state()

    def close_down(self) -> None:
        """Cancel the run, remove the preview and release the viewer."""
        self._follow_timer.stop()
        super().close_down()
        self._canvas.clear()
        self.inputs.release()
