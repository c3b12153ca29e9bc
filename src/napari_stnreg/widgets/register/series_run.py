"""A time series as a background task: the series engine, the motion while it runs, and its result layers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_stnreg.core.image import Image
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.core.units import conversion_factor
from napari_stnreg.io.napari_layers import LayerData
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.visualization.layers import QUICKLY_DRAWN_VOXELS, result_layers
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result
    from napari_stnreg.series.result import SeriesProgress, SeriesResult
    from napari_stnreg.widgets.register.run import RegistrationJob

FIXED_IMAGE = "fixed"
REFERENCES = {
    FIXED_IMAGE: "the fixed image",
    "first": "its first frame",
    "mean": "the mean of its frames",
    "previous": "the frame before each",
}
"""What the frames of a series can be registered to, with the text of the panel."""


STOPPED_JUDGED_FRAMES = 4
"""Frames of a stopped series that are judged against chance, which takes as long as all else of a frame."""
_LEAST_DRAWN_VOXELS = 2**14
"""Voxels on which the deformation of a frame is drawn at least."""


@dataclass(frozen=True)
class MotionUpdate:
    """Motion of the frames that were registered so far.

    Parameters
    ----------
    curves
        ``(N, 2)`` frame and shift, by axis.
    """

    curves: dict[str, np.ndarray]


@dataclass
class SeriesOutcome:
    """What a series run leaves: its result, and results and layer data of every frame."""

    series: SeriesResult
    results: list[Result]
    layers: list[dict[str, LayerData]]
    warnings: list[str]


def chosen_settings(job: RegistrationJob) -> RegistrationSettings:
    """Return what was chosen for a series: what is the default of a pair leaves the default of a series."""
    return RegistrationSettings.parse(
        **{"family": job.settings.family, **job.settings.model_dump(exclude_defaults=True)}
    )


def run_series(job: RegistrationJob, control: TaskControl) -> Generator[TaskProgress, None, SeriesOutcome | None]:
    """Register every frame of the moving layer; ``None`` if canceled or stopped before the first frame was done."""
    import napari_stnreg as sr
    from napari_stnreg.registration.result import result_steps
    from napari_stnreg.series.sources import Series

    fixed = job.fixed.image() if job.reference == FIXED_IMAGE else job.moving.image(0)

    def load(frame: int) -> Image:
        return job.moving.image(frame).with_unit(fixed.grid.unit)

    points = job.moving_landmarks
    if points is not None:  # in the unit of the moving layer
        points = points * conversion_factor(job.moving.grid.unit, fixed.grid.unit)
    steps = sr.register_series_steps(
        Series(load, job.moving.frames, job.moving.name, job.moving.time[0]),
        chosen_settings(job),
        reference=fixed if job.reference == FIXED_IMAGE else job.reference,
        temporal_smoothing=job.temporal_smoothing,
        fixed_landmarks=job.fixed_landmarks,
        moving_landmarks=points,
        start_transform=job.start,
        model=None if job.model is None else job.model.source,
    )
    names = [f"d{axis}" for axis in "zyx"[-fixed.ndim :]]
    shifts: dict[int, np.ndarray] = {}

    def on_item(progress: SeriesProgress) -> None:
        if progress.fit is not None:
            shifts[progress.fit.frame] = progress.fit.shift

    def to_progress(progress: SeriesProgress) -> TaskProgress:
        message = progress.message[:1].upper() + progress.message[1:]
        return TaskProgress(0.8 * progress.fraction, message, motion())

    def motion() -> MotionUpdate:
        frames = sorted(shifts)
        return MotionUpdate(
            {name: np.array([(f, shifts[f][k]) for f in frames]).reshape(-1, 2) for k, name in enumerate(names)}
        )

    found = yield from relay_progress(steps, control, to_progress, on_item)
    if found is None or not found.fits:
        return None
    shifts = {int(row["frame"]): np.array([row[name] for name in names]) for row in found.motion}
    results: list[Result] = []
    layers: list[dict[str, LayerData]] = []
    landmarks = (job.fixed_landmarks, points)
    warnings: list[str] = []
    count, stop_reason = len(found.fits), found.stop_reason
    judged = set(np.linspace(0, count - 1, STOPPED_JUDGED_FRAMES).round())
    for number, fit in enumerate(found.fits):
        if not control.stop.is_set():  # after Stop the window only waits for the result
            yield TaskProgress(0.8 + 0.2 * number / count, f"Making the layers, frame {number + 1}", motion())
        stopped = control.stop.is_set()
        if control.cancel.is_set():
            return None
        moving, notes = load(fit.frame), list[str]()
        final = result_steps(
            fixed, moving, found.settings, found.transform(fit.frame), [], stop_reason, found.seconds / count, notes,
            landmarks, judged=not stopped or number in judged,
        )  # fmt: skip
        result = run_to_completion(final, stop=control.stop.is_set)  # scored quickly once Stop was pressed
        results.append(result)
        if fit.frame not in found.failed:  # those are named by the series
            warnings += result.warnings
        layers.append(
            result_layers(
                result, fixed, moving, job.moving.display, job.kinds, volume=job.volume,
                drawn_voxels=max(QUICKLY_DRAWN_VOXELS // count, _LEAST_DRAWN_VOXELS) if stopped else None,
            )
        )  # fmt: skip
    return SeriesOutcome(found, results, layers, [*found.warnings, *dict.fromkeys(warnings)])
