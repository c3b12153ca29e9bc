"""A sample: two images whose true transform is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image

PointMap = Callable[[npt.ArrayLike], FloatArray]
"""A map of points ``(..., D)``."""


@dataclass(frozen=True)
class Sample:
    """Two images and the exact transform between them.

    Both images are rendered from one continuous scene at the voxel centers, the fixed one through the true map. No
    image is resampled, so no interpolation error enters the ground truth.

    Parameters
    ----------
    name
        Name in menus and files.
    fixed, moving
        The image pair.
    true_map
        Map of fixed world points ``(..., D)`` to moving world points, ``warped(x) = moving(true_map(x))``.
    fixed_points
        Landmarks ``(N, D)`` in the fixed world; see :attr:`moving_points`.
    labels
        Label maps of the fixed and the moving image, or ``None``.
    """

    name: str
    fixed: Image
    moving: Image
    true_map: PointMap
    fixed_points: FloatArray
    labels: tuple[Image, Image] | None = None

    @property
    def moving_points(self) -> FloatArray:
        """Landmarks in the moving world, ``(N, D)``, in the order of ``fixed_points``."""
        return self.true_map(self.fixed_points)

    @property
    def landmarks(self) -> tuple[FloatArray, FloatArray]:
        """Landmarks of the fixed and the moving image."""
        return self.fixed_points, self.moving_points

    def true_displacement(self, grid: Grid | None = None) -> FloatArray:
        """Return the true displacement field ``(D, *shape)`` in world units, on the fixed grid by default."""
        points = (grid or self.fixed.grid).points()
        return np.moveaxis(self.true_map(points) - points, -1, 0)


def to_bytes(values: FloatArray, grid: Grid, seed: int, noise: float = 2.0) -> npt.NDArray[np.uint8]:
    """Convert values from 0 to 1 to a uint8 image of the grid's shape with Gaussian noise, in gray values."""
    grain = np.random.default_rng(seed).normal(0, noise, grid.shape)
    return np.clip(np.rint(values.reshape(grid.shape) * 255 + grain), 0, 255).astype(np.uint8)


def inner_points(grid: Grid, count: int, seed: int, margin: float = 0.22) -> FloatArray:
    """Return well-spread landmarks ``(count, D)`` in the interior of a grid, in world coordinates.

    Farthest-point sampling of random candidates, at least ``margin`` times the size away from the border.
    """
    rng = np.random.default_rng(seed)
    shape = np.asarray(grid.shape)
    candidates = rng.uniform(margin, 1 - margin, (60 * count, grid.ndim)) * (shape - 1)
    chosen = [candidates[0]]
    while len(chosen) < count:
        distance = np.linalg.norm((candidates[:, None] - np.array(chosen)[None]) / shape, axis=-1).min(axis=1)
        chosen.append(candidates[distance.argmax()])
    return grid.to_world(np.array(chosen))
