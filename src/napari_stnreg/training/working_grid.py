"""Size of the images that a network receives."""

from __future__ import annotations

from napari_stnreg.core.grid import Grid

WORKING_SIZE = {2: 256, 3: 96}
"""Default longest side in pixels, by dimension."""


def working_grid(grid: Grid, size: int | None = None) -> Grid:
    """Return the grid over the same extent whose longest side is at most the working size.

    Parameters
    ----------
    grid
        Of the images.
    size
        Longest side in pixels; :data:`WORKING_SIZE` if not given.
    """
    longest = max(grid.shape)
    limit = size or WORKING_SIZE[grid.ndim]
    if longest <= limit:
        return grid
    return grid.resized([max(round(n * limit / longest), 1) for n in grid.shape])
