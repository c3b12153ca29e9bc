"""Where a user has placed an image by hand: shift, rotation, scale, and mirror, as numbers and as a matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import affine_matrix, rotation_2d, rotation_from_euler


@dataclass(frozen=True, eq=False)
class Placement:
    """A map of the world that places an image, ``x -> R s K (x - c) + c + t``.

    Parameters
    ----------
    center
        ``c``, the center of the image at its original place, ``(D,)`` in world units.
    shift
        ``t``, ``(D,)``.
    angles
        Degrees: one in 2D, from the first axis toward the second; in 3D rotations about the z, y and x axis, applied
        in this order.
    scale
        ``s``.
    rest
        ``K``, ``(D, D)``: mirror images and different scales of the axes.
    """

    center: FloatArray
    shift: FloatArray
    angles: FloatArray
    scale: float = 1.0
    rest: FloatArray | None = None

    @classmethod
    def at_origin(cls, center: npt.ArrayLike) -> Placement:
        """Return the placement that leaves an image where it is."""
        where = np.asarray(center, dtype=np.float64)
        return cls(where, np.zeros(len(where)), np.zeros(1 if len(where) == 2 else 3))

    @classmethod
    def from_matrix(cls, matrix: npt.ArrayLike, center: npt.ArrayLike) -> Placement:
        """Split an affine map of the world ``(D + 1, D + 1)`` into a placement.

        Raises
        ------
        InputError
            If the map is singular or not finite.
        """
        full, where = np.asarray(matrix, dtype=np.float64), np.asarray(center, dtype=np.float64)
        linear = full[:-1, :-1]
        determinant = float(np.linalg.det(linear)) if np.isfinite(full).all() else 0.0
        if abs(determinant) < 1e-12:
            raise InputError("The placement is flat or not finite. Reset it.")
        mirror = np.eye(len(where))
        if determinant < 0:
            mirror[-1, -1] = -1
        left, stretch, right = np.linalg.svd(linear @ mirror)
        rotation = left @ right
        scale = abs(determinant) ** (1 / len(where))
        rest = right.T @ np.diag(stretch / scale) @ right @ mirror
        shift = linear @ where + full[:-1, -1] - where
        return cls(where, shift, _angles(rotation), float(scale), rest)

    @property
    def matrix(self) -> FloatArray:
        """Homogeneous ``(D + 1, D + 1)``."""
        ndim = len(self.center)
        if ndim == 2:
            rotation = rotation_2d(float(np.deg2rad(self.angles[0])))
        else:
            # scipy's x, y and z are the first, second and third axis: z, y and x here.
            rotation = rotation_from_euler("xyz", self.angles, degrees=True)
        rest = np.eye(ndim) if self.rest is None else self.rest
        return affine_matrix(self.scale * rotation @ rest, self.shift, self.center)

    @property
    def mirrors(self) -> bool:
        """Whether the image is mirrored."""
        return bool(np.linalg.det(self.matrix[:-1, :-1]) < 0)

    def flipped(self, axis: int) -> Placement:
        """Mirror the placed image along an axis of the world, about its center."""
        flip = np.eye(len(self.center))
        flip[axis, axis] = -1
        return self._turned(flip)

    def rotated(self, degrees: float, plane: tuple[int, int] = (-2, -1)) -> Placement:
        """Rotate the placed image in the plane of two axes, from the first toward the second, about its center."""
        turn = np.eye(len(self.center))
        turn[np.ix_(plane, plane)] = rotation_2d(float(np.deg2rad(degrees)))
        return self._turned(turn)

    def centered_on(self, point: npt.ArrayLike) -> Placement:
        """Shift the center of the image to a point."""
        return replace(self, shift=np.asarray(point, dtype=np.float64) - self.center)

    def _turned(self, change: FloatArray) -> Placement:
        here = self.center + self.shift
        return Placement.from_matrix(affine_matrix(change, 0.0, here) @ self.matrix, self.center)


def _angles(rotation: FloatArray) -> FloatArray:
    if len(rotation) == 2:
        return np.array([np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0]))])
    import warnings

    from scipy.spatial.transform import Rotation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gimbal lock: one of many equal sets of angles
        return np.asarray(Rotation.from_matrix(rotation).as_euler("xyz", degrees=True))
