"""The result of a registration: the transform, the warped image, its scores and a JSON-ready report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.provenance import package_versions
from napari_stnreg.evaluation.scorecard import image_scores, landmark_scores
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import Transform

StopReason = Literal["finished", "stopped", "diverged"]
"""Why a registration ended: all steps done, stopped by the caller, or the loss became non-finite."""

LossHistory = list[tuple[str, int, int, float]]
"""Stage, level, step and loss of every step."""


@dataclass(frozen=True)
class Progress:
    """One step of a running registration.

    Parameters
    ----------
    stage
        The transform family that is being fitted, or ``"start"`` during the initialization.
    level, levels
        Index of the pyramid level, from 0 (coarsest), and the number of levels.
    step, total
        Steps done and steps planned, over all stages and levels.
    loss
        The loss at this step; lower is better. Comparable within one stage and level only.
    preview
        Return a snapshot of the transform so far. Call it in the thread that runs the registration.
    message
        Short text for a status bar, such as ``"affine, level 2 of 3"``.
    """

    stage: str
    level: int
    levels: int
    step: int
    total: int
    loss: float
    preview: Callable[[], Transform]
    message: str = ""

    @property
    def fraction(self) -> float:
        """Fraction of the planned steps that is done, 0 to 1."""
        return min(self.step / max(self.total, 1), 1.0)


@dataclass
class Result:
    """The result of a registration.

    Parameters
    ----------
    transform
        Maps points of the fixed world to points of the moving world, in the fixed image's unit.
    grid
        The grid of :attr:`warped`.
    warped
        The moving image sampled once at ``transform(grid)``, with its own dtype and channels.
    scores
        ``{"before": {...}, "after": {...}}``: NCC, local NCC, mutual information, MSE inside both masks, and landmark
        errors.
    folding_fraction
        Fraction of the fixed grid's voxels whose Jacobian determinant is not positive.
    losses
        ``(stage, level, step, loss)`` of every step.
    stop_reason
        Why the optimization ended.
    seconds
        Wall time of the optimization, without warping and scoring.
    settings, versions, warnings
        The settings of the run; the versions of this package, torch and numpy; warnings as sentences.
    """

    transform: Transform
    grid: Grid
    warped: Image
    scores: dict[str, dict[str, float]]
    folding_fraction: float
    losses: LossHistory
    stop_reason: StopReason
    seconds: float
    settings: RegistrationSettings
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return a JSON-ready summary: scores, seconds, stop reason, settings, versions, warnings."""
        return {
            "scores": self.scores,
            "folding_fraction": self.folding_fraction,
            "stop_reason": self.stop_reason,
            "seconds": round(self.seconds, 3),
            "settings": self.settings.model_dump(),
            "versions": self.versions,
            "warnings": self.warnings,
        }


def make_result(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    losses: LossHistory,
    stop_reason: StopReason,
    seconds: float,
    warnings: list[str],
    fixed_landmarks: npt.ArrayLike | None,
    moving_landmarks: npt.ArrayLike | None,
) -> Result:
    """Warp and score; ``warnings`` are what was noticed so far."""
    grid = output_grid(fixed, moving, transform, settings)
    warped = warp(moving, transform, grid, fill=settings.fill)
    warped = warped.replace(name=f"{moving.name} -> {fixed.name} ({settings.family})")
    folded = transform.folding_fraction(fixed.grid)
    if folded > 0:
        warnings.append(
            f"{100 * folded:.2f} % of the image is folded over; raise the smoothness or take the diffeomorphic family."
        )
    scores = _scores(fixed, moving, settings, transform, fixed_landmarks, moving_landmarks)
    return Result(
        transform,
        grid,
        warped,
        scores,
        folded,
        losses,
        stop_reason,
        seconds,
        settings,
        package_versions(),
        list(dict.fromkeys(warnings)),
    )


def output_grid(fixed: Image, moving: Image, transform: Transform, settings: RegistrationSettings) -> Grid:
    """Where the warped image lies: the fixed grid, or the fixed lattice over the moving image's or both extents."""
    if settings.extent == "fixed":
        return fixed.grid
    corners = moving.with_unit(fixed.grid.unit).grid
    edge = corners.resized([min(n, 9) for n in corners.shape]).points().reshape(-1, fixed.ndim)
    landed = transform.inverse().map_points(np.concatenate([edge, corners.corners()]))
    if settings.extent == "union":
        return fixed.grid.extended_to(landed)
    index = fixed.grid.to_index(landed)
    start = np.floor(index.min(axis=0) + 0.5).astype(int)
    stop = np.maximum(np.ceil(index.max(axis=0) + 0.5).astype(int), start + 1)
    return fixed.grid.cropped(start.tolist(), stop.tolist())


def _scores(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    fixed_landmarks: npt.ArrayLike | None,
    moving_landmarks: npt.ArrayLike | None,
) -> dict[str, dict[str, float]]:
    """Scores before and after, where both images are defined."""
    channels = settings.fixed_channel, settings.moving_channel
    found = image_scores(fixed, moving, transform, fixed_channel=channels[0], moving_channel=channels[1])
    if fixed_landmarks is not None and moving_landmarks is not None and len(np.asarray(fixed_landmarks)):
        for when, by in (("before", None), ("after", transform)):
            error = landmark_scores(fixed, moving, by, fixed_landmarks, moving_landmarks)
            found[when] |= {f"landmark_{name}": value for name, value in error.to_dict().items()}
    return found
