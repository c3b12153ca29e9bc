"""What a transform does, as arrays: its grid, arrows, magnitude, Jacobian and log-Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.visualization.overlays import grid_lines

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

ARROWS = {2: 24, 3: 14}
"""Arrows along the longest side of a grid, by dimension."""
_FINE_VOXELS = 3_000_000


@dataclass(frozen=True)
class Arrows:
    """Arrows from places of the fixed image to where their values come from.

    Parameters
    ----------
    index
        ``(N, 2, D)``: start and direction in voxels of the grid, float32, as napari's vectors are given; slices of a
        volume then show theirs for any orientation of the grid.
    length
        ``(N,)`` in the transform's unit.
    step
        Voxels between two arrows.
    """

    index: npt.NDArray[np.float32]
    length: FloatArray
    step: int


def arrows(transform: Transform, grid: Grid, along: int | None = None) -> Arrows:
    """Displacement arrows on a thinned grid of the fixed world; ``along`` is their number along its longest side."""
    step = max(int(np.ceil(max(grid.shape) / (along or ARROWS[grid.ndim]))), 1)
    axes = [np.arange((n - 1) % step // 2, n, step) for n in grid.shape]
    start = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.ndim).astype(np.float64)
    in_unit = transform.check_grid(grid)
    world = in_unit.to_world(start)
    moved = transform.map_points(world)
    index = np.stack([start, in_unit.to_index(moved) - start], axis=1).astype(np.float32)
    return Arrows(index, np.asarray(np.linalg.norm(moved - world, axis=1)), step)


def magnitude(transform: Transform, grid: Grid) -> npt.NDArray[np.float32]:
    """Length of the displacement ``T(x) - x`` at every voxel, ``(*grid.shape)``, in the transform's unit."""
    return np.asarray(np.linalg.norm(transform.displacement(grid), axis=0), dtype=np.float32)


def jacobian(transform: Transform, grid: Grid) -> npt.NDArray[np.float32]:
    """Local change of volume, ``(*grid.shape)``: above 1 the fixed side is the smaller one, at 0 and below it folds."""
    return transform.jacobian_determinant(grid)


def log_jacobian(transform: Transform, grid: Grid) -> npt.NDArray[np.float32]:
    """Natural logarithm of :func:`jacobian`: 0 keeps volume, opposite signs are opposite changes; NaN at folds."""
    determinant = transform.jacobian_determinant(grid)
    return np.log(determinant, out=np.full_like(determinant, np.nan), where=determinant > 0)


def deformed_grid(
    transform: Transform, grid: Grid, moving: Grid, *, finer: bool = True
) -> tuple[npt.NDArray[np.uint8], Grid]:
    """Lines of a regular grid over the moving image, drawn on the fixed side as the image is warped.

    Parameters
    ----------
    transform
        Fixed world to moving world.
    grid
        The part of the fixed world to draw on.
    moving
        The grid of the moving image.
    finer
        Whether to draw on a finer grid where that costs little, so that the lines stay lines when one looks closely.

    Returns
    -------
    array, Grid
        uint8, 255 on a line, and its grid. In a volume each slice shows the net in its own plane.
    """
    longest = 1024 if grid.ndim == 2 else 256
    factor = max(longest // max(grid.shape[-2:]), 1) if finer else 1
    while grid.ndim == 3 and factor > 1 and grid.size * factor**2 > _FINE_VOXELS:
        factor -= 1
    fine = grid.resized([*grid.shape[:-2], *(n * factor for n in grid.shape[-2:])])
    mapped = np.empty((*fine.shape, fine.ndim), np.float32)
    for part, points in transform.slabs(fine):
        mapped[part] = points
    width = max(1.2, max(fine.shape[-2:]) / 450)
    return grid_lines(mapped, moving.with_unit(transform.unit), width=width), fine
