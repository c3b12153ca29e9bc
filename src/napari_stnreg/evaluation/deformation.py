"""Local change of volume and folding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.evaluation.arrays import FloatArray, Spacing


def jacobian_determinant(displacement: npt.ArrayLike, spacing: Spacing = 1.0) -> FloatArray:
    """Local change of volume of ``x -> x + u(x)``, ``(*shape)``; at 0 and below the map folds.

    Parameters
    ----------
    displacement
        ``(D, *shape)`` along the grid's own axes, in units of ``spacing`` (voxels if that is 1).
    spacing
        Voxel size along each axis.

    Notes
    -----
    Central differences, one-sided at the border.
    """
    u = np.asarray(displacement, dtype=np.float64)
    ndim = u.ndim - 1
    if len(u) != ndim:
        raise InputError(f"A displacement field in {ndim}D has {ndim} components first, not {len(u)}.")
    steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), ndim)
    matrix = np.zeros((*u.shape[1:], ndim, ndim))
    for axis, step in enumerate(steps):
        if u.shape[axis + 1] > 1:
            matrix[..., axis] = np.moveaxis(np.gradient(u, step, axis=axis + 1), 0, -1)
    return np.asarray(np.linalg.det(matrix + np.eye(ndim)))


def folding_fraction(determinant: npt.ArrayLike, border: int = 4) -> float:
    """Share of voxels whose Jacobian determinant is 0 or less, without a rim of ``border`` voxels.

    An axis too short to lose the rim keeps all of its voxels.
    """
    values = np.asarray(determinant)
    inside = tuple(slice(border, n - border) if n > 2 * border else slice(None) for n in values.shape)
    return float(np.mean(values[inside] <= 0))
