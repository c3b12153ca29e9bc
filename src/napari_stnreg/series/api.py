"""Register a time series: the function shared by scripts, the command line and the panel."""

from __future__ import annotations

import os
import time
import warnings as python_warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Unpack

from napari_stnreg.core.device import free_memory, pick_device
from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.core.output_guard import OutputLock
from napari_stnreg.core.progress import run_to_completion, stop_was_delivered
from napari_stnreg.evaluation.evidence import collect_evidence
from napari_stnreg.evaluation.verdict import Verdict, judge
from napari_stnreg.io.conversion import ImageLike, as_image
from napari_stnreg.ops.pullback import border_value
from napari_stnreg.registration.memory import require_memory
from napari_stnreg.registration.result import output_grid
from napari_stnreg.registration.settings import PresetName, RegistrationOptions, RegistrationSettings, fit_method
from napari_stnreg.registration.stages import deformable_similarity
from napari_stnreg.resampling.warp import warp
from napari_stnreg.series.frame_fit import FrameFitter, Landmarks, linear_part, masked
from napari_stnreg.series.motion import FrameFit, describe, find_failures
from napari_stnreg.series.output import OutputFormat, SeriesFolder
from napari_stnreg.series.result import SeriesProgress, SeriesResult
from napari_stnreg.series.settings import SeriesSettings
from napari_stnreg.series.sources import Series, SeriesLike, open_series
from napari_stnreg.series.verdict import frames_to_judge, series_verdict
from napari_stnreg.transforms import AffineTransform, Transform, chain
from napari_stnreg.transforms.dense import DisplacementTransform

if TYPE_CHECKING:
    from napari_stnreg.models.model import Model

Reference = Literal["first", "mean", "previous"]

SeriesSteps = Generator[SeriesProgress, "str | None", SeriesResult]

MEAN_FRAMES = 200
"""Frames of the first pass, from which the mean is made; more change it by less than its noise."""

RECENT_FRAMES = 50
"""Frames with which a new one is compared to decide whether the next one may start from it."""


def register_series(
    series: SeriesLike,
    settings: RegistrationSettings | None = None,
    *,
    reference: Reference | int | ImageLike = "first",
    axes: str | None = None,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    temporal_smoothing: float = 0.0,
    output: str | os.PathLike[str] | None = None,
    output_format: OutputFormat = "zarr",
    resume: bool = False,
    overwrite: bool = False,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    progress: Callable[[SeriesProgress], object] | None = None,
    stop: Callable[[], bool] | None = None,
    family: str | None = None,
    similarity: str | None = None,
    preset: PresetName | None = None,
    channel: int | None = None,
    window: int | None = None,
    smoothness: float | None = None,
    control_spacing: float | None = None,
    levels: int | None = None,
    iterations: int | None = None,
    fill: float | None = None,
    device: str | None = None,
    seed: int | None = None,
) -> SeriesResult:
    """Register every frame of a movie or a 4D scan, for instance to correct motion.

    Parameters
    ----------
    series
        An array ``(t, y, x)`` or ``(t, z, y, x)`` (NumPy, dask, zarr, memory map), a list of images, or a TIFF, NIfTI
        or OME-Zarr path. Frames are read one at a time.
    settings
        A settings object. Single settings can be given by name as well; they win.
    reference
        What the frames are registered to: ``"first"``; ``"mean"`` (two passes: to the first frame, then to the mean of
        the aligned frames); ``"previous"`` (each frame to the one before, transforms composed; for movies whose
        appearance changes); the index of a frame; or an image.
    axes
        Letters of the axes if they are not ``"tyx"`` or ``"tzyx"``, such as ``"tcyx"``. One transform is applied to
        all channels.
    spacing, unit
        Voxel size in (z, y, x) order and unit; override those of the series.
    temporal_smoothing
        Standard deviation, in frames, of a Gaussian that smooths the motion over time; 0 for none.
    output
        Folder for the registered frames, transforms, motion and report. They are written while the series is
        registered, so that a stopped run can be resumed.
    output_format
        ``"zarr"`` (OME-Zarr) or ``"tiff"`` (OME-TIFF).
    resume, overwrite
        Continue the unfinished run in the folder, or replace it.
    fixed_landmarks, moving_landmarks, start_transform
        As for :func:`~napari_stnreg.register`, for every frame.
    progress
        Called with a :class:`~napari_stnreg.SeriesProgress` after every step.
    stop
        Called after every step; once it returns true, the run ends with the frames that are done.
    family
        ``"rigid"`` (default), ``"translation"``, ``"similarity"``, ``"affine"``, or a deformable family such as
        ``"rigid+diffeomorphic"``; see :func:`~napari_stnreg.register`.
    similarity, preset, window, smoothness, control_spacing, levels, iterations, fill, device, seed
        As for :func:`~napari_stnreg.register`, with the defaults of
        :class:`~napari_stnreg.series.settings.SeriesSettings`. Frames of one series have one contrast, so linear
        families are fitted by correlation unless ``similarity`` is ``"mi"`` or ``"mind"``.
    channel
        Channel by which frames are compared; luminance or the mean by default.

    Returns
    -------
    SeriesResult
        Transforms, verdict, motion table and failed frames; ``result.warp()`` returns the registered frames.

    Raises
    ------
    InputError
        If series or settings cannot be used.

    Warns
    -----
    RegistrationWarning
        If frames failed or the run was stopped.

    Examples
    --------
    >>> import numpy as np, napari_stnreg as sr
    >>> y, x = np.mgrid[:64, :64]
    >>> movie = np.stack([np.exp(-((y - 32 - t) ** 2 + (x - 32 + t) ** 2) / 90) for t in range(3)])
    >>> sr.register_series(movie, family="translation").motion["dy"].round(1).tolist()
    [0.0, 1.0, 2.0]
    """
    given = {
        "family": family, "similarity": similarity, "preset": preset, "fixed_channel": channel,
        "moving_channel": channel, "window": window, "smoothness": smoothness, "control_spacing": control_spacing,
        "levels": levels, "iterations": iterations, "fill": fill, "device": device, "seed": seed,
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    steps = register_series_steps(
        open_series(series, axes=axes, spacing=spacing, unit=unit), settings, reference=reference,
        temporal_smoothing=temporal_smoothing, output=output, output_format=output_format, resume=resume,
        overwrite=overwrite, fixed_landmarks=fixed_landmarks, moving_landmarks=moving_landmarks,
        start_transform=start_transform, **options,
    )  # fmt: skip
    result = run_to_completion(steps, progress, stop)
    for text in result.warnings:
        python_warnings.warn(text, RegistrationWarning, stacklevel=2)
    return result


def register_series_steps(
    series: Series,
    settings: RegistrationSettings | None = None,
    *,
    reference: Reference | int | ImageLike = "first",
    temporal_smoothing: float = 0.0,
    output: str | os.PathLike[str] | SeriesFolder | None = None,
    output_format: OutputFormat = "zarr",
    resume: bool = False,
    overwrite: bool = False,
    fixed_landmarks: npt.ArrayLike | None = None,
    moving_landmarks: npt.ArrayLike | None = None,
    start_transform: Transform | None = None,
    model: Model | str | None = None,
    as_pairs: bool = False,
    **options: Unpack[RegistrationOptions],
) -> SeriesSteps:
    """Generator form of :func:`register_series`, for progress reporting and cancellation.

    Parameters
    ----------
    series
        The frames; see :func:`~napari_stnreg.series.sources.open_series`.
    settings, reference, temporal_smoothing, output, output_format, resume, overwrite
        As for :func:`register_series`.
    fixed_landmarks, moving_landmarks, start_transform, model
        As for :func:`~napari_stnreg.register`, for every frame.
    as_pairs
        Register every frame on its own as :func:`~napari_stnreg.register` would, with its defaults and its verdict: for
        frames of another contrast than the reference. A stopped run includes the best transform so far of the frame
        that was being registered.
    **options
        Fields of :class:`~napari_stnreg.RegistrationSettings` by name.

    Yields
    ------
    SeriesProgress
        Send ``"stop"`` to end with the frames that are done; close the generator to discard them.

    Returns
    -------
    SeriesResult
    """
    settings = RegistrationSettings.merge(settings, dict(options))
    if not as_pairs:
        settings = SeriesSettings.of(settings)
    elif reference in ("mean", "previous"):
        raise InputError(f"Frames that are registered like pairs have one reference image, not '{reference}'.")
    if not (np.isfinite(temporal_smoothing) and temporal_smoothing >= 0):
        raise InputError(f"The temporal smoothing must be 0 or a number of frames, not {temporal_smoothing}.")
    run = _SeriesRun(series, settings, reference, temporal_smoothing, as_pairs)
    deformable_similarity(settings, run.grid.ndim)  # reject an unknown name before any frame is registered
    run.landmarks = Landmarks(fixed_landmarks, moving_landmarks)
    run.start, run.model = start_transform, model if model is not None else settings.model
    if output is None:
        return (yield from run.steps())
    folder = output if isinstance(output, SeriesFolder) else SeriesFolder(output, output_format)
    inputs = [path for path in (series.path, run.reference_path) if path is not None]
    with OutputLock(folder.path):
        folder.begin(run.result([]).identity(), inputs, resume=resume, overwrite=overwrite)
        run.folder = folder
        return (yield from run.steps())


def _own_verdict(fit: FrameFit) -> Verdict:
    report = fit.report
    if report is None:  # it could not be registered at all
        return Verdict("failed", 0.0, (fit.reason,))
    return Verdict(report["verdict"], report["confidence"], tuple(report["reasons"]))


class _SeriesRun:
    """One registration of a series."""

    def __init__(
        self, series: Series, settings: RegistrationSettings, reference: Any, temporal_smoothing: float, as_pairs: bool
    ) -> None:
        self.as_pairs = as_pairs
        self.output_grid: Grid | None = None
        self.series, self.settings, self.smoothing = series, settings, temporal_smoothing
        self.device = pick_device(settings.device)
        self.folder: SeriesFolder | None = None
        self.landmarks = Landmarks()
        self.start: Transform | None = None
        self.model: Model | str | None = None
        self.reference_path: Path | None = None
        self.mode, self.reference_frame, self.image = self._reference(reference)
        self.label = self.mode if self.image is None else f"image {self.image.name}"
        self.stopped = False
        self._frames_open = False
        self.began = time.perf_counter()
        first = series[0]
        self.grid: Grid = self.image.grid if self.image is not None else first.grid
        outside = border_value(first) if settings.fill is None else np.full(first.channels, settings.fill)
        self.fill = tuple(float(value) for value in outside)
        self.interpolation, _ = choose_interpolation(first)
        self.memory: dict[tuple[int, int], Transform] = {}
        self.done = 0.0
        self.passes = 1
        self.total = len(series)

    def _reference(self, reference: Any) -> tuple[str, int | None, Image | None]:
        if isinstance(reference, str) and reference.isdigit():
            reference = int(reference)
        if isinstance(reference, bool) or reference is None:
            raise InputError("The reference is 'first', 'mean', 'previous', the index of a frame, or an image.")
        if isinstance(reference, int | np.integer):
            index = int(reference)
            if not -len(self.series) <= index < len(self.series):
                raise InputError(f"'{self.series.name}' has {len(self.series)} frames. There is no frame {index}.")
            return str(index % len(self.series)), index % len(self.series), None
        if isinstance(reference, str) and reference in ("first", "previous"):
            return reference, 0, None
        if isinstance(reference, str) and reference == "mean":
            return reference, None, None
        if isinstance(reference, str | os.PathLike):
            self.reference_path = Path(reference)
            if not self.reference_path.exists():
                raise InputError(
                    f"There is no reference '{reference}'. Use first, mean, previous, an index or an image."
                )
        image = as_image(reference)
        if image.ndim != self.series[0].ndim:
            raise InputError(f"The reference is {image.ndim}D and the frames are {self.series[0].ndim}D.")
        return "image", None, image

    def result(self, fits: list[FrameFit]) -> SeriesResult:
        """Build the result from the frames that are done."""
        return SeriesResult(
            fits, self.grid, self.series, self.settings, self.label, self.reference_frame, self.smoothing,
            "stopped" if self.stopped else "finished", time.perf_counter() - self.began,
            lambda frame: self._stored(self.passes, frame), self.fill,
            None if self.folder is None else self.folder.path, output_grid=self.output_grid, as_pairs=self.as_pairs,
        )  # fmt: skip

    def steps(self) -> SeriesSteps:
        """Register all frames; a generator of progress."""
        count = len(self.series)
        # otherwise lattice or transforms are known only once all frames are registered
        at_once = self.smoothing <= 0 and self.settings.extent == "fixed"
        if self.mode == "mean":
            used = np.unique(np.linspace(0, count - 1, min(count, MEAN_FRAMES)).round().astype(int)).tolist()
            self.passes, self.total = 2, len(used) + count
            reference = yield from self._mean(used)
        elif self.image is not None:
            reference = self.image
        else:
            reference = self.series[self.reference_frame or 0]
        fits: list[FrameFit] = []
        if reference is not None:
            fits = yield from self._pass(self.passes, range(count), reference, write=at_once)
        found = self.result(fits)
        if self.as_pairs:
            judged = {fit.frame: _own_verdict(fit) for fit in fits}
            found.judgment = series_verdict(judged, found.failed, len(fits), self.reference_frame)
        elif reference is not None and fits and not self.stopped:
            yield from self._judge(found, reference)
        if self.settings.extent != "fixed" and fits:
            found.output_grid = self.output_grid = self._grid_of_all(found)
        if self.folder is not None and self.folder.frames_path is not None and fits and not self.stopped:
            # a resumed run does not write the frames that it skips, and which frames failed may change
            yield from self._write_again(found, found.bridged if at_once else range(count))
        if self.folder is not None:
            found.stop_reason = "stopped" if self.stopped else "finished"
            found.close(self.folder)
        return found

    def _judge(self, found: SeriesResult, reference: Image) -> Generator[SeriesProgress, str | None, None]:
        """Judge some frames against the reference or, if frames follow each other, against the one before."""
        judged: dict[int, Verdict] = {}
        ncc = {fit.frame: fit.ncc for fit in found.fits}
        sound = [fit for fit in found.fits if fit.frame not in found.failed]
        before = {fit.frame: sound[max(i - 1, 0)].frame for i, fit in enumerate(sound)}
        for frame in frames_to_judge(found.fits, found.failed, self.reference_frame):
            target, image = reference, self.series[frame]
            if self.mode == "previous":
                near = before[frame]
                target = warp(self.series[near], found.transform(near), self.grid, "linear")
            fixed_channel = None if target.name == "mean" else self.settings.fixed_channel
            evidence = collect_evidence(
                masked(target), masked(image.with_unit(target.grid.unit)), found.transform(frame),
                fixed_channel=fixed_channel, moving_channel=self.settings.moving_channel,
            )  # fmt: skip
            # frames of one series cannot be mirror images of each other
            oriented = self.image is None or (self.image.is_oriented and image.is_oriented)
            judged[frame] = judge(
                evidence, similarity=self.settings.similarity, mirror=self.settings.mirror, oriented=oriented,
                correlation=ncc[frame],
            )  # fmt: skip
            if (yield SeriesProgress(frame, self.done, self.total, "judging the result")) == "stop":
                return
        found.judgment = series_verdict(judged, found.failed, len(found.fits), self.reference_frame)

    def _grid_of_all(self, found: SeriesResult) -> Grid:
        """Return the lattice of the reference over the ``extent`` of the settings, of all frames."""
        grids = [
            output_grid(self.grid, self.series[fit.frame], found.transform(fit.frame), self.settings.extent)
            for fit in found.fits
        ]
        grid = grids[0]
        for one in grids[1:]:
            grid = grid.extended_to(one.corners())
        first = self.series[0]
        needed = grid.size * (np.asarray(first.data).dtype.itemsize * first.channels + 2)
        require_memory(needed, free_memory("cpu"), f"Warping '{self.series.name}' onto a grid of {grid.shape}")
        return grid

    def _write_again(self, found: SeriesResult, frames: Iterable[int]) -> Generator[SeriesProgress, str | None, None]:
        """Write frames whose transform follows from those of other frames."""
        for frame in frames:
            grid = found.output_grid or self.grid
            image = warp(self.series[frame], found.transform(frame), grid, self.interpolation, self.fill)
            self._write(frame, image)
            message = f"writing frame {frame + 1} of {len(self.series)}"
            if (yield SeriesProgress(frame, self.total, self.total, message)) == "stop":
                self.stopped = True
                return

    def _mean(self, frames: list[int]) -> Generator[SeriesProgress, str | None, Image | None]:
        """Register some frames to the first and return the mean of the aligned ones; ``None`` if stopped."""
        first = self.series[0]
        total = np.zeros(self.grid.shape, np.float64)
        weight = np.zeros(self.grid.shape, np.float64)

        def add(image: Image, transform: Transform) -> None:
            plain = Image(np.nan_to_num(image.intensity(self.settings.moving_channel)), image.grid, image.mask)
            warped = warp(plain, transform, self.grid, "linear")
            inside = 1.0 if warped.mask is None else warped.mask
            np.add(total, warped.data * inside, out=total)
            np.add(weight, inside, out=weight)

        fits = yield from self._pass(1, frames, first, write=False, each=add)
        if self.stopped or not fits:
            return None
        known = weight > 0
        values = np.where(known, total / np.maximum(weight, 1.0), 0.0).astype(np.float32)
        return Image(values, self.grid, None if known.all() else known, "mean", metadata=first.metadata)

    def _pass(
        self,
        number: int,
        frames: Iterable[int],
        reference: Image,
        *,
        write: bool,
        each: Callable[[Image, Transform], None] | None = None,
    ) -> Generator[SeriesProgress, str | None, list[FrameFit]]:
        """Register frames to a reference, or each to the one before; frames of a resumed run are skipped."""
        earlier = {} if self.folder is None else self.folder.fits()
        count = len(self.series)
        follows = self.mode == "previous"
        settings = self.settings
        if reference.name == "mean":  # one channel already
            settings = settings.model_copy(update={"fixed_channel": None})
        linear = [name for name in settings.stages if fit_method(name) == "linear"]
        if number < self.passes and linear:  # the mean does not need the deformation
            settings = settings.model_copy(update={"family": "+".join(linear)})
        fitter: FrameFitter | None = None
        anchor: tuple[Image, Transform] | None = None
        fits: list[FrameFit] = []
        begin = None if self.start is None else self.start.as_matrix()
        last = np.eye(self.grid.ndim + 1) if begin is None else begin
        for frame in frames:
            prefix = f"pass {number} of {self.passes}, " if self.passes > 1 else ""
            message = f"{prefix}frame {frame + 1} of {count}"
            image = self.series[frame] if (number, frame) not in earlier or each is not None or follows else None
            if (number, frame) in earlier:
                fit = earlier[number, frame]
                transform = self._of(number, fit)
            else:
                assert image is not None
                if follows and anchor is not None:
                    fitter, last = FrameFitter(anchor[0], settings, self.device), np.eye(self.grid.ndim + 1)
                elif fitter is None:
                    fitter = FrameFitter(
                        reference, settings, self.device, self.landmarks, self.model, self.start, self.as_pairs
                    )  # fmt: skip
                found = yield from self._frame(fitter, frame, image, last, message)
                if found is None:
                    return fits
                fit, transform = found
                if follows and anchor is not None:
                    fit, transform = self._composed(fit, transform, anchor[1])
                if (fit.deformed or fit.report is not None) and self.folder is None:
                    self.memory[number, frame] = transform
                if write and self.folder is not None:
                    self._write(
                        frame, warp(image, transform, self.grid, self.interpolation, self.fill, device=self.device)
                    )
                if self.folder is not None:
                    self.folder.record(number, fit, transform)
            fits.append(fit)
            # a frame that does not match is no place to go on from, and no part of the mean
            if frame not in find_failures(fits[-RECENT_FRAMES:], self.reference_frame):
                if each is not None and image is not None:
                    each(image, transform)
                last = fit.matrix
                if follows and image is not None:
                    anchor = (image, transform)
            if fit.report is not None and fit.report["stop_reason"] == "stopped":
                self.stopped = True  # the best transform so far
                return fits
            self.done += 1
            command = yield SeriesProgress(frame, self.done, self.total, message, fit)
            # a stop while a frame was scored ends the scoring early and reaches no yield
            if command == "stop" or stop_was_delivered():
                self.stopped = len(fits) < count or number < self.passes
                if self.stopped:
                    return fits
        return fits

    def _frame(
        self, fitter: FrameFitter, frame: int, image: Image, last: npt.NDArray[np.float64], message: str
    ) -> Generator[SeriesProgress, str | None, tuple[FrameFit, Transform] | None]:
        steps = fitter.steps(frame, image, [last, np.eye(len(last))])
        command: str | None = None
        while True:
            try:
                inner = steps.send(command)
            except StopIteration as end:
                self.stopped = self.stopped or end.value is None
                result: tuple[FrameFit, Transform] | None = end.value
                return result
            text = f"{message}: {inner.message or inner.stage}"
            command = yield SeriesProgress(frame, self.done + 0.99 * inner.fraction, self.total, text)

    def _composed(self, fit: FrameFit, step: Transform, before: Transform) -> tuple[FrameFit, Transform]:
        """Return the transform from the first frame, given that from the frame before and the one to that frame."""
        a, b = before.as_matrix(), step.as_matrix()
        whole: Transform
        if a is not None and b is not None:
            whole = AffineTransform(b @ a, self.grid.unit)
        else:
            # one field per frame: a chain would grow with every frame
            field = chain(before, step).displacement(self.grid)
            whole = DisplacementTransform(torch.from_numpy(field)[None], self.grid)
        matrix = linear_part(whole, self.grid)
        return describe(fit.frame, fit.ncc, fit.overlap, matrix, whole, self.grid, fit.reason), whole

    def _of(self, number: int, fit: FrameFit) -> Transform:
        stored = fit.deformed or fit.report is not None
        return self._stored(number, fit.frame) if stored else AffineTransform(fit.matrix, self.grid.unit)

    def _stored(self, number: int, frame: int) -> Transform:
        if self.folder is not None:
            return self.folder.transform(number, frame)
        return self.memory[number, frame]

    def _write(self, frame: int, image: Image) -> None:
        assert self.folder is not None
        if not self._frames_open:
            self.folder.open_frames(len(self.series), replace(image, name=self.series.name), self.series.interval)
            self._frames_open = True
        self.folder.write_frame(frame, image)
