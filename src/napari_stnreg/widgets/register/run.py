"""A registration as a background task: the engine, its previews and its result layers, all in one worker thread."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer

from napari_stnreg.core.device import free_memory, single_thread
from napari_stnreg.core.family_titles import family_title
from napari_stnreg.core.image import Image
from napari_stnreg.core.memory import format_bytes
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.napari_layers import LayerData, transform_to_metadata
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.visualization.layers import QUICKLY_DRAWN_VOXELS, result_layers, stack_frames
from napari_stnreg.widgets.common.layer_io import LayerSource
from napari_stnreg.widgets.common.preview import PreviewFrame, PreviewRenderer
from napari_stnreg.widgets.common.result_layers import RunName, make_layer, name_layers, run_record
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress
from napari_stnreg.widgets.models.session import KnownModel
from napari_stnreg.widgets.register.series_run import FIXED_IMAGE, SeriesOutcome, run_series

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Progress, Result
    from napari_stnreg.series.result import SeriesResult
    from napari_stnreg.transforms.base import Transform

SINGLE_THREAD_VOXELS = 2**21
"""Voxels up to which the layers are made by one thread: a second one gains little and costs much on a busy machine."""


@dataclass(frozen=True)
class RegistrationJob:
    """Everything that a run needs, collected when Register is pressed.

    Parameters
    ----------
    fixed, moving
        The two layers.
    settings
        Settings of the registration.
    fixed_landmarks, moving_landmarks
        Paired points ``(N, D)``, each in the unit of its own layer.
    start
        Transform to start from.
    model
        Trained model; ``None`` to optimize the pair.
    kinds
        Result layers to make.
    preview_rate
        Previews per second; 0 for none.
    every_frame
        Whether each frame of the moving time series is registered.
    reference, temporal_smoothing
        What the frames are registered to (:data:`~napari_stnreg.widgets.register.series_run.REFERENCES`), and the
        smoothing of their motion in frames.
    volume
        Whether the viewer shows three dimensions.
    run
        Identifier of the run.
    """

    fixed: LayerSource
    moving: LayerSource
    settings: RegistrationSettings
    fixed_landmarks: np.ndarray | None = None
    moving_landmarks: np.ndarray | None = None
    start: Transform | None = None
    model: KnownModel | None = None
    kinds: frozenset[str] = frozenset()
    preview_rate: float = 5.0
    every_frame: bool = False
    reference: str = FIXED_IMAGE
    temporal_smoothing: float = 0.0
    volume: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def name(self) -> RunName:
        """Names of the run and its layers."""
        method = family_title(self.settings.family) if self.model is None else self.model.name
        return RunName(self.moving.name, self.fixed.name, method)


@dataclass(frozen=True)
class RegistrationUpdate:
    """New losses and the new preview of a running fit.

    Parameters
    ----------
    losses
        ``(stage, level, step, loss)`` since the last update.
    preview
        Arrays of the preview layers, if there is a new preview.
    """

    losses: list[tuple[str, int, int, float]]
    preview: PreviewFrame | None = None


@dataclass
class RegistrationRun:
    """The finished run: results, result layers and warnings.

    Parameters
    ----------
    job
        The job.
    results
        One result for each registered frame.
    layer_data, layers
        The result layers as tuples and as layers that are in no viewer yet, by kind.
    warnings
        Messages for the user.
    series
        The result of a time series.
    """

    job: RegistrationJob
    results: list[Result]
    layer_data: dict[str, LayerData]
    layers: dict[str, Layer]
    warnings: list[str]
    series: SeriesResult | None = None

    @property
    def result(self) -> Result:
        """The result of the last frame."""
        return self.results[-1]


def run_registration(
    job: RegistrationJob, control: TaskControl
) -> Generator[TaskProgress, None, RegistrationRun | None]:
    """Run a job as a task (see :mod:`~napari_stnreg.widgets.common.task_runner`)."""
    yield TaskProgress(0.0, "Reading the images")
    if job.every_frame:
        outcome = yield from run_series(job, control)
        return None if outcome is None else _collect_series(job, outcome)
    fixed = job.fixed.image()
    moving = job.moving.image().with_unit(fixed.grid.unit)
    result = yield from _register_pair(job, control, fixed, moving)
    if result is None:
        return None
    yield TaskProgress(0.99, "Making the layers")
    finest = _warp_finest_level(job, result)
    reference = fixed
    if job.fixed.level and finest.warped is not result.warped:
        reference = job.fixed.image(full=True, masked=False)
    with single_thread(finest.grid.size <= SINGLE_THREAD_VOXELS):
        layers = result_layers(
            finest, reference, moving, job.moving.display, job.kinds, volume=job.volume,
            drawn_voxels=QUICKLY_DRAWN_VOXELS if control.stop.is_set() else None,
        )  # fmt: skip
    if control.cancel.is_set():
        return None
    return _collect(job, [finest], layers, list(finest.warnings))


def _register_pair(
    job: RegistrationJob, control: TaskControl, fixed: Image, moving: Image
) -> Generator[TaskProgress, None, Result | None]:
    import napari_stnreg as sr
    from napari_stnreg.transforms import AffineTransform

    points = job.moving_landmarks
    if points is not None:  # in the unit of the moving layer; the image is in that of the fixed one
        points = points * conversion_factor(job.moving.grid.unit, moving.grid.unit)
    steps = sr.register_steps(
        fixed,
        moving,
        job.settings,
        fixed_landmarks=job.fixed_landmarks,
        moving_landmarks=points,
        start_transform=job.start,
        model=None if job.model is None else job.model.source,
    )
    losses: list[tuple[str, int, int, float]] = []
    renderer: PreviewRenderer | None = None

    def update(preview: PreviewFrame | None = None) -> RegistrationUpdate:
        nonlocal losses
        made = RegistrationUpdate(losses, preview)
        losses = []
        return made

    def on_item(progress: Progress) -> None:
        if progress.stage not in ("prepare", "result"):
            losses.append((progress.stage, progress.level, progress.step, progress.loss))

    if job.preview_rate > 0:  # the pair as it is, before the images are prepared and the start is searched
        channels = job.settings.fixed_channel, job.settings.moving_channel
        renderer = PreviewRenderer(fixed, moving, channels, job.preview_rate, volume=job.volume)
        unmoved = job.start or AffineTransform.identity(fixed.ndim, fixed.grid.unit)
        yield TaskProgress(0.0, "Preparing the images", update(renderer.render(unmoved)))

    def to_progress(progress: Progress) -> TaskProgress:
        moves = renderer is not None and progress.stage != "prepare"  # until then the pair is as it was
        preview = renderer.render(progress.preview()) if moves and renderer.is_due() else None
        message = progress.message or progress.stage
        return TaskProgress(progress.fraction, message[:1].upper() + message[1:], update(preview))

    result = yield from relay_progress(steps, control, to_progress, on_item)
    if result is not None:
        yield TaskProgress(1.0, "Done", update())
    return result


def _warp_finest_level(job: RegistrationJob, result: Result) -> Result:
    """Warp the finest level of a multiscale layer if a coarser one was registered and the memory suffices."""
    if not (job.moving.level or job.fixed.level):
        return result
    import napari_stnreg as sr

    grid = job.fixed.full_grid if job.settings.extent == "fixed" else result.grid
    itemsize = np.dtype(job.moving.full.dtype).itemsize * (4 if job.moving.rgb else 1)
    # Input, output, and one vector per voxel of a slab; the result layers need a few times more.
    needed = job.moving.full_grid.size * itemsize + grid.size * (itemsize + 16 * grid.ndim)
    if needed > free_memory("cpu") / 2:
        warning = (
            f"The finest level would need {format_bytes(needed, round_up=True)}. "
            "The image was warped at the registered level instead."
        )
        return dataclasses.replace(result, warnings=[*result.warnings, warning])
    moving = job.moving.image(full=True, masked=False).with_unit(grid.unit)
    warped = sr.warp(moving, result.transform, grid, fill=job.settings.fill)
    return dataclasses.replace(result, warped=warped, grid=grid)


def _collect_series(job: RegistrationJob, outcome: SeriesOutcome) -> RegistrationRun:
    combined = stack_frames(outcome.layers, outcome.results[0].warped.grid, job.moving.time)
    return _collect(job, outcome.results, combined, outcome.warnings, outcome.series)


def _collect(
    job: RegistrationJob,
    results: list[Result],
    layers: dict[str, LayerData],
    warnings: list[str],
    series: SeriesResult | None = None,
) -> RegistrationRun:
    record = run_record(results[-1], job.name, job.run, job.moving.full_grid)
    if job.start is not None:
        record["start"] = transform_to_metadata(job.start)
    if series is not None:
        record["frames"] = [run_record(result, job.name, job.run, job.moving.full_grid) for result in results]
        record["series"] = series.report()
    folding = float(np.mean([result.folding_fraction for result in results]))
    data = name_layers(layers, job.name, record, folding, job.moving.metadata)
    # Created here and only inserted on the GUI thread: contrast limits, features and thumbnails take too long there.
    made = {key: make_layer(one) for key, one in data.items()}
    return RegistrationRun(job, results, data, made, list(dict.fromkeys(warnings)), series)
