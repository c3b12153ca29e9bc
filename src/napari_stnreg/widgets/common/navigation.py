"""Move the viewer to a point of a layer with any scale, unit, and number of axes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer

if TYPE_CHECKING:
    from napari.viewer import Viewer


def world_point(layer: Layer, index: Any, viewer: Viewer) -> np.ndarray:
    """Return the viewer's world position ``(layer.ndim,)`` of a layer's data coordinates."""
    world = np.array(layer.data_to_world(np.asarray(index, dtype=float)), dtype=float)
    units = getattr(viewer.layers.extent, "units", None)
    if units is not None:
        # The sliders and the camera count in the viewer's units, the layer's matrix in its own.
        for axis, (seen, own) in enumerate(zip(units[-layer.ndim :], layer.units, strict=False)):
            with contextlib.suppress(Exception):  # mixed units: napari drops them for the whole viewer too
                world[axis] *= (1 * own).to(seen).magnitude
    return world


def center_on(viewer: Viewer, layer: Layer, index: Any) -> None:
    """Show a point of a layer: its slice, in 2D, and the camera on it, in 2D and 3D; the zoom stays."""
    point = world_point(layer, index, viewer)
    ndim = viewer.dims.ndim
    first = ndim - len(point)  # a layer's axes are the viewer's last ones
    displayed = viewer.dims.displayed
    for axis, value in enumerate(point, start=first):
        if axis >= 0 and axis not in displayed:
            viewer.dims.set_point(axis, value)
    center = np.array(viewer.scene.camera.center, dtype=float)
    for place, axis in enumerate(displayed, start=3 - len(displayed)):
        if axis >= first:
            center[place] = point[axis - first]
    viewer.scene.camera.center = tuple(center)
