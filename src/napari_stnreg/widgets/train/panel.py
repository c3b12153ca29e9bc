"""The panel that trains a network: choose images and a network, press Train, watch, pause, stop, save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog

from napari_stnreg.core.errors import RegistrationError
from napari_stnreg.widgets.common import preferences
from napari_stnreg.widgets.common.fit_panel import FitPanel
from napari_stnreg.widgets.common.forms import button, separator
from napari_stnreg.widgets.common.replay_bar import ReplayBar
from napari_stnreg.widgets.models.session import SESSION, KnownModel
from napari_stnreg.widgets.train.checkpoint_form import CheckpointForm, file_name
from napari_stnreg.widgets.train.code_export import command_line, python_script
from napari_stnreg.widgets.train.curves import EpochPlot
from napari_stnreg.widgets.train.data_form import ImageChoice
from napari_stnreg.widgets.train.job import Trained, TrainJob, View, finished, training
from napari_stnreg.widgets.train.options import TrainingOptions
from napari_stnreg.widgets.train.replay import replay_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

_PANEL = "train"


class TrainPanel(FitPanel):
    """Train a network that registers images in one pass.

    Parameters
    ----------
    napari_viewer
        The napari viewer.

    Notes
    -----
    From code: :meth:`train`, :meth:`pause`, :meth:`stop`, :meth:`save`, :meth:`replay`,
    :attr:`running`, :attr:`model`.
    """

    title = "Train STN model"
    runs_steadily = False  # its messages have their own estimate
    help_page = "tutorials/train.html"
    introduction = (
        "Choose the images to learn from: layers, a folder, or generated ones.",
        "Choose a network and press Train. Stop keeps the best epoch.",
        "Save the model and choose it in STN registration.",
    )

    options: TrainingOptions
    plot: EpochPlot
    exports = (python_script, command_line)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer, "Choose images and a network, and press Train.", TrainingOptions(), EpochPlot)
        self._job: TrainJob | None = None
        self._trained: Trained | None = None
        self._known: KnownModel | None = None
        self._training = False
        self.images = ImageChoice(self._viewer)
        self.keeping = CheckpointForm()
        self.replay_bar = ReplayBar(self._viewer, self.plot)
        self.replay_bar.hide()
        for part in (self.images, separator(), self.options, self.keeping, self.plot, self.replay_bar):
            self.form.addWidget(part)
        self.form.addStretch(1)
        self._make_controls()
        self.restore()
        self._connect()
        self.images.prefill()
        self._suggest()
        self.show_state()

    def _make_controls(self) -> None:
        self.train_button = button("Train", "Train the network (Ctrl+Enter).")
        self.pause_button = button("Pause", "Pause the training and resume it later.")
        self.save_button = button("Save …", "Write the model into one file.")
        self.replay_button = button("Replay", "Show how the network learned, with a slider, and save it as a film.")
        self.set_run_buttons(self.train_button, self.pause_button)
        self.set_action_buttons(self.save_button, self.replay_button, self.copy_button)

    def _connect(self) -> None:
        self.train_button.clicked.connect(self.train)
        self.pause_button.clicked.connect(self.pause)
        self.save_button.clicked.connect(self._ask_where)
        self.replay_button.clicked.connect(self.replay)
        self.run_shortcut(self.train)
        self.images.changed.connect(self._suggest)
        self.options.changed.connect(self._suggest)

    # -- driving it from code

    @property
    def model(self) -> Any:
        """The model trained last, or ``None``."""
        return None if self._trained is None else self._trained.model

    @property
    def paused(self) -> bool:
        """Whether the training is paused."""
        return self._runner.paused

    def train(self) -> bool:
        """Train; return false, with a message in the status line, if that is not possible."""
        if self.running:
            self.show_status("A task is running already. Stop it first.", warn=True)
            return False
        try:
            self.options.models.require()
            self.keeping.check()
            job = self.job()
        except RegistrationError as error:
            self.show_error(error)
            return False
        preferences.save_state(self.state(), _PANEL)
        self._training = True
        if not self.begin(training, job, done=self._on_trained):
            self._training = False
            return False
        self._job = job
        self._layers.begin()
        self.status.setText("Starting …")
        self.replay_bar.hide()
        self.plot.clear()
        self.plot.show()
        self.show_state()
        self.scroll_to_end()
        return True

    def job(self) -> TrainJob:
        """Return the training that the form describes.

        Raises
        ------
        InputError
            If an input is missing.
        """
        options = self.options
        images = self.images.images(
            size=options.working_size,
            augmentation=options.augmentation,
            subject=options.subject_box.text().strip() or None,
            seed=options.field("seed").value(),
        )
        return TrainJob(
            images=images,
            values=options.values(),
            name=self.keeping.name,
            start=options.start,
            output=self.keeping.output,
            resume=self.keeping.resume,
            volume=self._viewer.dims.ndisplay == 3,
        )

    def pause(self) -> None:
        """Pause the training, or resume it."""
        if self.running and self._training:
            self._runner.pause(not self.paused)
            self.status.setText("Pausing …" if self.paused else "Resuming …")
            self.show_state()

    def save(self, path: str) -> bool:
        """Save the model; return false, with a message in the status line, if that is not possible."""
        if self._trained is None:
            return False
        try:
            written = self._trained.model.save(path)
        except RegistrationError as error:
            self.show_error(error)
            return False
        self._trained.model.name = Path(written).name.removesuffix(".safetensors")
        self._known = SESSION.saved(self._trained.model, str(written))
        self.show_status(f"Saved {Path(written).name}.")
        return True

    def replay(self) -> bool:
        """Show the images of the training as a time layer, with a slider and a button that saves a film."""
        if self._trained is None:
            return False
        ndim = self._trained.model.ndim + 1
        units = getattr(self._viewer.layers.extent, "units", None)
        unit = str(units[-ndim]) if units is not None and len(units) >= ndim else "pixel"
        return self.begin(replay_of, self._trained, unit, done=self._on_replay)

    # -- a training

    def on_progress(self, what: View) -> None:
        """Draw the curves and the preview."""
        progress = what.progress
        if progress.warnings and progress.step == 0:
            self.show_status(" ".join(progress.warnings), warn=True)
        if not len(self.plot.shown[1]):  # the plot is made now, and takes its place
            self.scroll_to_end()
        within = progress.step / max(progress.steps / max(progress.epochs, 1), 1) - progress.epoch
        running = None
        if progress.state == "running" and progress.loss is not None and within > 0:
            running = (progress.epoch + min(within, 1.0), progress.loss)
        self.plot.show_curve(progress.curve, running, progress.best)
        if what.preview is not None and what.grid is not None and self._job is not None:
            self._layers.show_preview(what.preview, what.grid, self._job.name)

    def _on_trained(self, trained: Trained) -> None:
        self._trained = trained
        summary = trained.model.summary
        from napari_stnreg.training.progress import EpochRecord

        curve = [
            EpochRecord(one["epoch"], one["loss"], {}, one["validation_loss"], one["scores"], 0.0, 0.0)
            for one in summary.get("curve", [])
        ]
        self.plot.show_curve(curve, None, int((summary.get("best") or {}).get("epoch", 0)))
        self.scroll_to_end()
        path = trained.job.output
        self._known = SESSION.add(trained.model, path, trained.model.name)
        where = f"Kept in {Path(path).name}." if path is not None else "Save writes it to a file."
        self.show_status(f"{finished(trained.model)} The registration panel lists it as '{self._known.name}'. {where}")

    def _on_replay(self, made: tuple[Any, list[Any]]) -> None:
        self.replay_bar.show()
        self.replay_bar.show_replay(*made)
        self.scroll_to_end()
        self.show_status("The slider below the curves replays how the network learned.")

    def on_end(self) -> None:
        """Remove the preview of a training."""
        if self._training:
            self._training = False
            self._layers.end_preview()
            self.keeping.look()

    # -- what is shown

    def show_state(self) -> None:
        """Enable what is possible now."""
        super().show_state()
        busy = self.running
        self.train_button.setEnabled(not busy)
        self.pause_button.setEnabled(busy and self._training)
        self.pause_button.setText("Resume" if self.paused else "Pause")
        self.save_button.setEnabled(not busy and self._trained is not None)
        kept = self._trained is not None and self._trained.model.replay is not None
        self.replay_button.setEnabled(not busy and kept)
        for part in (self.images, self.options, self.keeping):
            part.setEnabled(not busy)

    def _suggest(self) -> None:
        title, short = self.images.title, self.options.title
        self.keeping.suggest(f"{short} on {title}" if title else short)

    def _ask_where(self) -> None:
        if self._trained is None:
            return
        usual = (
            self._known.path if self._known is not None and self._known.path else file_name(self._trained.model.name)
        )
        path, _ = QFileDialog.getSaveFileName(self, "Save the model", usual, "Models (*.safetensors)")
        if path:
            self.save(path if path.endswith(".safetensors") else path + ".safetensors")

    def job_to_copy(self) -> TrainJob:
        """Return the last training, or the one that the form describes."""
        return self.job() if self._job is None else self._job

    # -- between sessions, and the viewer around it

    def state(self) -> dict[str, Any]:
        """Return the state of the form as JSON-ready values that are stored between sessions."""
        return {"images": self.images.state(), "options": self.options.state(), "keeping": self.keeping.state()}

    def restore(self) -> None:
        """Restore the form of the last session."""
        kept = preferences.load_state(_PANEL)
        for part, name in ((self.images, "images"), (self.options, "options"), (self.keeping, "keeping")):
            if isinstance(kept.get(name), dict):
                part.restore(kept[name])

    def refresh(self) -> None:
        """Update the panel from the viewer's layers."""
        self.images.refresh()
