"""Primitives of generated scenes and true maps: plane waves, rotations, soft edges, cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_stnreg.core.grid import FloatArray
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.datasets.sample import PointMap


@dataclass(frozen=True)
class PlaneWaves:
    """A smooth displacement field: a sum of plane waves, each with its own direction of displacement.

    Parameters
    ----------
    directions
        Wave vectors ``(K, D)``, radians per world unit.
    phases
        ``(K,)``, radians.
    amplitudes
        Displacement of each wave ``(K, D)``, world units.
    """

    directions: FloatArray
    phases: FloatArray
    amplitudes: FloatArray

    def __call__(self, points: npt.ArrayLike) -> FloatArray:
        """Return the displacement ``(..., D)`` at points ``(..., D)``."""
        angle = np.asarray(points, dtype=np.float64) @ self.directions.T + self.phases
        return np.asarray(np.sin(angle) @ self.amplitudes)

    @classmethod
    def random(cls, seed: int, ndim: int, wavelength: float, height: float, count: int = 5) -> PlaneWaves:
        """Draw waves with lengths of about ``wavelength`` whose sum is at most ``height`` along every axis."""
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(count, ndim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions *= 2 * np.pi / (wavelength * rng.uniform(0.85, 1.4, (count, 1)))
        amplitudes = rng.normal(size=(count, ndim))
        amplitudes *= height / np.abs(amplitudes).sum(axis=0).max()
        return cls(directions, rng.uniform(0, 2 * np.pi, count), amplitudes)


def round_binary(values: npt.ArrayLike, bits: int = 20) -> FloatArray:
    """Round to multiples of ``2**-bits``.

    Sines, exponentials and matrix products differ in the last bits between processors. Values that seed a random
    generator or are compared with a threshold are rounded first, so that every processor decides in the same way. A
    value next to the boundary between two multiples may still round differently; with an error of 1e-13 and 20 bits the
    chance is 1e-7 per value.

    Parameters
    ----------
    values
        Any shape.
    bits
        Fractional binary digits to keep.

    Returns
    -------
    array of float64
        The rounded values, exact multiples of ``2**-bits``.
    """
    return np.asarray(np.rint(np.ldexp(np.asarray(values, dtype=np.float64), bits)) * 2.0**-bits)


def rotation_3d(z: float, y: float, x: float) -> FloatArray:
    """Return the rotation in (z, y, x) by degrees about the three axes, about x first."""
    about_z, about_y, about_x = np.eye(3), np.eye(3), np.eye(3)
    about_z[1:, 1:] = rotation_2d(np.deg2rad(z))
    about_y[::2, ::2] = rotation_2d(np.deg2rad(y))
    about_x[:2, :2] = rotation_2d(np.deg2rad(x))
    return about_z @ about_y @ about_x


def affine_about(linear: FloatArray, center: npt.ArrayLike, shift: npt.ArrayLike) -> PointMap:
    """Return the affine map ``linear @ (x - center) + center + shift``."""
    center = np.asarray(center, dtype=np.float64)
    target = center + np.asarray(shift, dtype=np.float64)
    return lambda points: (np.asarray(points, dtype=np.float64) - center) @ linear.T + target


def soft_step(distance: npt.ArrayLike, softness: float) -> FloatArray:
    """Return a smooth step of a signed distance: 0 outside (negative), 1 inside (positive), over about ``softness``."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.asarray(distance) / softness))


def blend(image: FloatArray, mask: FloatArray, value: npt.ArrayLike) -> FloatArray:
    """Blend a value over an image with a mask from 0 to 1."""
    return image + mask * (np.asarray(value) - image)


def nearest_seeds(points: FloatArray, seeds: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """Return the seed ``(K, D)`` nearest to each point ``(N, D)``, and the distances to the two nearest seeds."""
    distance, index = cKDTree(seeds).query(points, k=2)
    return index[:, 0], distance[:, 0], distance[:, 1]
