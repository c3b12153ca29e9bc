"""Pictures of a transform as napari layer data: deformed grid, displacement vectors, Jacobian determinant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import Colormap

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.napari_layers import AXIS_LABELS, LayerData, placement
from napari_stnreg.visualization.deformation import arrows, deformed_grid
from napari_stnreg.visualization.overlays import lattice_lines

if TYPE_CHECKING:
    from napari_stnreg.transforms.base import Transform


GRID_COLORMAP = Colormap(
    [[1.0, 0.62, 0.0, 0.0], [1.0, 0.62, 0.0, 1.0]], name="stnreg grid", display_name="deformed grid"
)
"""From transparent to orange, which is visible on black, on white and on the overlay's colors."""


GRID_LOOK: dict[str, Any] = {
    "colormap": GRID_COLORMAP,
    "contrast_limits": (0, 255),
    "blending": "translucent_no_depth",
    "interpolation2d": "linear",
    "opacity": 0.8,
}


def grid_layer(lines: np.ndarray, grid: Grid, **keywords: Any) -> LayerData:
    """The deformed grid as a layer: an image on a grid, or line segments in the grid's world."""
    if lines.ndim == 3 and lines.shape[1] == 2 and lines.dtype == np.float32:
        look = {
            "vector_style": "line",
            "edge_width": float(grid.spacing.min()) * 0.4,
            "edge_color": GRID_COLORMAP.colors[-1],
            "opacity": 0.8,
            "blending": "translucent_no_depth",
            "units": (grid.unit,) * grid.ndim,
            "axis_labels": AXIS_LABELS[-grid.ndim :],
        }
        return lines, {**look, **keywords}, "vectors"
    look = dict(GRID_LOOK)
    if grid.ndim == 3:
        # The lines of all slices would hide everything: the 3D view shows those of the middle slice.
        middle = tuple(n / 2 for n in grid.shape)
        look |= {
            "depiction": "plane",
            "plane": {"position": middle, "normal": (1, 0, 0), "thickness": 1},
            "opacity": 0.6,
        }
    return lines, {**placement(grid), **look, **keywords}, "image"


JACOBIAN_COLORMAP = Colormap(
    [[0.02, 0.19, 0.38], [0.26, 0.58, 0.76], [0.97, 0.97, 0.97], [0.84, 0.38, 0.30], [0.40, 0.0, 0.12]],
    name="stnreg diverging", display_name="blue to red",
)  # fmt: skip


def jacobian_layer(determinant: np.ndarray, grid: Grid) -> LayerData:
    """The Jacobian determinant as a layer, white where volume is kept."""
    reach = float(np.percentile(np.abs(determinant - 1), 99)) if determinant.size else 1.0
    reach = min(max(reach, 0.05), 1.0)
    look = {"colormap": JACOBIAN_COLORMAP, "contrast_limits": (1 - reach, 1 + reach), "visible": False}
    return determinant, {**placement(grid), **look}, "image"


def vectors_layer(transform: Transform, grid: Grid) -> LayerData:
    """Displacement arrows as a layer, colored by their length."""
    drawn = arrows(transform, grid)
    step, length = drawn.step, drawn.length
    longest = float(np.percentile(length, 99)) if length.size else 1.0
    look = {
        "vector_style": "arrow",
        "edge_width": step * (0.12 if grid.ndim == 2 else 0.08),
        "features": {"length": length},
        "edge_color": "length",
        "edge_colormap": "viridis",
        "edge_contrast_limits": (0.0, max(longest, 1e-9)),
        "visible": False,
    }
    return drawn.index, {**placement(grid), **look}, "vectors"


def deformed_grid_layer(transform: Transform, grid: Grid, moving: Grid, *, volume: bool) -> LayerData:
    """The deformed grid as a layer: a net in each slice, or a lattice for the 3D view."""
    if volume:
        return grid_layer(lattice_lines(transform.inverse(), moving), grid.with_unit(transform.unit), visible=True)
    lines, fine = deformed_grid(transform, grid, moving)
    return grid_layer(lines, fine, visible=True)
