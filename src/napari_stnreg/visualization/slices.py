"""Small pictures of a registration: overlays before and after, and the deformed grid, in the middle slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.resampling.warp import warp
from napari_stnreg.visualization.deformation import deformed_grid
from napari_stnreg.visualization.overlays import overlay, rescaled

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform

WARPED_BRIGHTNESS = 110
"""Gray value of the brightest voxels behind the lines of the deformed grid."""


def registration_pictures(
    fixed: Image,
    moving: Image,
    transform: Transform,
    *,
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
    max_side: int = 256,
) -> dict[str, npt.NDArray[np.uint8]]:
    """Draw ``"before"`` and ``"after"`` (fixed in green, moving in magenta) and ``"grid"``, the deformed grid.

    Parameters
    ----------
    fixed, moving
        The pair; of volumes the middle slice along the first axis of the fixed image is shown.
    transform
        Fixed world to moving world.
    fixed_channel, moving_channel
        Channel to show; luminance or mean by default.
    max_side
        Longest side of the pictures in pixels.

    Returns
    -------
    dict
        uint8 ``(y, x, 3)`` for the overlays and ``(y, x)`` for the grid.
    """
    grid = fixed.grid
    if grid.ndim == 3:
        middle = grid.shape[0] // 2
        grid = grid.cropped((middle, 0, 0), (middle + 1, *grid.shape[1:]))
    step = max(int(np.ceil(max(grid.shape) / max_side)), 1)
    small = grid.resized([*grid.shape[:-2], *(max(n // step, 1) for n in grid.shape[-2:])])
    reference = _slice(fixed, fixed_channel, small, None)
    before = _slice(moving, moving_channel, small, None)
    after = _slice(moving, moving_channel, small, transform)
    lines = _grid_lines(transform, small, moving)
    background = (after * WARPED_BRIGHTNESS).astype(np.uint8)
    return {
        "before": overlay(reference, before),
        "after": overlay(reference, after),
        "grid": np.maximum(background, lines),
    }


def _slice(image: Image, channel: int | None, grid: Grid, transform: Transform | None) -> npt.NDArray[np.float32]:
    plain = image.replace(data=np.nan_to_num(image.intensity(channel)), rgb=False, mask=None)
    warped = warp(plain, transform, grid, "linear")
    return np.asarray(rescaled(warped.data, warped.mask).reshape(grid.shape[-2:]), dtype=np.float32)


def _grid_lines(transform: Transform, grid: Grid, moving: Image) -> npt.NDArray[np.uint8]:
    lines, _ = deformed_grid(transform, grid, moving.grid)
    lines = np.asarray(lines).reshape(lines.shape[-2], lines.shape[-1])
    # the lines are drawn on a finer lattice: each pixel shows the brightest value within it
    rows, columns = (int(n) for n in grid.shape[-2:])
    blocks = lines.reshape(rows, lines.shape[0] // rows, columns, lines.shape[1] // columns)
    return np.asarray(blocks.max(axis=3).max(axis=1))
