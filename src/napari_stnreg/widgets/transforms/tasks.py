"""Tasks of the transform workbench: show, invert, load and save a transform."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.io.napari_layers import LayerData, placement
from napari_stnreg.io.transform_entry import Place, TransformEntry, read_entry, side_grid, write_entry
from napari_stnreg.visualization.layers import (
    DIVERGING_COLORMAP,
    deformed_grid_layer,
    folding_text,
    jacobian_layer,
    vectors_layer,
)
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress

if TYPE_CHECKING:
    from napari_stnreg.transforms.inverse import Inversion

PICTURES = {
    "grid": ("Grid", "A regular grid over the moving image, deformed like the image."),
    "vectors": ("Vectors", "Arrows from points of the fixed image to where their values come from."),
    "magnitude": ("Magnitude", "How far each point of the fixed image is from where its value comes from."),
    "jacobian": ("Jacobian", "Local change of volume: 1 keeps it, 0 or less folds."),
    "log_jacobian": ("Log-Jacobian", "Logarithm of the change of volume: 0 keeps it. Folds are empty."),
}
"""Views of a transform: text and tooltip of the button."""


def show(
    entry: TransformEntry, what: str, fallback: Grid | None, volume: bool, control: TaskControl
) -> Generator[TaskProgress, None, list[LayerData] | None]:
    """Return a view of a transform as a layer; ``volume`` is whether the viewer shows three dimensions."""
    from napari_stnreg.visualization import deformation

    yield TaskProgress(0.1, f"{PICTURES[what][0]} of {entry.name}")
    transform = entry.transform
    grid = side_grid(entry, "fixed", fallback)
    name = f"{entry.name}: {PICTURES[what][0].lower()}"
    if what == "grid":
        made = deformed_grid_layer(
            transform, grid, side_grid(entry, "moving", fallback), volume=volume and grid.ndim == 3
        )
    elif what == "vectors":
        made = vectors_layer(transform, grid)
    elif what == "jacobian":
        from napari_stnreg.ops.jacobian import folding_fraction

        determinant = deformation.jacobian(transform, grid)
        name += f", {folding_text(folding_fraction(determinant))}"
        made = jacobian_layer(determinant, grid)
    elif what == "log_jacobian":
        values = deformation.log_jacobian(transform, grid)
        reach = float(np.nanpercentile(np.abs(values), 99)) if np.isfinite(values).any() else 1.0
        reach = max(reach, 0.05)
        made = values, {**placement(grid), "colormap": DIVERGING_COLORMAP, "contrast_limits": (-reach, reach)}, "image"
    else:
        values = deformation.magnitude(transform, grid)
        top = max(float(values.max(initial=0.0)), 1e-9)
        made = values, {**placement(grid), "colormap": "viridis", "contrast_limits": (0.0, top)}, "image"
    if control.cancel.is_set():
        return None
    data, keywords, kind = made
    keywords = {**keywords, "name": name, "visible": True, "metadata": {"stnreg": entry.record(what)}}
    return [(data, keywords, kind)]


@dataclass(frozen=True)
class Inverted:
    """The inverse with its round-trip error."""

    entry: TransformEntry
    inversion: Inversion


def inverse(
    entry: TransformEntry, fallback: Grid | None, control: TaskControl
) -> Generator[TaskProgress, None, Inverted | None]:
    """Invert a transform and report the round-trip error over the moving side."""
    from napari_stnreg.transforms.inverse import invert

    yield TaskProgress(0.1, f"Inverting {entry.name}")
    inversion = invert(entry.transform, side_grid(entry, "moving", fallback))
    if control.cancel.is_set():
        return None
    back = TransformEntry.of(
        inversion.transform,
        entry.moving,
        entry.fixed,
        f"inverse of {entry.family}" if not entry.family.startswith("inverse of ") else entry.family[11:],
        source="made",
        grid=entry.moving_grid,
        moving_grid=entry.grid,
    )
    return Inverted(back, inversion)


def load_file(
    path: str, fixed: Place | None, moving: Place | None, control: TaskControl
) -> Generator[TaskProgress, None, TransformEntry | None]:
    """Read a transform from a file of any format we know."""
    yield TaskProgress(0.1, f"Reading {Path(path).name}")
    entry = read_entry(path, fixed, moving)
    return None if control.cancel.is_set() else entry


def save_file(entry: TransformEntry, path: str, control: TaskControl) -> Generator[TaskProgress, None, str | None]:
    """Write a transform in the format that the file's ending names."""
    yield TaskProgress(0.1, f"Writing {Path(path).name}")
    return str(write_entry(entry, path))
