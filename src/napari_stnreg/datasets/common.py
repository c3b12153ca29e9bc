"""What every sample has, and the pieces that their scenes and true maps are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image

PointMap = Callable[[npt.ArrayLike], FloatArray]


@dataclass(frozen=True)
class Sample:
    """Two images and the transform between them, known without error.

    Both images are drawn by evaluating one continuous scene at the voxel centers, the fixed one through the true map:
    no image was ever resampled, so nothing that is measured against the truth was used to make it.

    Parameters
    ----------
    name
        What it is called in menus and files.
    fixed, moving
        The pair.
    true_map
        World points ``(..., D)`` of the fixed image to those of the moving one, ``warped(x) = moving(true_map(x))``.
    fixed_points
        Landmarks ``(N, D)`` in the fixed world; see :attr:`moving_points`.
    labels
        Label maps of fixed and moving, or ``None``.
    """

    name: str
    fixed: Image
    moving: Image
    true_map: PointMap
    fixed_points: FloatArray
    labels: tuple[Image, Image] | None = None

    @property
    def moving_points(self) -> FloatArray:
        """Where the landmarks lie in the moving world, ``(N, D)``, in the same order."""
        return self.true_map(self.fixed_points)

    @property
    def landmarks(self) -> tuple[FloatArray, FloatArray]:
        """Landmarks of fixed and moving."""
        return self.fixed_points, self.moving_points

    def true_displacement(self, grid: Grid | None = None) -> FloatArray:
        """The true displacement field ``(D, *shape)`` in world units, on the fixed grid unless another is given."""
        points = (grid or self.fixed.grid).points()
        return np.moveaxis(self.true_map(points) - points, -1, 0)


@dataclass(frozen=True)
class Waves:
    """A smooth displacement: a few plane waves, each pushing in a direction of its own.

    Parameters
    ----------
    directions
        ``(K, D)`` wave vectors, radians per world unit.
    phases
        ``(K,)`` radians.
    pushes
        ``(K, D)`` world units.
    """

    directions: FloatArray
    phases: FloatArray
    pushes: FloatArray

    def __call__(self, points: npt.ArrayLike) -> FloatArray:
        """Displacement ``(..., D)`` at points ``(..., D)``."""
        angle = np.asarray(points, dtype=np.float64) @ self.directions.T + self.phases
        return np.asarray(np.sin(angle) @ self.pushes)

    @classmethod
    def random(cls, seed: int, ndim: int, wavelength: float, height: float, count: int = 5) -> Waves:
        """Waves whose length is about ``wavelength`` and whose sum stays below ``height`` in every direction."""
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(count, ndim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions *= 2 * np.pi / (wavelength * rng.uniform(0.85, 1.4, (count, 1)))
        pushes = rng.normal(size=(count, ndim))
        pushes *= height / np.abs(pushes).sum(axis=0).max()
        return cls(directions, rng.uniform(0, 2 * np.pi, count), pushes)


def round_binary(values: npt.ArrayLike, bits: int = 20) -> FloatArray:
    """Round to multiples of ``2**-bits``.

    Sines, exponentials and matrix products differ in the last bits between processors. Values that seed a random
    generator or are compared with a threshold are rounded first, so that every processor decides alike. A value next
    to the boundary between two multiples may still round differently; with an error of 1e-13 and 20 bits the chance is
    1e-7 per value.

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


def rotation_2d(degrees: float) -> FloatArray:
    """Rotation matrix in (y, x)."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def rotation_3d(z: float, y: float, x: float) -> FloatArray:
    """Rotation in (z, y, x) by degrees about the three axes, about x first."""
    about_z, about_y, about_x = np.eye(3), np.eye(3), np.eye(3)
    about_z[1:, 1:] = rotation_2d(z)
    about_y[::2, ::2] = rotation_2d(y)
    about_x[:2, :2] = rotation_2d(x)
    return about_z @ about_y @ about_x


def about(linear: FloatArray, center: npt.ArrayLike, shift: npt.ArrayLike) -> PointMap:
    """The affine map ``linear @ (x - center) + center + shift``."""
    center = np.asarray(center, dtype=np.float64)
    moved = center + np.asarray(shift, dtype=np.float64)
    return lambda points: (np.asarray(points, dtype=np.float64) - center) @ linear.T + moved


def step(distance: npt.ArrayLike, softness: float) -> FloatArray:
    """From 0 outside (negative) to 1 inside (positive), over about ``softness``."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.asarray(distance) / softness))


def paint(canvas: FloatArray, mask: FloatArray, value: npt.ArrayLike) -> FloatArray:
    """The canvas with a value laid over it where the mask is 1."""
    return canvas + mask * (np.asarray(value) - canvas)


def nearest_seeds(points: FloatArray, seeds: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """Index of the nearest of ``(K, D)`` seeds to points ``(N, D)``, and the distances to the two nearest."""
    distance, index = cKDTree(seeds).query(points, k=2)
    return index[:, 0], distance[:, 0], distance[:, 1]


def to_bytes(values: FloatArray, grid: Grid, seed: int, noise: float = 2.0) -> npt.NDArray[np.uint8]:
    """Values 0 to 1 as a uint8 image of the grid's shape, with a little noise as every camera has."""
    grain = np.random.default_rng(seed).normal(0, noise, grid.shape)
    return np.clip(np.rint(values.reshape(grid.shape) * 255 + grain), 0, 255).astype(np.uint8)


def inner_points(grid: Grid, count: int, seed: int, margin: float = 0.22) -> FloatArray:
    """Well-spread landmarks ``(count, D)`` in the middle of a grid, in world coordinates."""
    rng = np.random.default_rng(seed)
    shape = np.asarray(grid.shape)
    candidates = rng.uniform(margin, 1 - margin, (60 * count, grid.ndim)) * (shape - 1)
    chosen = [candidates[0]]
    while len(chosen) < count:
        distance = np.linalg.norm((candidates[:, None] - np.array(chosen)[None]) / shape, axis=-1).min(axis=1)
        chosen.append(candidates[distance.argmax()])
    return grid.to_world(np.array(chosen))
