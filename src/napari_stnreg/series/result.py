"""The result of a series registration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.labels import choose_interpolation
from napari_stnreg.evaluation.verdict import UNKNOWN, Judged, Verdict
from napari_stnreg.ops.pullback import Interpolation, border_value
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.warp import warp
from napari_stnreg.series.frame_fit import linear_part
from napari_stnreg.series.motion import (
    FrameFit,
    describe,
    find_failures,
    frames_to_bridge,
    mean_matrix,
    motion_csv,
    motion_svg,
    motion_table,
    neighbor_weights,
    smoothed_matrices,
)
from napari_stnreg.series.output import OutputFormat, SeriesFolder
from napari_stnreg.series.sources import Series, SeriesLike, open_series
from napari_stnreg.transforms import AffineTransform, Transform
from napari_stnreg.transforms.dense import DisplacementTransform


@dataclass(frozen=True)
class SeriesProgress:
    """One step of a series registration.

    Parameters
    ----------
    frame
        Index of the frame that was finished or is being registered.
    done, total
        Steps done and steps planned: one per frame and pass.
    message
        Text for a status bar.
    fit
        What was found, if the step finished a frame.
    """

    frame: int
    done: float
    total: int
    message: str
    fit: FrameFit | None = None

    @property
    def fraction(self) -> float:
        """Fraction of the work that is done, 0 to 1."""
        return min(self.done / max(self.total, 1), 1.0)


@dataclass(repr=False)
class SeriesResult(Judged):
    """The transforms of a time series.

    Parameters
    ----------
    fits
        The frames that were registered, in order.
    grid
        Lattice of the reference.
    series
        The frames.
    settings
        Settings of the registration.
    reference
        What the frames were registered to: ``"first"``, ``"mean"``, ``"previous"``, an index as text, or the name of
        an image.
    reference_frame
        The frame that is the reference itself, if there is one.
    temporal_smoothing
        Standard deviation of the smoothing of the motion, in frames.
    stop_reason
        ``"finished"`` or ``"stopped"``.
    seconds
        Wall time.
    deformations
        Returns the deformation of a frame that has one.
    fill
        Value outside a frame, one for each channel.
    output
        Folder of the run, if it was written while it ran.
    judgment
        Whether the registration can be trusted, from some frames that are judged against chance; :attr:`verdict`,
        :attr:`confidence` and :attr:`reasons` are its parts.
    output_grid
        Lattice onto which the frames are warped, if the setting ``extent`` makes it another one than :attr:`grid`.
    as_pairs
        Whether every frame was registered on its own, like a pair. It then failed only by its own verdict, and no
        frame is placed between its neighbors.
    """

    fits: list[FrameFit]
    grid: Grid
    series: Series
    settings: RegistrationSettings
    reference: str
    reference_frame: int | None
    temporal_smoothing: float
    stop_reason: Literal["finished", "stopped"]
    seconds: float
    deformations: Callable[[int], Transform] = field(repr=False)
    fill: tuple[float, ...]
    output: Path | None = None
    judgment: Verdict = UNKNOWN
    output_grid: Grid | None = None
    as_pairs: bool = False
    _matrices: FloatArray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._position = {fit.frame: i for i, fit in enumerate(self.fits)}
        if self.as_pairs:
            self._failed, self._bridged = {fit.frame: fit.reason for fit in self.fits if fit.reason}, frozenset[int]()
            return
        self._failed = find_failures(self.fits, self.reference_frame)
        self._bridged = frozenset(frames_to_bridge(self.fits, self._failed, self.reference_frame))

    def __len__(self) -> int:
        return len(self.fits)

    @property
    def complete(self) -> bool:
        """Whether every frame of the series was registered."""
        return len(self.fits) == len(self.series)

    @property
    def failed(self) -> dict[int, str]:
        """Frames whose registration failed, each with the reason."""
        return dict(self._failed)

    @property
    def bridged(self) -> list[int]:
        """Failed frames that are placed between their neighbors, since they fit nowhere themselves."""
        return sorted(self._bridged)

    @property
    def warnings(self) -> list[str]:
        """Sentences on what is missing or unreliable."""
        found = []
        if not self.complete:
            found.append(f"Stopped: only {len(self.fits)} of {len(self.series)} frames were registered.")
        if self._failed:
            named = [f"frame {frame} ({reason})" for frame, reason in list(self._failed.items())[:5]]
            rest = f" and {len(self._failed) - 5} more" if len(self._failed) > 5 else ""
            count = len(self._failed)
            subject = (
                "The registration of 1 frame failed" if count == 1 else f"The registration of {count} frames failed"
            )
            found.append(f"{subject}: {', '.join(named)}{rest}.")
            if self._bridged:
                whose = (
                    "Its place is" if count == len(self._bridged) == 1 else "The places of those that fit nowhere are"
                )
                found[-1] += f" {whose} interpolated from the neighbors."
        if (
            self.judgment is not UNKNOWN
            and self.verdict != "good"
            and not (self._failed and self.verdict == "doubtful")
        ):
            ending = "failed" if self.verdict == "failed" else "is doubtful"
            found.append(f"The registration of the series {ending}. {' '.join(self.reasons)}")
        return found

    def transform(self, frame: int) -> Transform:
        """Return the transform of a frame, reference world to the frame's world, smoothed over time if that was set.

        A frame whose fit failed (:attr:`bridged`) has the transform that is interpolated from its neighbors.

        Raises
        ------
        InputError
            If the frame was not registered.
        """
        if frame not in self._position:
            raise InputError(f"Frame {frame} was not registered.")
        fit = self.fits[self._position[frame]]
        if self.temporal_smoothing <= 0:
            return self._interpolated(frame) if frame in self._bridged else self._raw(fit)
        if self._matrices is None:
            weights = np.array([0.0 if one.frame in self._failed else 1.0 for one in self.fits])
            matrices = np.array([one.matrix for one in self.fits])
            self._matrices = smoothed_matrices(matrices, weights, self.temporal_smoothing, self.grid.center)
        if not any(one.deformed for one in self.fits):
            return AffineTransform(self._matrices[self._position[frame]], self.grid.unit)
        return self._smoothed_field(frame)

    def _raw(self, fit: FrameFit) -> Transform:
        stored = fit.deformed or fit.report is not None
        return self.deformations(fit.frame) if stored else AffineTransform(fit.matrix, self.grid.unit)

    def _interpolated(self, frame: int) -> Transform:
        sound = [one.frame for one in self.fits if one.frame not in self._failed]
        near = [(self.fits[self._position[one]], weight) for one, weight in neighbor_weights(sound, frame)]
        if any(fit.deformed for fit, _ in near):
            return self._mean_field(near)
        matrices, weights = np.array([fit.matrix for fit, _ in near]), np.array([weight for _, weight in near])
        return AffineTransform(mean_matrix(matrices, weights, self.grid.center), self.grid.unit)

    def _mean_field(self, weighted: Sequence[tuple[FrameFit, float]]) -> Transform:
        import torch

        total = sum((weight for _, weight in weighted), 0.0)
        field = np.zeros((self.grid.ndim, *self.grid.shape), np.float64)
        for fit, weight in weighted:
            field += weight / total * self._raw(fit).displacement(self.grid)
        return DisplacementTransform(torch.from_numpy(field.astype(np.float32))[None], self.grid)

    def _smoothed_field(self, frame: int) -> Transform:
        here, reach = self._position[frame], int(np.ceil(3 * self.temporal_smoothing))
        weighted = [
            (fit, float(np.exp(-0.5 * ((fit.frame - frame) / self.temporal_smoothing) ** 2)))
            for fit in self.fits[max(here - reach, 0) : here + reach + 1]
            if fit.frame not in self._failed
        ]
        if sum(weight for _, weight in weighted) >= 1e-6:
            return self._mean_field(weighted)
        return self._interpolated(frame) if frame in self._bridged else self._raw(self.fits[here])

    @property
    def transforms(self) -> Sequence[Transform]:
        """The transforms of the registered frames, in order; each is made when it is read."""
        return _Transforms(self)

    @property
    def motion(self) -> npt.NDArray[np.void]:
        """The motion, one row per registered frame (:func:`~napari_stnreg.series.motion.motion_table`).

        The rows of :attr:`bridged` frames hold the interpolated motion.
        """
        fits = [self._bridged_fit(fit) if fit.frame in self._bridged else fit for fit in self.fits]
        return motion_table(fits, self._failed, self.grid, self.series.interval)

    def _bridged_fit(self, fit: FrameFit) -> FrameFit:
        transform = self._interpolated(fit.frame)
        return describe(fit.frame, fit.ncc, fit.overlap, linear_part(transform, self.grid), transform, self.grid)

    def frames(
        self, series: SeriesLike = None, interpolation: Interpolation | None = None, fill: float | None = None
    ) -> Iterator[Image]:
        """Yield the registered frames one at a time.

        Parameters
        ----------
        series
            Another series of the same motion, such as a second channel or labels; the registered one by default.
        interpolation, fill
            See :func:`~napari_stnreg.warp`; the first frame decides whether the series holds labels.
        """
        other = self.series if series is None else open_series(series)
        if len(other) != len(self.series):
            raise InputError(f"'{other.name}' has {len(other)} frames, and {len(self.series)} were registered.")
        if interpolation is None:  # one for all frames
            interpolation, _ = choose_interpolation(other[0])
        outside = (self.fill if series is None else 0) if fill is None else fill
        grid = self.output_grid or self.grid
        return (warp(other[f.frame], self.transform(f.frame), grid, interpolation, outside) for f in self.fits)

    def warp(
        self, series: SeriesLike = None, interpolation: Interpolation | None = None, fill: float | None = None
    ) -> npt.NDArray[Any]:
        """Return the registered frames as one array, time first; see :meth:`frames` for one frame at a time."""
        return np.stack([np.asarray(image.data) for image in self.frames(series, interpolation, fill)])

    def save(self, folder: str | os.PathLike[str], output_format: OutputFormat = "zarr") -> Path:
        """Write the registered frames, the transforms, the motion as a table and a picture, and the report to a folder.

        Raises
        ------
        InputError
            If the folder exists and holds anything.
        """
        target = SeriesFolder(folder, output_format)
        target.begin(self.identity(), [p for p in (self.series.path,) if p is not None], resume=False, overwrite=False)
        for fit, image in zip(self.fits, self.frames(), strict=True):
            if fit is self.fits[0]:
                target.open_frames(len(self.series), image, self.series.interval)
            target.record(1, fit, self._raw(fit))
            target.write_frame(fit.frame, image)
        self.close(target)
        return target.path

    @classmethod
    def load(cls, folder: str | os.PathLike[str], series: SeriesLike = None) -> SeriesResult:
        """Open the folder of a registered series, to apply its transforms to other channels or labels.

        Parameters
        ----------
        folder
            What :func:`~napari_stnreg.register_series` or :meth:`save` wrote.
        series
            The series, or another one of the same frames; by default that which was registered, where it was read.

        Raises
        ------
        InputError
            If the folder holds no registered frame, or the series has another number of frames.
        """
        target = SeriesFolder(folder)
        run = target.identity()
        if run is None:
            raise InputError(f"'{folder}' is not the folder of a registered series.")
        found, report = target.fits(), target.report()
        number = max((one for one, _ in found), default=0)
        # without a report, a first pass alone was the one to the mean
        unfinished = number == 1 and report is None and run["reference"] == "mean"
        if number == 0 or unfinished or (report is not None and report.get("registered_frames") == 0):
            raise InputError(f"'{folder}' holds no registered frame yet. Continue the run with --resume.")
        fits = [fit for (one, _), fit in sorted(found.items(), key=lambda item: item[0]) if one == number]
        opened = open_series(run["series"] if series is None else series)
        if len(opened) != run["frames"]:
            raise InputError(f"'{opened.name}' has {len(opened)} frames, and '{folder}' is of {run['frames']}.")
        reference, first = str(run["reference"]), border_value(opened[0])
        frame = int(reference) if reference.isdigit() else 0 if reference in ("first", "previous") else None
        known = set(RegistrationSettings.model_fields)
        settings = RegistrationSettings.parse(**{k: v for k, v in run["settings"].items() if k in known})
        judgment = UNKNOWN
        if report is not None and "verdict" in report:
            judgment = Verdict(report["verdict"], float(report["confidence"]), tuple(report["reasons"]))
        return cls(
            fits, Grid.from_dict(run["grid"]), opened, settings, reference, frame, float(run["temporal_smoothing"]),
            "finished" if len(fits) == len(opened) else "stopped", float((report or {}).get("seconds", 0.0)),
            lambda index: target.transform(number, index), tuple(float(v) for v in first), target.path,
            judgment, Grid.from_dict(report["output_grid"]) if report and report.get("output_grid") else None,
        )  # fmt: skip

    def close(self, folder: SeriesFolder) -> None:
        """Write motion and report into the folder of the run."""
        table = self.motion
        plot = motion_svg(table, self.grid.unit, f"Motion of {self.series.name}")
        written = {} if folder.frames_path is None else {"output": folder.frames_path.name}
        folder.close(self.report() | written, motion_csv(table), plot)

    def identity(self) -> dict[str, Any]:
        """Return the identity of this run, JSON-ready."""
        return {
            "series": str(self.series.path or self.series.name),
            "frames": len(self.series),
            "grid": self.grid.to_dict(),
            "reference": self.reference,
            "temporal_smoothing": self.temporal_smoothing,
            "settings": self.settings.model_dump(exclude={"device"}),
        }

    def report(self) -> dict[str, Any]:
        """Return a JSON-ready summary."""
        scored = [fit.ncc for fit in self.fits if fit.frame != self.reference_frame]
        return {
            **self.identity(),
            "verdict": self.verdict,
            "confidence": self.confidence,
            "reasons": list(self.reasons),
            "complete": self.complete,
            "registered_frames": len(self.fits),
            "stop_reason": self.stop_reason,
            "seconds": round(self.seconds, 3),
            "output_grid": None if self.output_grid is None else self.output_grid.to_dict(),
            "median_ncc": float(np.median(scored)) if scored else None,
            "bridged_frames": self.bridged,
            "failed_frames": {str(frame): reason for frame, reason in self._failed.items()},
            "warnings": self.warnings,
        }

    def __repr__(self) -> str:
        done = f"{len(self.fits)} of {len(self.series)} frames, {self.verdict}"
        lines = [f"<SeriesResult: {self.settings.family}, {done}, {self.stop_reason} after {self.seconds:.1f} s>"]
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])


class _Transforms(Sequence[Transform]):
    def __init__(self, result: SeriesResult) -> None:
        self._result = result

    def __len__(self) -> int:
        return len(self._result.fits)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._result.transform(self._result.fits[index].frame)
