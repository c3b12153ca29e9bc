"""Rotation matrices, homogeneous matrices, and least-squares fits of linear maps to paired points.

Points are rows ``(N, D)``; homogeneous matrices ``(D + 1, D + 1)`` act on columns, ``y = A x + t``.

References
----------
Kabsch, A solution for the best rotation to relate two sets of vectors, Acta Crystallographica A 32, 1976.
Umeyama, Least-squares estimation of transformation parameters between two point patterns, IEEE Transactions on Pattern
Analysis and Machine Intelligence 13, 1991.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def rotation_2d(angle: float) -> FloatArray:
    """Return the ``(2, 2)`` rotation by an angle in radians, from the first axis toward the second."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def planar_rotations(step: int) -> list[FloatArray]:
    """Return the ``(2, 2)`` rotations by all multiples of an angle in degrees below 360, the identity first."""
    return [rotation_2d(math.radians(step * k)) for k in range(360 // step)]


def nearby_rotations(ndim: int, angle: float) -> list[FloatArray]:
    """Return the identity and the rotations by minus and plus an angle in radians in each plane of two axes."""
    found = [np.eye(ndim)]
    for plane in itertools.combinations(range(ndim), 2):
        for signed in (-angle, angle):
            rotation = np.eye(ndim)
            rotation[np.ix_(plane, plane)] = rotation_2d(signed)
            found.append(rotation)
    return found


def rotation_from_vector(vector: npt.ArrayLike) -> FloatArray:
    """Return the ``(3, 3)`` rotation about a rotation vector: its direction is the axis, its length the angle."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(vector).as_matrix())


def rotation_from_quaternion(quaternion: npt.ArrayLike) -> FloatArray:
    """Return the ``(3, 3)`` rotation of a quaternion ``(w, x, y, z)``, which need not have unit length."""
    from scipy.spatial.transform import Rotation

    w, *vector = np.asarray(quaternion, dtype=np.float64)
    return np.asarray(Rotation.from_quat([*vector, w]).as_matrix())


def rotation_from_euler(order: str, angles: npt.ArrayLike, *, degrees: bool = False) -> FloatArray:
    """Return the ``(3, 3)`` rotation of Euler angles; ``order`` as in :class:`scipy.spatial.transform.Rotation`.

    ``"ZYX"`` with angles ``(a, b, c)`` is ``Rz(a) @ Ry(b) @ Rx(c)``.
    """
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler(order, angles, degrees=degrees).as_matrix())


def affine_matrix(linear: npt.ArrayLike, translation: npt.ArrayLike = 0.0, center: npt.ArrayLike = 0.0) -> FloatArray:
    """Return the homogeneous matrix of ``x -> linear (x - center) + center + translation``."""
    linear = np.asarray(linear, dtype=np.float64)
    center = np.broadcast_to(np.asarray(center, dtype=np.float64), len(linear))
    matrix = np.eye(len(linear) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = translation + center - linear @ center
    return matrix


def fit_affine(source: npt.ArrayLike, target: npt.ArrayLike) -> FloatArray:
    """Fit the affine map that takes points onto their partners with the least squared distance.

    Parameters
    ----------
    source, target
        ``(N, D)``, paired by row. The source must span the space for the fit to be unique; otherwise the map of
        minimum norm is returned.

    Returns
    -------
    array
        Homogeneous ``(D + 1, D + 1)``, source to target.
    """
    a, b, from_center, to_center = _centered(source, target)
    linear = np.linalg.lstsq(a, b, rcond=None)[0].T
    return affine_matrix(linear, to_center - from_center, from_center)


def fit_rigid(
    source: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    scale: bool = False,
    reflection: Literal["never", "allowed", "required"] = "never",
) -> FloatArray:
    """Fit the rigid or similarity map that takes points onto their partners with the least squared distance.

    Parameters
    ----------
    source, target
        ``(N, D)``, paired by row.
    scale
        Also fit one scale factor for all axes (Umeyama); otherwise the fit is a rotation and a shift (Kabsch).
    reflection
        Whether the map may be, or must be, a mirror image. ``"allowed"`` mirrors where that fits better, and never if
        the points do not spread along the mirrored direction.

    Returns
    -------
    array
        Homogeneous ``(D + 1, D + 1)``, source to target.
    """
    a, b, from_center, to_center = _centered(source, target)
    left, strength, right = np.linalg.svd(b.T @ a)
    signs = np.ones(len(strength))
    mirrors = bool(np.linalg.det(left @ right) < 0)
    # The direction with the least spread is the one to mirror.
    flip = {
        "never": mirrors,
        "allowed": mirrors and strength[-1] < 1e-9 * strength[0],
        "required": not mirrors,
    }[reflection]
    if flip:
        signs[-1] = -1
    linear = left * signs @ right
    if scale:
        linear = linear * float((strength * signs).sum() / (a**2).sum())
    return affine_matrix(linear, to_center - from_center, from_center)


def _centered(source: npt.ArrayLike, target: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    from_center, to_center = a.mean(axis=0), b.mean(axis=0)
    return a - from_center, b - to_center, from_center, to_center
