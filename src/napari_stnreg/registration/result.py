"""What a registration leaves: the warped image, its scores, what a person should be told."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.image import Grid, Image
from napari_stnreg.core.provenance import versions
from napari_stnreg.evaluation.scorecard import image_scores, landmark_scores
from napari_stnreg.registration.pair import Losses
from napari_stnreg.registration.progress import Ending, Result
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.warp import warp
from napari_stnreg.transforms import Transform


def make_result(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings,
    transform: Transform,
    losses: Losses,
    ending: Ending,
    seconds: float,
    warnings: list[str],
    fixed_landmarks: npt.ArrayLike | None,
    moving_landmarks: npt.ArrayLike | None,
) -> Result:
    """Warp and score; ``warnings`` are what was noticed so far."""
    grid = output_grid(fixed, moving, transform, settings)
    warped = warp(moving, transform, grid, fill=settings.fill)
    warped = warped.replace(name=f"{moving.name} -> {fixed.name} ({settings.family})")
    determinant = transform.jacobian_determinant(fixed.grid)
    # a mirrored start or landmarks turn the whole image over, which is no fold
    orientation = float(np.sign(np.median(determinant)) or 1.0)
    folded = float((determinant * orientation <= 0).mean())
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
        ending,
        seconds,
        settings,
        versions(),
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
        return fixed.grid.union(landed)
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
