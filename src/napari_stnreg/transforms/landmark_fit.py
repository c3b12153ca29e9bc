"""The transform of a family that takes paired points onto each other best, in closed form.

References
----------
Umeyama, Least-squares estimation of transformation parameters between two point patterns, IEEE Transactions on Pattern
Analysis and Machine Intelligence 13, 1991.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.transforms.base import Transform
from napari_stnreg.transforms.linear import AffineTransform
from napari_stnreg.transforms.thin_plate import ThinPlateTransform

_FAMILIES = ("translation", "rigid", "similarity", "affine", "tps")


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
        ``(N, D)`` world coordinates in the same unit; row ``i`` of both is the same place.
    family
        ``"translation"``, ``"rigid"``, ``"similarity"``, ``"affine"`` (least squares) or ``"tps"``.
    unit
        Unit of the coordinates.
    mirror
        Whether a rigid or similarity transform may turn the image over, where that fits better.
    stiffness
        For ``"tps"``: 0 takes every point onto its partner, more bends less.

    Returns
    -------
    Transform
        Fixed world to moving world, ``T(fixed) ~ moving``, in double precision.

    Raises
    ------
    InputError
        If the counts differ, or the points are too few or lie so that they do not fix the transform.
    """
    if family not in _FAMILIES:
        raise InputError(f"Landmarks can fit {', '.join(_FAMILIES)}; not '{family}'.")
    fixed, moving = _checked(fixed_points, moving_points)
    ndim = fixed.shape[1]
    least = {"translation": 1, "rigid": ndim, "similarity": ndim}.get(family, ndim + 1)
    if len(fixed) < least:
        few = f"{len(fixed)} pair{'s' if len(fixed) != 1 else ''} of landmarks"
        raise InputError(f"{few} cannot fix a transform of family '{family}' in {ndim}D; at least {least} are needed.")
    if family == "tps":
        return ThinPlateTransform(fixed, torch.from_numpy(moving.copy()), stiffness, unit)
    if family == "translation":
        return _affine(np.eye(ndim), fixed.mean(axis=0), moving.mean(axis=0), unit)
    needed = ndim if family == "affine" else ndim - 1
    for side, points in (("fixed", fixed), ("moving", moving)):
        if side == "moving" and family == "affine":
            continue  # an affine may flatten; only the side that is mapped has to span the space
        if _rank(points) < needed:
            flat = {0: "at one place", 1: "on one line", 2: "on one plane"}[_rank(points)]
            raise InputError(f"The {side} landmarks all lie {flat}, which does not fix the transform; add one off it.")
    matrix = _least_squares(fixed, moving) if family == "affine" else _umeyama(fixed, moving, family, mirror)
    return _affine(matrix, fixed.mean(axis=0), moving.mean(axis=0), unit)


def _checked(fixed_points: npt.ArrayLike, moving_points: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    fixed = np.asarray(fixed_points, dtype=np.float64)
    moving = np.asarray(moving_points, dtype=np.float64)
    for points in (fixed, moving):
        if points.ndim != 2 or (points.size and points.shape[1] not in (2, 3)):
            raise InputError(f"Landmarks are a list of points in 2D or 3D, not an array of shape {points.shape}.")
        if not np.isfinite(points).all():
            raise InputError("The landmarks hold values that are not finite numbers.")
    if len(fixed) != len(moving):
        raise InputError(
            f"There are {len(fixed)} fixed and {len(moving)} moving landmarks; they are paired by order, so both "
            "need the same number."
        )
    if not len(fixed):
        raise InputError("There are no landmarks.")
    if fixed.shape[1] != moving.shape[1]:
        raise InputError(f"The fixed landmarks are {fixed.shape[1]}D and the moving ones {moving.shape[1]}D.")
    return fixed, moving


def _rank(points: FloatArray) -> int:
    """How many directions the points spread in: 0 at one place, 1 on a line, 2 on a plane."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return int((spread > 1e-6 * max(spread[0], 1e-12 * np.abs(points).max(), 1e-300)).sum()) if spread[0] > 0 else 0


def _least_squares(fixed: FloatArray, moving: FloatArray) -> FloatArray:
    solution = np.linalg.lstsq(fixed - fixed.mean(axis=0), moving - moving.mean(axis=0), rcond=None)[0]
    return np.asarray(solution.T)


def _umeyama(fixed: FloatArray, moving: FloatArray, family: str, mirror: bool) -> FloatArray:
    a, b = fixed - fixed.mean(axis=0), moving - moving.mean(axis=0)
    left, strength, right = np.linalg.svd(b.T @ a)
    signs = np.ones(len(strength))
    # The direction in which the points spread least is the one to turn over; which way is best, the fit says, save
    # for points without spread there, which are left unmirrored.
    turned = np.linalg.det(left @ right) < 0
    if turned and (not mirror or strength[-1] < 1e-9 * strength[0]):
        signs[-1] = -1
    rotation = left * signs @ right
    scale = float((strength * signs).sum() / (a**2).sum()) if family == "similarity" else 1.0
    return np.asarray(scale * rotation)


def _affine(matrix: FloatArray, fixed: FloatArray, moving: FloatArray, unit: str) -> AffineTransform:
    """``T(x) = matrix (x - fixed) + moving``."""
    whole = np.eye(len(matrix) + 1)
    whole[:-1, :-1] = matrix
    whole[:-1, -1] = moving - matrix @ fixed
    return AffineTransform(whole, unit)
