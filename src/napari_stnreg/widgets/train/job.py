"""The training in the background: images, engine and pictures, all in one thread that always ends."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stnreg.core.errors import InputError, OutOfMemoryError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.widgets.common.preview import PreviewFrame, PreviewRenderer
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress
from napari_stnreg.widgets.models.session import KnownModel
from napari_stnreg.widgets.train.data_snapshot import TrainingImages

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model
    from napari_stnreg.training.progress import TrainingProgress, ValidationExample


_FINE = 256
"""Pictures of 2D pairs have at least about this many pixels along the longest side, so that the lines of the grid are
thin."""


@dataclass(frozen=True)
class TrainJob:
    """Everything about a training, taken down when Train is pressed.

    Parameters
    ----------
    images
        What is trained on.
    values
        Keywords of :class:`~napari_stnreg.training.settings.TrainingSettings`.
    name
        What the model will be called.
    start
        The trained model to continue from; ``None`` for random weights.
    output
        Where its file will be saved, with a checkpoint beside it after every epoch; ``None`` for nowhere.
    resume
        Whether to go on from that checkpoint.
    pictures
        Whether the validation pair is shown as the network registers it.
    volume
        Whether the viewer shows three dimensions.
    """

    images: TrainingImages
    values: dict[str, Any]
    name: str
    start: KnownModel | None = None
    output: str | None = None
    resume: bool = False
    pictures: bool = True
    volume: bool = False


@dataclass(frozen=True)
class View:
    """What the panel shows of a running training."""

    progress: TrainingProgress
    preview: PreviewFrame | None = None
    grid: Grid | None = None
    """Position of the image."""


@dataclass
class Trained:
    """What a training hands back to the panel."""

    job: TrainJob
    model: Model
    example: ValidationExample | None
    grid: Grid | None


def training(job: TrainJob, control: TaskControl) -> Generator[TaskProgress, None, Trained | None]:
    """Run a job in the worker: yields steps whose ``what`` is a :class:`View`; returns ``None`` when canceled."""
    import napari_stnreg as sr

    yield TaskProgress(0.0, "Reading the images")
    data = job.images.open()
    if control.cancel.is_set():
        return None
    settings = sr.TrainingSettings.parse(**job.values)
    watcher = Watcher(job)
    start = None if job.start is None else job.start.source
    steps = sr.train_steps(data, settings, output=job.output, resume=job.resume, warm_start=start)
    try:
        model = yield from relay_progress(steps, control, watcher.show)
    except (RuntimeError, MemoryError) as error:
        from napari_stnreg.core.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "There is not enough memory to train this network. Choose a smaller size or batch (under Advanced)."
        ) from error
    if model is None:
        return None
    model.name = job.name
    return Trained(job, model, watcher.example, watcher.grid)


class Watcher:
    """Turns the engine's progress into what the panel shows; a picture only when there is a new one."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.example: ValidationExample | None = None
        self.grid: Grid | None = None
        """Position of the pair in the viewer, at the resolution that the network sees."""
        self._fine: Grid | None = None
        self._maker: PreviewRenderer | None = None
        self._drawn = -1

    def show(self, progress: TrainingProgress) -> TaskProgress:
        """Show one update in the panel."""
        self.example = progress.example or self.example
        return TaskProgress(progress.fraction, sentence(progress), View(progress, self._picture(), self._fine))

    def _picture(self) -> PreviewFrame | None:
        example = self.example
        if example is None:
            return None
        if self.grid is None:
            place = self.job.images.place()
            self.grid = placed_on(example.grid, place)
            self._fine = placed_on(fine_grid(example.grid), place)
        if not self.job.pictures or example.transform is None or example.epoch == self._drawn:
            return None
        if self._maker is None:
            self._maker = self._make(example)
        elif not self._maker.is_due():
            return None
        self._drawn = example.epoch
        return self._maker.render(example.transform)

    def _make(self, example: ValidationExample) -> PreviewRenderer:
        from napari_stnreg.resampling.warp import warp

        fixed = warp(
            Image(np.array(example.fixed), example.grid, name="fixed"), None, fine_grid(example.grid), "linear"
        )
        moving = Image(np.array(example.moving), example.grid, name="moving")
        return PreviewRenderer(fixed, moving, (None, None), rate=4.0, volume=self.job.volume)


def fine_grid(grid: Grid) -> Grid:
    """Return a lattice over the same extent that is fine enough for thin lines."""
    factor = max(_FINE // max(grid.shape), 1) if grid.ndim == 2 else 1
    return grid if factor == 1 else grid.resized([n * factor for n in grid.shape])


def placed_on(grid: Grid, place: Grid | None) -> Grid:
    """Return where pictures are shown: over the training layer, or with the corner at zero.

    The lattice itself is centered on the world's origin.
    """
    if place is None or place.ndim != grid.ndim:
        return grid.translated(grid.spacing / 2 - grid.corners().min(axis=0))
    try:
        return grid.with_unit(place.unit).translated(place.center)
    except InputError:
        return grid.translated(place.center)


def sentence(progress: TrainingProgress) -> str:
    """Describe the state of a training and the estimated remaining time."""
    parts = [progress.message]
    left = progress.seconds_left
    if left is not None and progress.state != "paused":
        parts.append(f"about {duration(left)} left")
    if progress.best:
        parts.append(f"best at epoch {progress.best}")
    text = " · ".join(parts)
    return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """Format a duration with the precision of an estimate."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def finished(model: Model) -> str:
    """Describe a model that has just been trained."""
    best = model.summary.get("best") or {}
    scores = dict(best.get("scores") or {})
    parts = [f"best at epoch {best.get('epoch', 0)} of {model.summary.get('epochs', 0)}"]
    if isinstance(best.get("validation_loss"), int | float):
        parts.append(f"validation loss {best['validation_loss']:.4g}")
    names = {"similarity": "similarity", "dice": "Dice", "error": "error"}
    parts += [f"{title} {scores[key]:.3g}" for key, title in names.items() if isinstance(scores.get(key), int | float)]
    word = "Stopped" if model.summary.get("stop_reason") == "stopped" else "Trained"
    return " ".join([f"{word}: {', '.join(parts)}.", *model.summary.get("warnings", [])])


def resumable(output: str | None) -> bool:
    """Return whether there is a checkpoint of the model that would be saved at a path."""
    return output is not None and Path(checkpoint_of(output)).exists()


def checkpoint_of(output: str) -> str:
    """Return the path of a training's checkpoint, by the engine's rule but without importing torch."""
    return output.removesuffix(".safetensors") + ".checkpoint.safetensors"
