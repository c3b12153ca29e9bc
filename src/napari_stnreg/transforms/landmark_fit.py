"""Least-squares fit of a transform to paired landmarks, in closed form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.landmarks import check_landmarks
from napari_stnreg.core.linalg import affine_matrix, fit_affine, fit_rigid
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.thin_plate import ThinPlateTransform

LANDMARK_FAMILIES = ("translation", "rigid", "similarity", "affine", "tps")
"""Families that landmarks can fit, from the fewest parameters to the most."""


def fewest_pairs(family: str, ndim: int) -> int:
    """Return the number of pairs that determine a transform of a family, in general position."""
    return {"translation": 1, "rigid": ndim, "similarity": ndim}.get(family, ndim + 1)


def from_landmarks(
    fixed_points: npt.ArrayLike,
    moving_points: npt.ArrayLike,
    family: str = "affine",
    *,
    unit: str = "pixel",
    mirror: bool = False,
    stiffness: float = 0.0,
) -> Transform:
    """Fit a transform to landmarks, paired by order.

    Parameters
    ----------
    fixed_points, moving_points
        ``(N, D)`` world coordinates in the same unit, paired by row.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"``, ``"affine"`` (least squares) or ``"tps"``.
    unit
        Unit of the coordinates.
    mirror
        Whether a rigid or similarity transform may mirror the image where that fits better.
    stiffness
        For ``"tps"``: 0 interpolates the landmarks, larger values bend less.

    Returns
    -------
    Transform
        Fixed world to moving world, ``T(fixed) ~ moving``, in double precision.

    Raises
    ------
    InputError
        If the counts differ, or the points do not determine the transform.
    """
    if family not in LANDMARK_FAMILIES:
        raise InputError(f"Landmarks cannot fit '{family}'. Choose from {', '.join(LANDMARK_FAMILIES)}.")
    fixed, moving = check_landmarks(fixed_points, moving_points)
    ndim = fixed.shape[1]
    least = fewest_pairs(family, ndim)
    if len(fixed) < least:
        few = f"{len(fixed)} pair{'s' if len(fixed) != 1 else ''} of landmarks"
        raise InputError(
            f"{few} do not determine a transform of family '{family}' in {ndim}D. At least {least} are needed."
        )
    if family == "tps":
        return ThinPlateTransform(fixed, torch.from_numpy(moving.copy()), stiffness, unit)
    if family == "translation":
        return AffineTransform(affine_matrix(np.eye(ndim), moving.mean(axis=0) - fixed.mean(axis=0)), unit)
    needed = ndim if family == "affine" else ndim - 1
    for side, points in (("fixed", fixed), ("moving", moving)):
        if side == "moving" and family == "affine":
            continue  # an affine map may be singular; only the fixed points have to span the space
        if _rank(points) < needed:
            flat = {0: "at one place", 1: "on one line", 2: "on one plane"}[_rank(points)]
            raise InputError(
                f"The {side} landmarks all lie {flat}, which does not determine the transform. Add a point elsewhere."
            )
    if family == "affine":
        return AffineTransform(fit_affine(fixed, moving), unit)
    matrix = fit_rigid(fixed, moving, scale=family == "similarity", reflection="allowed" if mirror else "never")
    return AffineTransform(matrix, unit)


def _rank(points: FloatArray) -> int:
    """Return the dimension of the affine hull: 0 for a single position, 1 on a line, 2 in a plane."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return int((spread > 1e-6 * max(spread[0], 1e-12 * np.abs(points).max(), 1e-300)).sum()) if spread[0] > 0 else 0
