"""Triangle meshes dropped on the viewer, as Surface layers in the world of the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image, Labels

from napari_stnreg.core.errors import announce
from napari_stnreg.core.grid import CoordinateSystem, Grid
from napari_stnreg.core.image import coordinate_system_of
from napari_stnreg.io.napari_layers import AXIS_LABELS, LayerData
from napari_stnreg.io.surfaces import has_scanner_coordinates, holds_surface, read_surface


@dataclass(frozen=True)
class _World:
    """The world in which a mesh is read."""

    grid: Grid
    coordinate_system: CoordinateSystem


def napari_surface_reader(path: Any) -> Callable[[Any], list[LayerData]] | None:
    """Say whether these files hold triangle meshes, by returning the function that opens them.

    Files with the same extensions that hold something else are left to other readers.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    return _open if paths and all(holds_surface(Path(one)) for one in paths) else None


def _open(path: Any) -> list[LayerData]:
    paths = [path] if isinstance(path, str | Path) else list(path)
    return [_surface_layer(Path(one)) for one in paths]


def _surface_layer(path: Path) -> LayerData:
    world = _world_of(path)
    surface = read_surface(path, world)
    keywords = {
        "name": path.name,
        "units": (world.grid.unit,) * 3,
        "axis_labels": AXIS_LABELS[-3:],
        "shading": "smooth",
    }
    return (surface.vertices, surface.triangles), keywords, "surface"


def _world_of(path: Path) -> _World:
    """Return the world of the volume that is shown, where the file leaves it open."""
    layer = _shown_volume()
    system = "world" if layer is None else coordinate_system_of(layer.metadata)
    unit = "pixel" if layer is None else str(layer.units[-1])
    if has_scanner_coordinates(path):
        system, unit = "scanner", unit if system == "scanner" else "mm"
    elif system == "world":
        announce(f"'{path.name}' does not state its coordinates. They are read as x, y, z in {unit}, without a flip.")
    return _World(Grid.from_spacing((1, 1, 1), unit=unit), system)


def _shown_volume() -> Image | Labels | None:
    """Return the active volume of the viewer, else the topmost one."""
    viewer = napari.current_viewer()
    if viewer is None:
        return None
    layers = [layer for layer in viewer.layers if isinstance(layer, Image | Labels) and layer.ndim >= 3]
    active = viewer.layers.selection.active
    return active if active in layers else layers[-1] if layers else None
