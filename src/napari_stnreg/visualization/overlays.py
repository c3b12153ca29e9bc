"""What a registration looks like: overlay, deformed grid, checkerboard and difference as plain arrays.

The deformed grid is drawn the way the image is warped: a voxel ``x`` of the fixed
grid is on a line exactly where ``T(x)`` is on a line of a regular grid over the moving image. A feature on a line
of the moving image is therefore on the drawn line of the warped one, and no inverse is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_stnreg.core.grid import Grid

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

GRID_CELLS = {2: 16, 3: 10}
"""Cells of the regular grid along the longest side of the moving image, by dimension."""

LATTICE_CELLS = 6
"""The same for the lattice of the 3D view, where all lines are seen at once."""


def cells_of(moving: Grid, cells: int | None = None) -> np.ndarray:
    """Return the number of nearly square grid cells along each axis of the moving image."""
    extent = moving.spacing * np.asarray(moving.shape)
    return np.asarray(np.maximum(np.rint(extent / (extent.max() / (cells or GRID_CELLS[moving.ndim]))), 1))


def lattice_lines(inverse: Transform, moving: Grid, pieces: int = 18) -> np.ndarray:
    """Map the lines of a lattice over a moving volume to the fixed side, for the 3D view.

    Parameters
    ----------
    inverse
        Moving world to fixed world: points of the moving side go to the fixed side by the inverse.
    moving
        The grid of the moving image, in the transform's unit.
    pieces
        Straight pieces that each line is made of.

    Returns
    -------
    array
        ``(N, 2, D)``: start and direction of every piece in the fixed world, as napari's vectors are given.
    """
    cells = cells_of(moving, LATTICE_CELLS).astype(int)
    ends = [np.linspace(-0.5, n - 0.5, c + 1) for n, c in zip(moving.shape, cells, strict=True)]
    lines = []
    for axis in range(moving.ndim):
        along = np.linspace(-0.5, moving.shape[axis] - 0.5, pieces + 1)
        axes = [along if i == axis else ends[i] for i in range(moving.ndim)]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        lines.append(np.moveaxis(index, axis, -2).reshape(-1, pieces + 1, moving.ndim))
    index = np.concatenate(lines)
    fixed = inverse.map_points(moving.to_world(index).reshape(-1, moving.ndim)).reshape(index.shape)
    pairs = np.stack([fixed[:, :-1], np.diff(fixed, axis=1)], axis=2)
    return pairs.reshape(-1, 2, moving.ndim).astype(np.float32)


def grid_lines(mapped: np.ndarray, moving: Grid, *, width: float = 1.0) -> np.ndarray:
    """Draw the deformed grid; in a volume, the net that each slice along the first axis shows.

    Parameters
    ----------
    mapped
        Where the voxels of the picture land in the moving world, ``(*shape, D)``, in the moving grid's unit.
    moving
        The grid of the moving image; lines run along its axes and its outline is drawn too.
    width
        Width of a line in voxels of the picture.

    Returns
    -------
    array
        uint8 ``(*shape)``, 255 on a line, antialiased.
    """
    ndim = moving.ndim
    cells = cells_of(moving)
    position = (moving.to_index(mapped) + 0.5) / np.asarray(moving.shape) * cells
    outside = ((position < -0.02 * cells / cells.max()) | (position > cells * 1.002)).any(axis=-1)
    families = []
    # In a slice of a volume the planes nearly parallel to it would be blots: only the last two axes are drawn there.
    for axis in range(ndim - 2, ndim):
        q = position[..., axis]
        # In a slice only what happens within the slice sets the width of a line.
        steps = [np.gradient(q, axis=along) for along in range(ndim - 2, ndim)]
        slope = np.sqrt(sum(np.square(step) for step in steps)) + 1e-9
        distance = np.abs(q - np.rint(q)) / slope
        families.append(np.clip(0.5 + width / 2 - distance, 0, 1))
    alpha = np.max(families, axis=0)
    alpha[outside] = 0
    return np.asarray(np.rint(alpha * 255), dtype=np.uint8)


def rescaled(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Rescale the 1st to 99.5th percentile to 0..1 as float32; infinities and NaN become 0."""
    values = np.asarray(values, dtype=np.float32)
    limits = limits_of(values, mask)
    scaled = (values - limits[0]) / max(limits[1] - limits[0], 1e-12)
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1).astype(np.float32)


def limits_of(values: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 1st and 99.5th percentile of the finite values, from at most about 100,000 of them."""
    chosen = values[mask] if mask is not None and mask.any() else values.reshape(-1)
    chosen = chosen[:: max(chosen.size // 100_000, 1)]
    chosen = chosen[np.isfinite(chosen)]
    if not chosen.size:
        return 0.0, 1.0
    low, high = np.percentile(chosen, (1, 99.5))
    if high <= low:
        low, high = float(chosen.min()), float(chosen.max())
    return float(low), float(high) if high > low else float(low) + 1.0


def overlay(fixed: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """Fixed in green, warped in magenta, uint8 ``(*shape, 3)``: gray where they agree. Both from 0 to 1."""
    out = np.empty((*fixed.shape, 3), dtype=np.uint8)
    np.multiply(fixed, 255, out=out[..., 1], casting="unsafe")
    np.multiply(warped, 255, out=out[..., 0], casting="unsafe")
    out[..., 2] = out[..., 0]
    return out


def checkerboard(fixed: np.ndarray, warped: np.ndarray, squares: int = 8) -> np.ndarray:
    """Squares (cubes in 3D) of the one and the other in turn, float32; both from 0 to 1."""
    size = max(max(fixed.shape) / squares, 1)
    parity = sum(np.ix_(*((np.arange(n) // size).astype(np.int64) for n in fixed.shape))) % 2
    return np.where(parity == 0, fixed, warped).astype(np.float32)
