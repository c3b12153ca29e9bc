"""A handwritten three, and the same digit in another handwriting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.spatial.distance import cdist

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.datasets.primitives import affine_about, soft_step
from napari_stnreg.datasets.sample import PointMap, Sample, to_bytes

# A handwritten three: points (y, x) of a smooth line, in the unit square.
_STROKE = [(0.20, 0.27), (0.13, 0.46), (0.19, 0.66), (0.34, 0.66), (0.44, 0.45), (0.50, 0.62), (0.66, 0.73),
           (0.82, 0.62), (0.86, 0.42), (0.77, 0.25)]  # fmt: skip


def digit_pair(size: int = 128, seed: int = 11) -> Sample:
    """Make a 2D pair of a digit in two hands: slanted, rotated and bent by a thin-plate spline; unit: pixels.

    Parameters
    ----------
    size
        Pixels along each side.
    seed
        Of the noise.
    """
    grid = Grid.from_spacing((size, size))
    # The lean of another hand, and what it does to the bows: pushes at nine points, smooth in between.
    lean = np.array([[0.92, 0.04], [0.20, 1.05]]) @ rotation_2d(np.deg2rad(-9))
    linear = affine_about(lean, [size / 2] * 2, np.array([0.0, -0.03]) * size)
    knots = np.stack(np.meshgrid([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], indexing="ij"), axis=-1).reshape(-1, 2) * size
    pushes = np.random.default_rng(5).uniform(-0.045, 0.045, (9, 2)) * size
    bend = thin_plate(knots, pushes)

    def true_map(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        return linear(points) + bend(points)

    line = (0.5 + 0.80 * (_curve() - [0.5, 0.47])) * size
    images = []
    for name, where, grain in (("digit_fixed", true_map, seed), ("digit_moving", np.asarray, seed + 1)):
        values = _scene(np.asarray(where(grid.points())).reshape(-1, 2), line, size)
        images.append(Image(to_bytes(values, grid, grain, noise=1.0), grid, name=name))
    ring = np.array([[0.2, 0.35], [0.2, 0.65], [0.45, 0.5], [0.6, 0.68], [0.8, 0.6], [0.8, 0.32]]) * size
    return Sample("digit", images[0], images[1], true_map, ring)


def thin_plate(knots: FloatArray, values: FloatArray) -> PointMap:
    """Interpolate ``(K, D)`` values at ``(K, 2)`` knots by a thin-plate spline."""
    count = len(knots)
    flat = np.column_stack([np.ones(count), knots])
    system = np.block([[_kernel(knots, knots), flat], [flat.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, values.shape[1]))]))

    def spline(points: npt.ArrayLike) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        return np.asarray(_kernel(points, knots) @ weights[:count] + weights[count] + points @ weights[count + 1 :])

    return spline


def _kernel(points: FloatArray, knots: FloatArray) -> FloatArray:
    """Return ``r**2 log r`` for all distances ``(..., K)``; zero at zero."""
    squared = ((points[..., None, :] - knots) ** 2).sum(axis=-1)
    return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)))


def _curve() -> FloatArray:
    """Return the stroke as 240 points ``(240, 2)`` on a smooth curve."""
    points = np.array(_STROKE)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return np.asarray(CubicSpline(along, points)(np.linspace(0, along[-1], 240)))


def _scene(points: FloatArray, line: FloatArray, size: int) -> FloatArray:
    """Brightness 0 to 1 at points ``(N, 2)``: white ink on black, thicker where the pen pressed."""
    pressure = size * (0.044 + 0.012 * np.sin(np.pi * 2.5 * np.arange(len(line)) / len(line) + 0.6))
    # How deep inside the ink: the deepest over all discs that the pen drew, which has no jumps.
    depth = (pressure - cdist(points, line)).max(axis=1)
    core = 0.82 + 0.18 * np.clip(depth / pressure.max(), 0, 1)
    return np.asarray(soft_step(depth, 0.010 * size) * core)
