"""Layers of the viewer for the transform workbench: supported layers, companions, and grids."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import coordinate_system_of
from napari_stnreg.io.transform_entry import Place, TransformEntry
from napari_stnreg.widgets.common.layer_io import layer_source
from napari_stnreg.widgets.common.result_layers import make_layer
from napari_stnreg.widgets.transforms.apply_layers import LISTS, ApplyResult, same_place

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_stnreg.resampling.geometry import Side

ALSO = {"place": "all in the same place", "linked": "linked layers", "chosen": "selected layers"}
"""Choices of further layers to transform together with one."""


def workable(viewer: Viewer) -> list[Layer]:
    """List the layers that a transform can be applied to."""
    return [layer for layer in viewer.layers if isinstance(layer, (ImageLayer, Labels, *LISTS))]


def companions(layer: Layer, key: str, viewer: Viewer) -> list[Layer]:
    """Return the companions of a layer by a key of :data:`ALSO`; none for another key."""
    layers = workable(viewer)
    if key == "place":
        return same_place(layer, layers)
    if key == "linked":
        linked = linked_layers(layer)
        return [other for other in layers if other in linked and other is not layer]
    if key == "chosen":
        return [other for other in layers if other in viewer.layers.selection and other is not layer]
    return []


def linked_layers(layer: Layer) -> set[Layer]:
    """Return the layers that are linked with one in napari's layer list."""
    # napari has no public function for this; the private module is imported here and nowhere else.
    from napari.layers.utils._link_layers import get_linked_layers

    return set(get_linked_layers(layer))


def voxels_of(layer: Layer, viewer: Viewer) -> Grid:
    """Return the grid of an image or labels layer, at the finest level."""
    return layer_source(layer, viewer, level=0).grid


def fallback_grid(viewer: Viewer, ndim: int, unit: str, first: Any = None) -> Grid | None:
    """Return the grid of an image of the same dimensions, for a transform without a grid of its own.

    Parameters
    ----------
    ndim, unit
        Of the transform.
    first
        A layer that comes before all others.
    """
    candidates = [first] if isinstance(first, Layer) else []
    candidates += [layer for layer in viewer.layers if isinstance(layer, ImageLayer)]
    for layer in candidates:
        try:
            grid = voxels_of(layer, viewer)
            if grid.ndim == ndim:
                return grid.with_unit(unit)
        except InputError:
            continue
    return None


def place_of(layer: Layer | None, viewer: Viewer) -> Place | None:
    """Return the place of a layer, for a file that does not name its images."""
    if layer is None:
        return None
    space = coordinate_system_of(layer.metadata)
    return Place(layer.name, voxels_of(layer, viewer), space, dict(layer.metadata))


def what_apply_does(entry: TransformEntry | None, layer: Layer | None, side: Side) -> str:
    """Describe where a layer would move and by which direction of the transform."""
    if entry is None or layer is None:
        return ""
    here, there = (entry.moving, entry.fixed) if side == "moving" else (entry.fixed, entry.moving)
    if isinstance(layer, LISTS):
        from napari_stnreg.resampling.geometry import GeometryTransformer  # brings torch

        direction = GeometryTransformer(entry.transform, side).direction_text
        return f"'{layer.name}' goes from '{here}' to '{there}'. {direction}"
    by = "the transform" if side == "moving" else "the inverse of the transform"
    how = "its nearest label" if isinstance(layer, Labels) else "its values"
    return f"'{layer.name}' goes from '{here}' to '{there}': each new voxel looks up {how} through {by}."


def with_layers(task: Callable[..., Generator[Any, None, Any]]) -> Callable[..., Generator[Any, None, Any]]:
    """Wrap a task so that its layers are created in the worker, since contrast limits and thumbnails take time."""

    def run(*arguments: Any) -> Generator[Any, None, Any]:
        outcome = yield from task(*arguments)
        if outcome is None:
            return None
        data = outcome.layers if isinstance(outcome, ApplyResult) else outcome
        return outcome, [make_layer(one) for one in data]

    return run
